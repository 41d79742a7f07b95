//! The job queue: the contract of its engines, the workers and the handlers.

pub mod bounds;
pub mod engine;
pub mod handler;
pub mod job;
pub mod ledger;
mod ledger_metrics;
pub mod leftovers;
mod metrics;
#[cfg(feature = "openapi")]
mod openapi;
mod storage;
pub mod workers;

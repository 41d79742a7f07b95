//! Roll a pod without losing one request or one job.
#![forbid(unsafe_code)]

#[cfg(feature = "jobs")]
pub mod jobs;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod lifecycle;

pub use lifecycle::{Drain, DrainReport, Error, Lifecycle, Moment};

//! One binary for all integration tests: one link, and helpers that are shared.

mod contract;
mod engine_contract;
mod exec_handler;

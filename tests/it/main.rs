//! Everything that is tested from outside, in one binary, because linking is what costs.

#[cfg(feature = "sqlite")]
mod engine_contract;
mod exec_handler;

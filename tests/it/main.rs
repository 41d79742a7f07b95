//! One binary for all integration tests: one link, one runtime of helpers.

mod contract;

//! The program as it is shipped: the real binary, real signals, a real database, handlers that are commands.
//!
//! What a job did is not taken from the program's word alone: handlers keep a ledger of their own, outside
//! of it, and whoever was started is looked for in `/proc`.

mod behind;
mod chaos;
mod clocks;
mod configuration;
mod database;
mod deadlines;
mod disk;
mod drain;
mod faces;
mod handover;
pub mod harness;
mod init;
mod interface;
mod ledger;
mod leftovers;
mod metrics;
mod outage;
mod restarts;
mod rolling;
mod secrets;
mod shortage;
mod starting;
mod story;
mod terminal;
mod told_at_once;

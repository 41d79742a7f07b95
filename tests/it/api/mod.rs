//! The HTTP API: the real router on the real server and a real socket, over a real database.
//!
//! Nobody works on the jobs here: stories reserve and settle them by hand, so that each is in the state that
//! its story needs.

mod access;
mod batch;
mod codings;
mod crowd;
mod limits;
mod lists;
mod openapi;
mod orders;
mod outcome;
mod stage;
mod submit;
mod waiting;

pub use codings::gzipped;

//! Commands that change jobs, a file for each verb.

mod ends;
mod housekeeping;
mod orders;
mod reserve;
mod settle;
mod submit;

pub(super) use ends::{charge_crashes, release_held, take_from_the_dead};
pub(super) use housekeeping::maintain;
pub(super) use orders::{cancel, cancel_dead, revive, revive_all, runs_alone, set_paused};
pub(super) use reserve::reserve;
pub(super) use settle::settle;
pub(super) use submit::{Room, submit};

/// Returns a queue's number; creates the queue if it is new.
fn queue_number(
    connection: &rusqlite::Connection,
    name: &lameduck_jobs::job::QueueName,
) -> rusqlite::Result<i64> {
    use rusqlite::OptionalExtension;
    let mut find = connection.prepare_cached("SELECT id FROM queues WHERE name = ?1")?;
    if let Some(id) = find.query_row([name.as_str()], |r| r.get(0)).optional()? {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO queues (name) VALUES (?1)")?
        .insert([name.as_str()])
}

#[cfg(test)]
pub(super) mod plans;

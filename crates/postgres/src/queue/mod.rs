//! What changes jobs, a file for each verb.

mod ends;
mod housekeeping;
mod orders;
mod reserve;
mod settle;
mod submit;

pub(super) use ends::{GiveBack, Reap, Reaped, ReleaseHeld, Why};
pub(super) use housekeeping::Maintain;
pub(super) use orders::{Cancel, CancelDead, Revive, ReviveAll, RunsAlone, SetPaused};
pub(super) use reserve::{MOST, Reserve};
pub(super) use settle::{One, Settle};
pub(super) use submit::{Room, Submit};

use super::{
    convert::params,
    session::{Failure, Turn},
};
use lameduck_jobs::job::QueueName;

/// Makes those queues that are new.
async fn make_queues(turn: &Turn, names: &[&str]) -> Result<(), Failure> {
    // In an order, so that two who make the same ones do not wait for each other.
    let make = "
        INSERT INTO lameduck.queues (name)
        SELECT name FROM unnest($1) AS asked (name)
        WHERE NOT EXISTS (SELECT FROM lameduck.queues q WHERE q.name = asked.name)
        ORDER BY name ON CONFLICT DO NOTHING";
    turn.execute(make, params![names => TEXT_ARRAY])
        .await
        .map(drop)
}

/// A queue's number; made where it is new.
async fn queue_number(turn: &Turn, name: &QueueName) -> Result<i32, Failure> {
    let find = "SELECT id FROM lameduck.queues WHERE name = $1";
    for _ in 0..2 {
        let found = turn.find(find, params![name.as_str() => TEXT]).await?;
        if let Some(row) = found {
            return Ok(row.try_get(0)?);
        }
        make_queues(turn, &[name.as_str()]).await?;
    }
    Err(Failure::Raced)
}

#[cfg(test)]
pub(super) mod statements {
    //! What the plans are tested of.
    pub(crate) use super::{
        ends::{FREE, RELEASE_HELD},
        housekeeping::{EXPIRE, FOLD_COUNTS, FORGET_KEYS, PRUNE},
        orders::{CANCEL_DEAD, REVIVE_ALL},
        reserve::RESERVE,
        settle::{SETTLE, WERE_SETTLED},
    };
}

//! Commands that change jobs, a file for each verb.

mod ends;
mod housekeeping;
mod orders;
mod reserve;
mod settle;
mod submit;

pub(super) use ends::{GiveBack, Reap, Reaped, ReleaseHeld, Released, Why};
pub(super) use housekeeping::{Maintain, PruneLedger};
pub(super) use orders::{Cancel, CancelDead, Revive, ReviveAll, RunsAlone, SetPaused};
pub(super) use reserve::{MOST, Reserve};
pub(super) use settle::{One, Settle, Written};
pub(super) use submit::{Room, Submit};

use super::{
    convert::params,
    session::{Failure, Turn},
};
use lameduck_jobs::job::QueueName;

/// Creates the queues that are new. Returns those that somebody else is creating in a transaction which has not ended.
async fn make_queues(turn: &Turn, names: &[&str]) -> Result<Vec<String>, Failure> {
    let make = "SELECT lameduck.make_queues($1)";
    let made = turn.find(make, params![names => TEXT_ARRAY]).await?;
    made.map_or(Ok(Vec::new()), |row| Ok(row.try_get(0)?))
}

/// Creates a queue before anybody needs it: otherwise the first submission to it, in a transaction that stays
/// open, would hold up all later ones.
pub(super) struct MakeQueue(pub QueueName);

impl super::session::Command for MakeQueue {
    type Answer = ();

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        queue_number(turn, &self.0).await.map(drop)
    }
}

/// Returns a queue's number; creates the queue if it is new.
async fn queue_number(turn: &Turn, name: &QueueName) -> Result<i32, Failure> {
    let find = "SELECT id FROM lameduck.queues WHERE name = $1";
    for _ in 0..2 {
        let found = turn.find(find, params![name.as_str() => TEXT]).await?;
        if let Some(row) = found {
            return Ok(row.try_get(0)?);
        }
        if !make_queues(turn, &[name.as_str()]).await?.is_empty() {
            return Err(Failure::NewQueue(name.clone()));
        }
    }
    Err(Failure::Raced)
}

#[cfg(test)]
pub(super) mod statements {
    //! The statements whose plans are tested.
    pub(crate) use super::{
        ends::{FREE, FREE_TO_TAKE, RELEASE_HELD},
        housekeeping::{EXPIRE, FOLD_COUNTS, FORGET_KEYS, PRUNE},
        orders::{CANCEL_DEAD, REVIVE_ALL},
        reserve::RESERVE,
        settle::{SETTLE, WERE_SETTLED},
    };
}

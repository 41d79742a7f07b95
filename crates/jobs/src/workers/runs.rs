//! The runs of this process, and how each is told to end before its time.
//!
//! They are known by their claims and not by their jobs. A process that stood still for longer than its lease has lost
//! its jobs, and when it goes on it may reserve one of them beside its own old run: two runs of one job, of which only
//! the newer one owns it. Whatever is said to one of them, or comes of it, must not be taken for the other.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::Engine,
    job::{Claim, JobId, ProcessId},
};
use lameduck_lifecycle::JobGuard;

/// All runs of this process, from their reservation until their outcome is durable.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<HashMap<[u8; 16], Arc<Run>>>);

/// One of them. Dropped, it is not known any more.
#[derive(Debug)]
#[must_use = "the run can be told to end as long as this lives"]
pub(super) struct Running<'a> {
    runs: &'a Runs,
    claim: [u8; 16],
    run: Arc<Run>,
}

#[derive(Debug)]
struct Run {
    job: JobId,
    /// Which process run the job belongs to.
    process: ProcessId,
    asked: CancellationToken,
    begun: AtomicBool,
    hold: JobGuard,
}

// === impl Runs ===

impl Runs {
    /// A run of this process run's, which holds its job by this guard.
    pub(super) fn add(&self, claim: &Claim, process: ProcessId, hold: JobGuard) -> Running<'_> {
        let (job, token) = (claim.job(), *claim.token());
        let run = Arc::new(Run {
            job,
            process,
            asked: CancellationToken::new(),
            begun: AtomicBool::new(false),
            hold,
        });
        let mut runs = self.lock();
        // Somebody has lost the job, or it could not have been reserved again.
        runs.values()
            .filter(|other| other.job == job && other.process != process)
            .for_each(|lost| lost.lose());
        runs.insert(token, run.clone());
        Running {
            runs: self,
            claim: token,
            run,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How many handlers are at work.
    pub(super) fn begun(&self) -> usize {
        let runs = self.lock();
        let begun = runs
            .values()
            .filter(|run| run.begun.load(Ordering::Relaxed));
        begun.count()
    }

    /// Somebody wants this job to end.
    pub(super) fn cancel(&self, job: JobId) {
        let runs = self.lock();
        let of_the_job = runs.values().filter(|run| run.job == job);
        of_the_job.for_each(|run| run.asked.cancel());
    }

    /// This process is another one by now. What it ran before runs elsewhere, or soon: its outcome would be dropped,
    /// and each second more is one in which the work is done twice.
    pub(super) fn give_up_those_of_others_than(&self, process: ProcessId) {
        let runs = self.lock();
        let lost = runs.values().filter(|run| run.process != process);
        lost.for_each(|run| run.lose());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 16], Arc<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Running ===

impl Running<'_> {
    /// The handler is called. Returns by what it learns that somebody wants the job to end.
    pub(super) fn begins(&self) -> &CancellationToken {
        self.run.begun.store(true, Ordering::Relaxed);
        self.asked()
    }

    /// Somebody wants the job to end.
    pub(super) fn asked(&self) -> &CancellationToken {
        &self.run.asked
    }

    /// How the job is held.
    pub(super) fn hold(&self) -> &JobGuard {
        &self.run.hold
    }

    /// The job belongs to somebody else: this process is not the one any more that reserved it.
    pub(super) fn is_lost(&self, engine: &dyn Engine) -> bool {
        self.run.process != engine.process()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.runs.lock().remove(&self.claim);
    }
}

// === impl Run ===

impl Run {
    fn lose(&self) {
        self.hold.disowned();
        if !self.asked.is_cancelled() {
            tracing::warn!(job = %self.job, "told to stop: the job belongs to somebody else by now");
            self.asked.cancel();
        }
    }
}

//! The runs of this process, and how each is told to end early.
//!
//! They are identified by their claims and not by their jobs. A process that stood still for longer than its lease has
//! lost its jobs, and when it goes on it may reserve one of them beside its own old run: two runs of one job, of which
//! only the newer one owns it. A signal to one of them, or its outcome, must not be taken for the other's.

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

/// A run among those of this process. Dropping this removes the run from them.
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
    /// The process run that the job belongs to.
    process: ProcessId,
    asked: CancellationToken,
    begun: AtomicBool,
    hold: JobGuard,
}

// === impl Runs ===

impl Runs {
    /// Adds a run that belongs to this process run, and holds its job by this guard.
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
        // Another run has lost the job, or else the job could not have been reserved again.
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

    /// Returns how many handlers are at work.
    pub(super) fn begun(&self) -> usize {
        let runs = self.lock();
        let begun = runs
            .values()
            .filter(|run| run.begun.load(Ordering::Relaxed));
        begun.count()
    }

    /// Tells the runs of this job to end.
    pub(super) fn cancel(&self, job: JobId) {
        let runs = self.lock();
        let of_the_job = runs.values().filter(|run| run.job == job);
        of_the_job.for_each(|run| run.asked.cancel());
    }

    /// Gives up all runs of former process runs. Their jobs run elsewhere, or soon will: their outcomes would be
    /// dropped, and in each further second the work is done twice.
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
    /// Records that the handler is called. Returns the token by which it learns that the job has to end.
    pub(super) fn begins(&self) -> &CancellationToken {
        self.run.begun.store(true, Ordering::Relaxed);
        self.asked()
    }

    /// Returns the token that is cancelled when the job has to end.
    pub(super) fn asked(&self) -> &CancellationToken {
        &self.run.asked
    }

    /// The guard that holds the job.
    pub(super) fn hold(&self) -> &JobGuard {
        &self.run.hold
    }

    /// Whether the job belongs to somebody else, because the process run that reserved it was taken for dead.
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

//! The readiness that `/readyz` reports, and the reasons for it.
//!
//! ```text
//!   started ────────────────┐
//!   no drain has failed it ─┼─ all of them ──▶ ready
//!   every room's check ─────┘
//! ```
//!
//! A check that fails may pass again, for example when storage comes back. Readiness that was failed by a drain
//! does not come back in this process, whatever the checks say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::drain::lock;

/// The readiness of a process, apart from whether it has started.
#[derive(Clone, Debug)]
pub(super) struct Readiness(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Whether no drain has failed readiness. Once false it stays false.
    undrained: watch::Sender<bool>,
    ready: watch::Sender<bool>,
    checks: Mutex<Checks>,
}

#[derive(Debug, Default)]
struct Checks {
    next: u64,
    /// The checks, in the order of registration.
    registered: BTreeMap<u64, CheckResult>,
}

/// A room's readiness check. It passes until the room fails it, and counts while this lives.
///
/// ```
/// # fn example(drain: lameduck_lifecycle::Drain) {
/// let storage = drain.readiness_check("storage");
/// storage.fail("the database does not answer"); // /readyz fails
/// storage.pass(); // and succeeds again, unless a drain has failed it
/// # }
/// ```
// Not `Clone`: two owners with different results would overwrite each other. Each registers its own.
#[derive(Debug)]
#[must_use = "the check counts while this lives"]
pub struct Check {
    readiness: Readiness,
    number: u64,
    name: String,
}

/// The current result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckResult {
    /// The name of the check.
    pub name: String,
    /// The reason why it fails; none if it passes.
    pub failed: Option<String>,
    /// A remark that is worth knowing although it passes.
    pub note: Option<String>,
}

// === impl Readiness ===

impl Readiness {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            undrained: watch::Sender::new(true),
            ready: watch::Sender::new(true),
            checks: Mutex::default(),
        }))
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    pub(super) fn is_failed_by_drain(&self) -> bool {
        !*self.0.undrained.borrow()
    }

    pub(super) fn changes(&self) -> watch::Receiver<bool> {
        self.0.ready.subscribe()
    }

    pub(super) async fn failed_by_drain(&self) {
        // The sender lives as long as this handle.
        let _ = self.0.undrained.subscribe().wait_for(|it| !it).await;
    }

    pub(super) fn fail_by_drain(&self) {
        let checks = lock(&self.0.checks);
        self.0.undrained.send_replace(false);
        self.judge(&checks);
    }

    pub(super) fn check(&self, name: &str) -> Check {
        let mut checks = lock(&self.0.checks);
        let number = checks.next;
        checks.next += 1;
        checks
            .registered
            .insert(number, CheckResult::new(name, None));
        Check {
            readiness: self.clone(),
            number,
            name: name.to_owned(),
        }
    }

    pub(super) fn results(&self) -> Vec<CheckResult> {
        lock(&self.0.checks).registered.values().cloned().collect()
    }

    /// Recomputes readiness. The caller holds the lock, so that the latest result is the one that stays.
    fn judge(&self, checks: &Checks) {
        let passing = checks
            .registered
            .values()
            .all(|check| check.failed.is_none());
        let ready = passing && *self.0.undrained.borrow();
        self.0
            .ready
            .send_if_modified(|was| std::mem::replace(was, ready) != ready);
    }
}

// === impl Check ===

impl Check {
    /// Returns the name that `/readyz?verbose` shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fails the check: the process is not ready, for this reason, which people read in `/readyz`.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.say(Some(reason.clone())).is_none() {
            tracing::warn!(check = self.name, reason, "a readiness check fails");
        }
    }

    /// Passes the check: as far as this room is concerned, the process is ready.
    pub fn pass(&self) {
        if self.say(None).is_some() {
            tracing::info!(check = self.name, "the readiness check passes again");
        }
    }

    /// Adds a remark for people who look at the check, without failing it.
    pub fn note(&self, note: impl Into<String>) {
        let mut checks = lock(&self.readiness.0.checks);
        if let Some(result) = checks.registered.get_mut(&self.number) {
            result.note = Some(note.into());
        }
    }

    /// Sets the result and returns the previous one.
    fn say(&self, failed: Option<String>) -> Option<String> {
        let mut checks = lock(&self.readiness.0.checks);
        let result = checks.registered.get_mut(&self.number)?;
        let before = std::mem::replace(&mut result.failed, failed);
        self.readiness.judge(&checks);
        before
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        let mut checks = lock(&self.readiness.0.checks);
        checks.registered.remove(&self.number);
        self.readiness.judge(&checks);
    }
}

// === impl CheckResult ===

impl CheckResult {
    /// Returns the result of a check that never fails.
    pub fn passing(name: &str) -> Self {
        Self::new(name, None)
    }

    pub(super) fn new(name: &str, failed: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            failed,
            note: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Lifecycle, Phase, Signals};

    #[tokio::test(start_paused = true)]
    async fn readiness_follows_a_check_until_a_drain_fails_it_for_good() {
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder().signals(signals);
        let drain = lifecycle.drain().clone();
        let storage = drain.readiness_check("storage");
        let work = drain.work("resize").hold();
        assert!(!drain.is_ready(), "it has not started");
        let run = tokio::spawn(lifecycle.run());
        let mut phases = drain.phase_changes();
        let serving = |all: &Vec<(Phase, _)>| all.iter().any(|(phase, _)| *phase == Phase::Serving);
        phases.wait_for(serving).await.unwrap();
        assert!(drain.is_ready());

        storage.fail("no answer");
        assert!(!drain.is_ready());
        assert_eq!(
            drain.readiness_checks()[2].failed.as_deref(),
            Some("no answer")
        );
        storage.pass();
        assert!(drain.is_ready());

        storage.fail("no answer");
        trigger.fire();
        drain.readiness_failed().await;
        storage.pass();
        assert!(
            !drain.is_ready(),
            "failed by a drain, it does not come back"
        );
        drop(work);
        run.await.unwrap().unwrap();
        assert!(!drain.is_ready());
    }

    #[test]
    fn a_check_has_no_word_in_another_one_of_its_name_and_none_once_it_is_gone() {
        let drain = Lifecycle::builder().drain().clone();
        let (one, other) = (
            drain.readiness_check("queue"),
            drain.readiness_check("queue"),
        );
        let changes = drain.readiness_changes();

        one.fail("full");
        other.pass();
        assert!(!*changes.borrow());

        drop(one);
        assert!(*changes.borrow());
        assert_eq!(drain.readiness_checks().len(), 3);
    }
}

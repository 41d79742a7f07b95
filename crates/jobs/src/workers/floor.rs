//! Exclusive runs: jobs run together, or a suspect runs alone.
//!
//! ```text
//!   open ── a suspect wants to run ──▶ closed: nothing is reserved ── the others have ended ──▶ it runs alone ─┐
//!    ▲ ▲                                 │                                                                    │
//!    │ └── three times as long ◀─────────┘ patience is over: the others go on for a while                    │
//!    └────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A suspect waits for the running jobs to end, and nothing is reserved meanwhile, so that no worker holds a job that
//! waits. But if one of them runs for an hour, all the other workers would be idle for as long. So the suspect waits
//! for 15 seconds at first and then lets the others go on for three times as long as it has waited; the next time it
//! waits twice as long. Workers are kept from their work for at most a quarter of the time, and a suspect runs
//! eventually, whatever timeouts the others have.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch},
    time::{Instant, sleep, timeout},
};

/// Length of the first wait for the others: most jobs have ended by then.
const FIRST: Duration = Duration::from_secs(15);

/// How long a suspect waits before the log says so.
const SILENCE: Duration = Duration::from_secs(5);

/// Ratio of the time for which the others go on to the wait before it.
const SHARE: u32 = 3;

/// The lock, shared by all pools of a process, under which jobs run together or a suspect runs alone.
#[derive(Debug)]
pub(super) struct Floor {
    /// Held by every run: shared as a rule, exclusively by a suspect.
    runs: Arc<RwLock<()>>,
    /// Admits the suspects that want to run one by one.
    next: Mutex<()>,
    closed: watch::Sender<bool>,
}

/// The permission to run beside others. Dropped when the run has ended.
#[derive(Debug)]
pub(super) struct Together {
    _run: OwnedRwLockReadGuard<()>,
}

/// The permission to run alone. Dropped when the run has ended.
#[derive(Debug)]
pub(super) struct Alone<'a> {
    // Dropped in this order: once the floor is open, `join` must succeed.
    _run: OwnedRwLockWriteGuard<()>,
    _closed: Closed<'a>,
    _next: tokio::sync::MutexGuard<'a, ()>,
}

#[derive(Debug)]
struct Closed<'a>(&'a Floor);

// === impl Floor ===

impl Floor {
    pub(super) fn new() -> Self {
        Self {
            runs: Arc::default(),
            next: Mutex::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// Returns when jobs may be reserved, because no suspect runs or waits for the others.
    pub(super) async fn opened(&self) {
        // This can't fail: the sender lives as long as `self`.
        let _ = self.closed.subscribe().wait_for(|closed| !closed).await;
    }

    /// Returns the permission to run beside others; `None` if a suspect runs or waits, and no other may begin.
    pub(super) fn join(&self) -> Option<Together> {
        if *self.closed.borrow() {
            return None;
        }
        let run = self.runs.clone().try_read_owned().ok()?;
        Some(Together { _run: run })
    }

    /// Waits for the permission to run a suspect alone. Calls `tell` with the time waited, after a while and whenever
    /// it lets the others go on, and then with the length of that pause.
    pub(super) async fn alone(&self, tell: impl Fn(Waits)) -> Alone<'_> {
        let asked = Instant::now();
        let next = self.next.lock().await;
        let mut patience = FIRST;
        loop {
            let closed = self.close();
            if let Some(run) = self.others_end(patience, asked, &tell).await {
                return Alone {
                    _run: run,
                    _closed: closed,
                    _next: next,
                };
            }
            drop(closed);
            let pause = patience * SHARE;
            tell(Waits {
                waited: asked.elapsed(),
                others_go_on: Some(pause),
            });
            sleep(pause).await;
            patience = patience.saturating_mul(2);
        }
    }

    async fn others_end(
        &self,
        patience: Duration,
        asked: Instant,
        tell: &impl Fn(Waits),
    ) -> Option<OwnedRwLockWriteGuard<()>> {
        let mut run = std::pin::pin!(self.runs.clone().write_owned());
        if let Ok(run) = timeout(SILENCE, &mut run).await {
            return Some(run);
        }
        tell(Waits {
            waited: asked.elapsed(),
            others_go_on: None,
        });
        timeout(patience.saturating_sub(SILENCE), run).await.ok()
    }

    fn close(&self) -> Closed<'_> {
        self.closed.send_replace(true);
        Closed(self)
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.send_replace(false);
    }
}

/// The progress of a suspect's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    /// How long it has waited.
    pub(super) waited: Duration,
    /// How long the others go on before it tries again; `None` while they do not.
    pub(super) others_go_on: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn floor() -> Arc<Floor> {
        Arc::new(Floor::new())
    }

    async fn is_open(floor: &Floor) -> bool {
        timeout(Duration::ZERO, floor.opened()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_waits_for_those_who_run_and_nobody_begins_meanwhile() {
        let floor = floor();
        let running = floor.join().unwrap();
        let alone = floor.alone(|_| {});
        let mut alone = std::pin::pin!(alone);

        assert!(timeout(seconds(1), &mut alone).await.is_err());
        assert!(!is_open(&floor).await);
        assert!(floor.join().is_none());
        drop(running);
        let alone = timeout(seconds(1), alone).await.unwrap();
        assert!(floor.join().is_none());
        drop(alone);

        assert!(is_open(&floor).await);
        assert!(floor.join().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_long_run_the_others_go_on_for_three_quarters_of_the_time_and_it_is_told() {
        let floor = floor();
        let running = floor.join().unwrap();
        let told = std::sync::Mutex::new(Vec::new());
        let alone = floor.alone(|waits| told.lock().unwrap().push(waits));
        let mut alone = std::pin::pin!(alone);

        let (mut open, mut closed) = (0, 0);
        for _ in 0..3600 {
            assert!(timeout(seconds(1), &mut alone).await.is_err());
            match floor.join() {
                Some(_beside) => open += 1,
                None => closed += 1,
            }
        }
        assert!(open > 2 * closed, "{open} s open, {closed} s closed");
        assert!(closed > 600, "{closed}");
        drop(running);
        timeout(seconds(3600), alone).await.unwrap();

        let told = told.lock().unwrap();
        assert_eq!(told[0].waited, SILENCE);
        assert_eq!(
            (told[1].waited, told[1].others_go_on),
            (FIRST, Some(seconds(45)))
        );
        assert!(told.len() < 20, "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn several_suspects_run_one_after_the_other() {
        let floor = floor();
        let mut running = Vec::new();
        for _ in 0..3 {
            let floor = floor.clone();
            running.push(tokio::spawn(async move {
                let alone = floor.alone(|_| {}).await;
                assert!(floor.join().is_none());
                sleep(seconds(100)).await;
                drop(alone);
            }));
        }
        let begin = Instant::now();
        for run in running {
            run.await.unwrap();
        }
        assert_eq!(begin.elapsed(), seconds(300));
        assert!(is_open(&floor).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_that_gives_up_leaves_the_floor_open() {
        let floor = floor();
        let running = floor.join().unwrap();
        assert!(timeout(seconds(3), floor.alone(|_| {})).await.is_err());
        assert!(is_open(&floor).await);
        assert!(floor.join().is_some());
        drop(running);
    }
}

//! Random histories, compared with the simplest queue that could be right.

use std::collections::BTreeMap;

use lameduck::jobs::job::{Cancelled, QueueStats, Rejected, Revived, Submitted};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

use super::*;

const QUEUES: [&str; 2] = ["bulk", "mail"];

/// One thing that somebody does.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        queue: usize,
        key: Option<u8>,
        payload: u8,
        delay: u64,
        priority: i64,
    },
    Reserve {
        queue: usize,
        order: Order,
        limit: usize,
    },
    /// Settles one of the claims that were ever handed out and not used: current, released, or lost in a
    /// restart.
    Settle(Index, End),
    /// Writes an old settlement again.
    Repeat(Index),
    ReleaseHeld(u64),
    Cancel(Index),
    Revive(Index),
    CancelDead {
        queue: usize,
    },
    ReviveAll {
        queue: usize,
    },
    Pause {
        queue: usize,
        paused: bool,
    },
    Maintain,
    Wait(u64),
    Restart {
        kill: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum End {
    Complete,
    Retry(u64),
    Die,
    Release,
    Postpone(u64),
    Defer(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        3 => Just(End::Complete),
        2 => (0..3u64).prop_map(End::Retry),
        1 => Just(End::Die),
        1 => Just(End::Release),
        1 => (0..3u64).prop_map(End::Postpone),
        2 => (0..3u64).prop_map(End::Defer),
    ];
    let order = prop_oneof![Just(Order::Priority), Just(Order::RunAt)];
    let key = proptest::option::weighted(0.3, 0..2u8);
    prop_oneof![
        5 => (0..2usize, key, 0..2u8, 0..3u64, -1..2i64).prop_map(
            |(queue, key, payload, delay, priority)| {
                Step::Submit { queue, key, payload, delay, priority }
            }
        ),
        5 => (0..2usize, order, 0..4usize).prop_map(|(queue, order, limit)| {
            Step::Reserve { queue, order, limit }
        }),
        6 => (any::<Index>(), end).prop_map(|(which, end)| Step::Settle(which, end)),
        2 => any::<Index>().prop_map(Step::Repeat),
        1 => (0..3u64).prop_map(Step::ReleaseHeld),
        1 => any::<Index>().prop_map(Step::Cancel),
        1 => any::<Index>().prop_map(Step::Revive),
        1 => (0..2usize).prop_map(|queue| Step::ReviveAll { queue }),
        1 => (0..2usize).prop_map(|queue| Step::CancelDead { queue }),
        1 => (0..2usize, any::<bool>()).prop_map(|(queue, paused)| Step::Pause { queue, paused }),
        1 => Just(Step::Maintain),
        2 => (1..3u64).prop_map(Step::Wait),
        1 => (50..70u64).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(|kill| Step::Restart { kill }),
    ]
}

// === the model ===

#[derive(Default)]
struct Model {
    /// In the order of submission.
    jobs: Vec<ModelJob>,
    keys: BTreeMap<(usize, u8), usize>,
    /// That somebody has asked something of.
    known: [bool; 2],
    paused: [bool; 2],
}

struct ModelJob {
    id: JobId,
    queue: usize,
    payload: u8,
    phase: Phase,
    priority: i64,
    run_at: Timestamp,
    ended_at: Option<Timestamp>,
    cancel_requested: bool,
    crashes: u32,
    attempt: u32,
    releases: u32,
    claim: Option<[u8; 16]>,
    settled: Option<[u8; 16]>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Waiting,
    Running,
    Deferred,
    Completed,
    Dead,
    Cancelled,
}

impl Model {
    fn runnable(&self, queue: usize, order: Order, now: Timestamp, limit: usize) -> Vec<usize> {
        if self.paused[queue] {
            return Vec::new();
        }
        let rank = |job: &ModelJob| match order {
            Order::Priority => job.run_at - jiff::SignedDuration::from_mins(job.priority),
            Order::RunAt => job.run_at,
        };
        let mut found: Vec<_> = (0..self.jobs.len())
            .filter(|&n| {
                let job = &self.jobs[n];
                job.queue == queue && job.phase == Phase::Waiting && job.run_at <= now
            })
            .collect();
        found.sort_by_key(|&n| (rank(&self.jobs[n]), n));
        found.truncate(limit);
        found
    }

    fn settle(&mut self, settlement: &Settlement, now: Timestamp) -> Settled {
        let token = *settlement.token();
        let job = self.jobs.iter_mut().find(|j| j.id == settlement.job());
        let job = job.expect("settlements are for known jobs");
        if job.claim != Some(token) {
            return match job.settled == Some(token) {
                true => Settled::Repeated,
                false => Settled::Stale,
            };
        }
        job.crashes = 0;
        let outcome = settlement.outcome();
        let completes = matches!(outcome, Outcome::Completed { .. });
        match outcome {
            _ if job.cancel_requested && !completes => job.end(Phase::Cancelled, now),
            Outcome::Released => job.release(),
            Outcome::Postponed { until, .. } => {
                job.release();
                job.run_at = until.instant(now);
            }
            Outcome::Deferred { until } => {
                job.phase = Phase::Deferred;
                job.run_at = until.instant(now).max(now);
                return Settled::Written;
            }
            Outcome::Completed { .. } => job.end(Phase::Completed, now),
            Outcome::Failed { then, .. } => match then {
                AfterFailure::Dead => job.end(Phase::Dead, now),
                AfterFailure::RetryAt(at) => {
                    job.phase = Phase::Waiting;
                    job.run_at = at.instant(now);
                }
            },
        }
        (job.claim, job.settled) = (None, Some(token));
        Settled::Written
    }

    fn release_all(&mut self, delay: u64, now: Timestamp) -> Vec<JobId> {
        let held = self.jobs.iter_mut().filter(|j| j.phase == Phase::Running);
        held.map(|job| {
            let before = job.run_at;
            job.release();
            job.run_at = match delay {
                0 => before,
                _ => now + Duration::from_secs(delay),
            };
            if job.cancel_requested {
                job.end(Phase::Cancelled, now);
            }
            job.id
        })
        .collect()
    }

    /// A process that left no word.
    fn crash(&mut self, now: Timestamp) {
        for job in self.jobs.iter_mut().filter(|j| j.phase == Phase::Running) {
            let crashes = job.crashes + 1;
            job.release();
            job.crashes = crashes;
            if crashes >= 2 {
                job.run_at = now + Duration::from_secs((1 << (crashes - 2).min(6)).min(60));
            }
            if job.cancel_requested {
                job.end(Phase::Cancelled, now);
            }
        }
    }

    fn cancel(&mut self, n: usize, now: Timestamp) -> Cancelled {
        let state = self.jobs[n].state(now);
        let job = &mut self.jobs[n];
        match job.phase {
            Phase::Running => {
                job.cancel_requested = true;
                Cancelled::Requested
            }
            Phase::Waiting | Phase::Deferred | Phase::Dead => {
                job.end(Phase::Cancelled, now);
                job.claim = None;
                Cancelled::Now
            }
            Phase::Completed | Phase::Cancelled => Cancelled::TooLate(state),
        }
    }

    fn revive(&mut self, n: usize, now: Timestamp) -> Revived {
        let state = self.jobs[n].state(now);
        let job = &mut self.jobs[n];
        if job.phase != Phase::Dead {
            return Revived::NotDead(state);
        }
        (job.phase, job.run_at, job.ended_at) = (Phase::Waiting, now, None);
        (job.attempt, job.crashes, job.cancel_requested) = (0, 0, false);
        Revived::Now
    }

    fn revive_all(&mut self, queue: usize, now: Timestamp) -> u64 {
        let revived = (0..self.jobs.len())
            .filter(|&n| self.jobs[n].queue == queue && self.jobs[n].phase == Phase::Dead)
            .collect::<Vec<_>>();
        for n in &revived {
            self.revive(*n, now);
        }
        revived.len() as u64
    }

    fn cancel_dead(&mut self, queue: usize, now: Timestamp) -> u64 {
        let dead = |job: &&mut ModelJob| job.queue == queue && job.phase == Phase::Dead;
        let cancelled = self.jobs.iter_mut().filter(dead);
        cancelled.map(|job| job.end(Phase::Cancelled, now)).count() as u64
    }

    fn expire(&mut self, now: Timestamp) -> u64 {
        let overdue = self
            .jobs
            .iter_mut()
            .filter(|j| j.phase == Phase::Deferred && j.run_at <= now);
        overdue
            .map(|job| {
                job.claim = None;
                job.run_at = now;
                match job.attempt >= 5 {
                    true => job.end(Phase::Dead, now),
                    false => job.phase = Phase::Waiting,
                }
            })
            .count() as u64
    }

    fn stats(&self, now: Timestamp) -> Vec<QueueStats> {
        let of = |queue: usize| self.jobs.iter().filter(move |j| j.queue == queue);
        (0..QUEUES.len())
            .filter(|&queue| self.known[queue])
            .map(|queue| {
                let in_phase = |phase| of(queue).filter(move |j| j.phase == phase);
                let pending = || in_phase(Phase::Waiting).filter(|j| j.run_at <= now);
                QueueStats {
                    queue: super::queue(QUEUES[queue]),
                    pending: pending().count() as u64,
                    paused: self.paused[queue],
                    deferred: in_phase(Phase::Deferred).count() as u64,
                    scheduled: (in_phase(Phase::Waiting).count() - pending().count()) as u64,
                    running: in_phase(Phase::Running).count() as u64,
                    dead: in_phase(Phase::Dead).count() as u64,
                    oldest_age: pending()
                        .map(|j| Duration::try_from(now.duration_since(j.run_at)).unwrap())
                        .max(),
                }
            })
            .collect()
    }
}

impl ModelJob {
    fn release(&mut self) {
        self.phase = Phase::Waiting;
        self.attempt -= 1;
        self.releases += 1;
        self.crashes = 0;
        self.claim = None;
    }

    fn end(&mut self, phase: Phase, now: Timestamp) {
        (self.phase, self.ended_at) = (phase, Some(now));
    }

    fn state(&self, now: Timestamp) -> State {
        match self.phase {
            Phase::Waiting if self.run_at > now => State::Scheduled,
            Phase::Waiting => State::Pending,
            Phase::Running => State::Running,
            Phase::Deferred => State::Deferred,
            Phase::Cancelled => State::Cancelled,
            Phase::Completed => State::Completed,
            Phase::Dead => State::Dead,
        }
    }
}

// === model and engine, side by side ===

struct Run<S> {
    store: S,
    engine: Arc<dyn Engine>,
    model: Model,
    unused: Vec<lameduck::jobs::job::Claim>,
    written: Vec<Arc<Vec<Settlement>>>,
}

impl<S: Store> Run<S> {
    async fn start() -> Self {
        let store = S::start().await;
        Self {
            engine: store.open().await.unwrap(),
            store,
            model: Model::default(),
            unused: Vec::new(),
            written: Vec::new(),
        }
    }

    async fn take(&mut self, step: Step) {
        let now = self.store.clock().now();
        match step {
            Step::Submit {
                queue,
                key,
                payload,
                delay,
                priority,
            } => self.submit(queue, key, payload, delay, priority).await,
            Step::Reserve {
                queue,
                order,
                limit,
            } => self.reserve(queue, order, limit).await,
            Step::Settle(which, end) if !self.unused.is_empty() => {
                let claim = self.unused.swap_remove(which.index(self.unused.len()));
                let settlement = claim.settle(match end {
                    End::Complete => completed("ok"),
                    End::Retry(after) => retry_at(now + Duration::from_secs(after)),
                    End::Die => dead(),
                    End::Release => Outcome::Released,
                    End::Postpone(after) => Outcome::Postponed {
                        error: "refused".to_owned(),
                        until: When::After(Duration::from_secs(after)),
                    },
                    End::Defer(within) => Outcome::Deferred {
                        until: When::After(Duration::from_secs(within)),
                    },
                });
                self.settle(Arc::new(vec![settlement])).await;
            }
            Step::Repeat(which) if !self.written.is_empty() => {
                let again = self.written[which.index(self.written.len())].clone();
                self.settle(again).await;
            }
            Step::Settle(..) | Step::Repeat(_) => {}
            Step::ReleaseHeld(delay) => {
                let held = Duration::from_secs(delay);
                let mut released = self.engine.release_held(held).await.unwrap();
                let mut expected = self.model.release_all(delay, now);
                released.sort();
                expected.sort();
                assert_eq!(released, expected);
            }
            Step::Cancel(which) if !self.model.jobs.is_empty() => {
                let n = which.index(self.model.jobs.len());
                let answer = self.engine.cancel(self.model.jobs[n].id).await.unwrap();
                assert_eq!(answer, Some(self.model.cancel(n, now)));
            }
            Step::Revive(which) if !self.model.jobs.is_empty() => {
                let n = which.index(self.model.jobs.len());
                let answer = self.engine.revive(self.model.jobs[n].id).await.unwrap();
                assert_eq!(answer, Some(self.model.revive(n, now)));
            }
            Step::Cancel(_) | Step::Revive(_) => {}
            Step::ReviveAll { queue } => {
                self.model.known[queue] = true;
                let name = super::queue(QUEUES[queue]);
                let answer = self.engine.revive_all(&name, 1_000).await.unwrap();
                assert_eq!(answer, self.model.revive_all(queue, now));
            }
            Step::CancelDead { queue } => {
                self.model.known[queue] = true;
                let name = super::queue(QUEUES[queue]);
                let answer = self.engine.cancel_dead(&name, 1_000).await.unwrap();
                assert_eq!(answer, self.model.cancel_dead(queue, now));
            }
            Step::Pause { queue, paused } => {
                let name = super::queue(QUEUES[queue]);
                self.engine.set_paused(&name, paused).await.unwrap();
                (self.model.known[queue], self.model.paused[queue]) = (true, paused);
            }
            Step::Maintain => {
                let done = self.engine.maintain().await.unwrap();
                assert_eq!(done.expired, self.model.expire(now));
            }
            Step::Wait(seconds) => self.store.clock().advance(seconds),
            Step::Restart { kill } => {
                let engine = self.engine.clone();
                match kill {
                    true => self.store.kill(engine).await,
                    false => self.store.close(engine).await,
                }
                self.engine = self.store.open().await.unwrap();
                self.model.crash(now);
            }
        }
    }

    async fn submit(
        &mut self,
        queue: usize,
        key: Option<u8>,
        payload: u8,
        delay: u64,
        priority: i64,
    ) {
        self.model.known[queue] = true;
        let run_at = self.store.clock().at(delay);
        let job = NewJob {
            queue: super::queue(QUEUES[queue]),
            payload: Bytes::copy_from_slice(&[payload]),
            run_at: Some(run_at.into()),
            priority: Priority::try_from(priority).unwrap(),
            idempotency_key: key.map(|key| format!("key-{key}")),
            ..a_job("")
        };
        let answer = self.engine.submit(vec![job]).await.unwrap().remove(0);
        let seen = key.and_then(|key| self.model.keys.get(&(queue, key)));
        if let Some(&seen) = seen {
            let first = &self.model.jobs[seen];
            let (id, repeated) = (first.id, true);
            let expected = match first.payload == payload {
                true => Ok(Submitted { id, repeated }),
                false => Err(Rejected::KeyReused { first: id }),
            };
            assert_eq!(answer, expected);
            return;
        }
        let submitted = answer.unwrap();
        assert!(!submitted.repeated);
        if let Some(key) = key {
            self.model.keys.insert((queue, key), self.model.jobs.len());
        }
        self.model.jobs.push(ModelJob {
            id: submitted.id,
            queue,
            payload,
            phase: Phase::Waiting,
            priority,
            run_at,
            ended_at: None,
            cancel_requested: false,
            crashes: 0,
            attempt: 0,
            releases: 0,
            claim: None,
            settled: None,
        });
    }

    async fn reserve(&mut self, queue: usize, order: Order, limit: usize) {
        let now = self.store.clock().now();
        let expected = self.model.runnable(queue, order, now, limit);
        let name = super::queue(QUEUES[queue]);
        let reserved = self.engine.reserve(&name, order, limit).await.unwrap();
        assert_eq!(reserved.len(), expected.len());
        for (reserved, n) in reserved.into_iter().zip(expected) {
            let job = &mut self.model.jobs[n];
            job.phase = Phase::Running;
            job.attempt += 1;
            job.claim = Some(*reserved.claim.token());
            assert_eq!(
                (reserved.job.id, reserved.job.attempt),
                (job.id, job.attempt)
            );
            assert_eq!(reserved.job.payload, [job.payload].as_slice());
            self.unused.push(reserved.claim);
        }
    }

    async fn settle(&mut self, settlement: Arc<Vec<Settlement>>) {
        let now = self.store.clock().now();
        let expected = self.model.settle(&settlement[0], now);
        assert_eq!(settle_again(&*self.engine, &settlement).await, expected);
        self.written.push(settlement);
    }

    async fn compare(&self) {
        let now = self.store.clock().now();
        let queues = self.engine.queues().await.unwrap();
        assert_eq!(queues, self.model.stats(now));
        for stats in queues {
            let one = self.engine.queue(&stats.queue).await.unwrap();
            assert_eq!(one, Some(stats), "one queue is counted as all are");
        }
    }

    async fn compare_every_job(&self) {
        let now = self.store.clock().now();
        for job in &self.model.jobs {
            let record = record(&*self.engine, job.id).await;
            assert_eq!(record.state, job.state(now));
            assert_eq!(
                (record.attempt, record.releases),
                (job.attempt, job.releases)
            );
            assert_eq!(record.crashes, job.crashes);
            assert_eq!(record.run_at, job.run_at);
            assert_eq!(record.ended_at, job.ended_at);
            assert_eq!(record.cancel_requested, job.cancel_requested);
        }
        self.compare_what_is_read_together().await;
    }

    /// Jobs that are read together, and at a glance, are what they are alone.
    async fn compare_what_is_read_together(&self) {
        let mut ids: Vec<JobId> = self.model.jobs.iter().map(|job| job.id).collect();
        ids.insert(0, JobId::random());
        let together = self.engine.details(&ids).await.unwrap();
        let glances = self.engine.glance(&ids).await.unwrap();
        assert!(together[0].as_ref().unwrap().is_none(), "nobody knows it");
        for (id, details) in ids.iter().zip(together).skip(1) {
            let details = details.unwrap().unwrap();
            let (alone, runs) = (
                record(&*self.engine, *id).await,
                self.engine.runs(*id).await,
            );
            assert_eq!(format!("{:?}", details.record), format!("{alone:?}"));
            assert_eq!(details.runs, runs.unwrap());
            let glance = glances.iter().find(|glance| glance.id == *id);
            assert_eq!(glance, Some(&Glance::from(&alone)));
        }
        assert_eq!(glances.len(), ids.len() - 1);
    }
}

/// Whatever is done in whatever order, the engine answers as the model does.
pub fn any_history<S: Store>() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: S::HISTORIES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let histories = proptest::collection::vec(step(), 1..60);
    let verdict = runner.run(&histories, |steps| {
        runtime.block_on(async {
            let mut run = Run::<S>::start().await;
            for step in steps {
                run.take(step).await;
                run.compare().await;
            }
            run.compare_every_job().await;
        });
        Ok(())
    });
    if let Err(error) = verdict {
        panic!("{error}");
    }
}

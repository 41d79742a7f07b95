//! A target that is away, and a job that only looks as if it were.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use lameduck::jobs::{
    handler::{Context, Verdict},
    job::{Job, QueueStats, State},
};

use super::*;

/// A target that is away until it is not, and remembers who came.
#[derive(Default)]
struct Target {
    away: AtomicBool,
    /// What it says of its jobs instead of being away.
    overloaded: bool,
    patience: Option<Duration>,
    calls: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    called: Notify,
}

struct Handle(Arc<Target>);

#[async_trait::async_trait]
impl Handler for Handle {
    async fn run(&self, _: &Job, context: Context) -> Verdict {
        let target = &self.0;
        let at_once = target.at_once.fetch_add(1, SeqCst) + 1;
        target.most_at_once.fetch_max(at_once, SeqCst);
        target.calls.fetch_add(1, SeqCst);
        target.called.notify_one();
        tokio::task::yield_now().await;
        target.at_once.fetch_sub(1, SeqCst);
        match (target.away.load(SeqCst), target.overloaded) {
            (true, true) => {
                context.pushed_back();
                Verdict::Failed {
                    error: "503".to_owned(),
                    retry: lameduck::jobs::handler::Retry::Backoff,
                }
            }
            (true, false) => Verdict::Postponed {
                error: "nobody answers".to_owned(),
                wait: Duration::ZERO,
            },
            _ => Verdict::Done {
                result: Bytes::new(),
            },
        }
    }

    fn postpones_for(&self) -> Option<Duration> {
        self.0.patience
    }
}

// === impl Target ===

impl Target {
    fn away() -> Self {
        Self {
            away: AtomicBool::new(true),
            ..Self::default()
        }
    }

    async fn called(&self, times: usize) {
        let calls = async {
            while self.calls.load(SeqCst) < times {
                self.called.notified().await;
            }
        };
        timeout(BOUND, calls).await.expect("it should be tried");
    }
}

fn start(target: &Arc<Target>) -> Program {
    Program::start(vec![Pool::new(queue(), Arc::new(Handle(target.clone())))])
}

async fn submit(program: &Program, count: usize) {
    let jobs = (0..count).map(|n| a_job(&n.to_string())).collect();
    program.engine.submit(jobs).await.unwrap();
}

async fn stats(program: &Program) -> QueueStats {
    program.engine.queues().await.unwrap().remove(0)
}

/// Waits until no job is left that could run, now or later.
async fn all_done(program: &Program) {
    let mut events = program.engine.events();
    let empty = async {
        loop {
            let QueueStats {
                pending,
                scheduled,
                running,
                ..
            } = stats(program).await;
            if pending + scheduled + running == 0 {
                return;
            }
            let _ = timeout(Duration::from_millis(100), events.recv()).await;
        }
    };
    let done = timeout(BOUND, empty).await;
    if done.is_err() {
        panic!("{:?}", stats(program).await);
    }
}

fn gauge(program: &Program, family: &str) -> f64 {
    let families = program.drain.registry().gather();
    let family = families.iter().find(|f| f.name() == family).unwrap();
    family.get_metric()[0].get_gauge().get_value()
}

fn word(program: &Program) -> Option<String> {
    let checks = program.drain.readiness_checks();
    let check = checks.into_iter().find(|check| check.name == "queue mail");
    check.and_then(|check| check.note)
}

#[tokio::test]
async fn a_target_that_is_away_is_tried_by_one_job_at_a_time_and_all_come_when_it_is_back() {
    const JOBS: usize = 2_000;
    let target = Arc::new(Target::away());
    let program = start(&target);
    submit(&program, JOBS).await;

    // The workers' first wave, and a few tries.
    target.called(20).await;
    let wave = target.calls.load(SeqCst);
    target.called(wave + 1).await;
    target.most_at_once.store(0, SeqCst);
    target.called(wave + 4).await;

    assert_eq!(target.most_at_once.load(SeqCst), 1);
    assert!(wave <= 25, "{wave} were begun");
    assert_eq!(gauge(&program, "lameduck_queue_target_unreachable"), 1.0);
    let since = gauge(&program, "lameduck_queue_backoff_start_timestamp_seconds");
    assert!(since > 1e9, "{since}");
    let word_now = word(&program).unwrap();
    assert!(word_now.contains("nobody answers"), "{word_now}");
    assert!(program.drain.is_ready(), "it takes jobs in all the same");

    target.away.store(false, SeqCst);
    all_done(&program).await;
    assert!(target.most_at_once.load(SeqCst) > 1);
    assert_eq!(gauge(&program, "lameduck_queue_target_unreachable"), 0.0);
    assert_eq!(word(&program), None);
    assert_eq!(stats(&program).await.dead, 0);
    // Of those that were tried each came back, and nobody else ran twice.
    let calls = target.calls.load(SeqCst);
    assert!((JOBS..JOBS + 100).contains(&calls), "{calls}");
    program.drain().await.unwrap();
}

#[tokio::test]
async fn attempts_count_when_patience_is_over_and_only_those_of_jobs_that_are_tried() {
    let target = Arc::new(Target {
        patience: Some(Duration::ZERO),
        ..Target::away()
    });
    let program = start(&target);
    submit(&program, 200).await;

    target.called(25).await;

    let QueueStats {
        pending, scheduled, ..
    } = stats(&program).await;
    assert!(pending > 150, "the others wait: {pending}");
    assert!(scheduled > 0, "attempts were counted");
    program.drain().await.unwrap();
}

#[tokio::test]
async fn a_target_that_asks_every_job_for_less_is_tried_by_one_at_a_time() {
    let target = Arc::new(Target {
        overloaded: true,
        ..Target::away()
    });
    let program = start(&target);
    submit(&program, 500).await;

    target.called(20).await;
    let unavailable = "lameduck_queue_target_overloaded";
    let looking = async {
        while gauge(&program, unavailable) == 0.0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, looking).await.unwrap();
    let wave = target.calls.load(SeqCst);
    target.called(wave + 3).await;
    assert!(wave < 64, "{wave}");

    target.away.store(false, SeqCst);
    all_done(&program).await;
    assert_eq!(gauge(&program, unavailable), 0.0);
    program.drain().await.unwrap();
}

#[tokio::test]
async fn a_job_that_can_never_begin_does_not_hold_up_the_others() {
    let handler = |n: u32, _: Context| async move {
        match n {
            0 => Err(Failure::postponed("not me", Duration::ZERO)),
            _ => Ok(n),
        }
    };
    let program = Program::start(vec![pool(function(handler))]);
    let mut bad = a_job("0");
    // It comes first whenever it may.
    bad.priority = Priority::try_from(9).unwrap();
    let bad = program.submit(bad).await;
    let mut good = Vec::new();
    for n in 1..300 {
        good.push(program.submit(a_job(&n.to_string())).await);
    }

    for id in good {
        program.ended(id).await;
    }
    let bad = program.engine.job(bad).await.unwrap().unwrap();
    assert!(!bad.state.has_ended(), "{bad:?}");
    assert_ne!(bad.state, State::Dead);
    program.drain().await.unwrap();
}

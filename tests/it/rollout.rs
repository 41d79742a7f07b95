//! A rollout on one machine, with clients of every kind that must not lose a request. Beside it, in the same
//! run, `axum::serve` with its graceful shutdown.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use crate::{
    clients::{Clients, Kind},
    stage::{Crowd, GRACE, Outcome, Scene, Seen, Stage},
};

/// Everybody at once.
const CROWD: &[(Kind, usize)] = &[
    (Kind::KeepAlive, 24),
    (Kind::MostlyIdle, 12),
    (Kind::Fresh, 8),
    (Kind::Slow, 8),
    (Kind::Http2, 4),
    (Kind::Events, 4),
    (Kind::Socket, 4),
];

impl Crowd for Clients {
    fn done(&self) -> u64 {
        self.tally().done.load(SeqCst)
    }

    async fn stop(self) -> Seen {
        let tally = Self::stop(self).await;
        let failures = tally.failures.lock().unwrap().clone();
        Seen {
            done: tally.done.load(SeqCst),
            failed: tally.failed.load(SeqCst),
            refused: tally.refused.load(SeqCst),
            failures,
        }
    }
}

async fn crowd(stage: &Stage) -> Clients {
    Clients::start(stage.address(), CROWD)
}

fn row(scene: &Scene, outcome: &Outcome) -> String {
    format!(
        "{:<8} wire {:>2} ms  lag {:>4} ms  {outcome}",
        scene.server,
        scene.wire.as_millis(),
        scene.lag.as_millis()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_fails_no_request_of_any_client() {
    let scene = Scene {
        server: "lameduck",
        tls: false,
        wire: Duration::from_millis(5),
        lag: Duration::from_millis(600),
        rollouts: 2,
        patience: Duration::from_secs(GRACE.unsigned_abs()),
        may_cut: false,
    };
    let ours = Stage::play(scene, crowd).await;
    let compared = Scene {
        server: "axum",
        rollouts: 1,
        // An open event stream keeps it alive until it is killed; that takes no more time to show.
        patience: Duration::from_secs(10),
        ..scene
    };
    let theirs = Stage::play(compared, crowd).await;

    println!("{}", row(&scene, &ours));
    println!("{}", row(&compared, &theirs));
    assert_eq!(ours.seen.failed, 0, "{:#?}", ours.seen.failures);
}

/// The same with other wires and lags, as often as `LAMEDUCK_SOAK` says: what is rare shows only so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; run by `make soak`"]
async fn rollouts_again_and_again_fail_no_request() {
    let rounds = std::env::var("LAMEDUCK_SOAK").map_or(10, |n| n.parse().expect("a number"));
    let mut failed = 0;
    for _ in 0..rounds {
        let scene = Scene {
            server: "lameduck",
            tls: false,
            wire: Duration::from_millis(fastrand::u64(1..=50)),
            lag: Duration::from_millis(fastrand::u64(0..=2_000)),
            rollouts: 3,
            patience: Duration::from_secs(GRACE.unsigned_abs()),
            may_cut: false,
        };
        let outcome = Stage::play(scene, crowd).await;
        println!("{} {:#?}", row(&scene, &outcome), outcome.seen.failures);
        failed += outcome.seen.failed;
    }
    assert_eq!(failed, 0);
}

/// Nobody is idle, and requests of three seconds are among the load: what a shutdown takes beside the last of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute; run by `make lag`"]
async fn a_shutdown_follows_the_longest_request() {
    let scene = Scene {
        server: "lameduck",
        tls: false,
        wire: Duration::from_millis(5),
        lag: Duration::from_millis(100),
        rollouts: 5,
        patience: Duration::from_secs(GRACE.unsigned_abs()),
        may_cut: false,
    };
    let long: &[_] = &[(Kind::KeepAlive, 12), (Kind::Fresh, 4), (Kind::Long, 24)];

    let mut outcome = Stage::play(scene, async |stage: &Stage| {
        Clients::start(stage.address(), long)
    })
    .await;

    println!("{}", row(&scene, &outcome));
    assert_eq!(outcome.seen.failed, 0, "{:#?}", outcome.seen.failures);
    outcome.shutdowns.sort();
    let median = outcome.shutdowns[scene.rollouts / 2];
    // The lag, a second until clients are asked to leave, and the request that began right before that; not the whole
    // quiet period and then the request, which would be a second more.
    let expected = scene.lag + Duration::from_secs(1) + Duration::from_secs(3);
    assert!(
        median < expected + Duration::from_millis(700),
        "{outcome:?}"
    );
}

/// A constant is too short on one day and too long on the other; who looks needs neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes; run by `make lag`"]
async fn a_shutdown_follows_the_lag_of_the_balancer() {
    let mut outcomes = Vec::new();
    for lag in [0, 1, 3, 7, 10] {
        for (server, patience) in [("lameduck", GRACE.unsigned_abs()), ("sleep", 12)] {
            let scene = Scene {
                server,
                tls: false,
                wire: Duration::from_millis(5),
                lag: Duration::from_secs(lag),
                rollouts: 1,
                patience: Duration::from_secs(patience),
                may_cut: false,
            };
            let outcome = Stage::play(scene, crowd).await;
            println!("{}", row(&scene, &outcome));
            outcomes.push((scene, outcome));
        }
    }
    for (scene, outcome) in outcomes {
        if scene.server == "lameduck" {
            let seen = &outcome.seen;
            assert_eq!(seen.failed, 0, "{scene:?}: {:#?}", seen.failures);
            let longest = scene.lag + Duration::from_secs(8);
            assert!(outcome.shutdowns[0] < longest, "{scene:?}: {outcome:?}");
        }
    }
}

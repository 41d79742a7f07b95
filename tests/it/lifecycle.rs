//! The lifecycle as its user has it: settings of any size, parts that panic, hooks that are late, drains that are let go.

use std::{collections::HashSet, io, time::Duration};

use axum::{Router, routing::get};
use lameduck::{
    Drain, Error, Lifecycle, Moment,
    http::{CurrentDrain, HttpSettings, Listener},
    lifecycle::{
        Budget, Cause, DrainSettings, Endpoints, Load, Outcome, Signals, Trigger,
        conductor::{Conductor, Input, Shape},
        later,
    },
    prelude::*,
};
use tokio::time::Instant;

use crate::http::{hello_over, soon};

type Fine = Result<(), io::Error>;

fn endless() -> DrainSettings {
    let mut settings = DrainSettings::default();
    settings.grace = Duration::MAX;
    settings.margin = Duration::MAX;
    settings.lame_duck_share = f64::MAX;
    settings.settle = Duration::MAX;
    settings.quiet = Duration::MAX;
    settings.fallback_wait = Duration::MAX;
    settings.stop_notice = Duration::MAX;
    settings.teardown = Duration::MAX;
    settings.reporting = Duration::MAX;
    settings
}

fn manual() -> (Lifecycle, Trigger) {
    let (signals, trigger) = Signals::manual();
    (Lifecycle::builder().signals(signals), trigger)
}

#[test]
fn no_duration_is_too_long_for_a_drain() {
    let now = Instant::now();
    for share in [f64::MAX, f64::NAN, f64::NEG_INFINITY, 0.5] {
        let mut settings = endless();
        settings.lame_duck_share = share;
        let shape = Shape {
            serves: true,
            observed: true,
            hooks: vec![Duration::MAX],
        };
        let mut conductor = Conductor::new(settings.clone(), shape);
        let load = Load {
            listeners: 1,
            last_new: Some(now),
            ..Load::default()
        };
        for input in [
            Input::Started,
            Input::Signal(now),
            Input::Cause(Cause::PodDeleted),
            Input::Endpoints(Endpoints::Unknown),
            Input::Endpoints(Endpoints::Removed),
            Input::Tick,
        ] {
            let _ = conductor.handle(now, load, input);
            if let Some(wake) = conductor.wake_at() {
                assert!(wake >= now);
            }
        }
        let budget = Budget::new(now, later(now, Duration::MAX), &settings);
        assert!(budget.deadline <= budget.kill, "{budget:?}");
        Budget::grace_for(Duration::MAX, &settings);
    }
}

/// The same in the program as a whole, with a server, a hook and a connection that stays idle.
#[tokio::test]
async fn a_program_whose_settings_are_endless_serves_and_ends() {
    let mut http = HttpSettings::default();
    for setting in [
        &mut http.header_timeout,
        &mut http.idle_timeout,
        &mut http.write_timeout,
        &mut http.lame_duck_pause,
        &mut http.goaway_timeout,
        &mut http.linger,
        &mut http.spread,
    ] {
        *setting = Duration::MAX;
    }
    http.keep_alive_hint = Some(Duration::MAX);
    http.max_connections = Some(usize::MAX);
    http.max_head = 1 << 20;
    let router = Router::new().route("/hello", get(|| async { "hello" }));
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().parse().unwrap();
    let (lifecycle, trigger) = manual();
    let lifecycle = lifecycle
        .settings(endless())
        .http_with("endless", listener, router, http)
        .teardown_within("endless", Duration::MAX, |_| async { Fine::Ok(()) });
    let drain = lifecycle.drain().clone();
    let running = tokio::spawn(lifecycle.run());
    let idle = hello_over(address).await;

    trigger.fire();
    soon("clients are asked to leave", drain.reached(Moment::Leave)).await;
    drop(idle);

    let report = soon("it ends", running).await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Clean);
}

/// Much of what is long in a drain comes after its work: nobody was told to stop by it.
#[tokio::test(start_paused = true)]
async fn handlers_were_told_to_stop_where_that_moment_came_and_not_where_its_time_has_passed() {
    let (lifecycle, trigger) = manual();
    let lifecycle = lifecycle.grace(Duration::from_secs(10)).teardown_within(
        "slow",
        Duration::from_secs(8),
        |_| async {
            // Beyond the soft deadline, by when all work had ended long ago.
            tokio::time::sleep(Duration::from_secs(6)).await;
            Fine::Ok(())
        },
    );
    let drain = lifecycle.drain().clone();
    trigger.fire();

    let report = lifecycle.run().await.unwrap();

    assert!(drain.plan().unwrap().soft < Instant::now());
    assert!(!drain.has(Moment::Stop));
    assert!(!report.told_to_stop, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn work_that_lasts_to_the_soft_deadline_is_told_to_stop() {
    let (lifecycle, trigger) = manual();
    let lifecycle = lifecycle.grace(Duration::from_secs(10));
    let work = lifecycle.drain().work("resize").hold();
    let drain = lifecycle.drain().clone();
    tokio::spawn(async move {
        drain.reached(Moment::Stop).await;
        drop(work);
    });
    trigger.fire();

    let report = lifecycle.run().await.unwrap();

    assert!(report.told_to_stop, "{report:?}");
}

/// The report of the first comes when the second runs already, and says nothing of that one.
#[tokio::test(start_paused = true)]
async fn a_hook_whose_end_is_told_late_takes_no_other_hook_with_it() {
    let (lifecycle, trigger) = manual();
    let second = Duration::from_secs(1);
    let lifecycle = lifecycle
        .grace(Duration::from_secs(4))
        .teardown("hangs last", |_| std::future::pending::<Fine>())
        .teardown_within("hangs second", second / 4, |_| {
            std::future::pending::<Fine>()
        })
        .teardown_within("hangs first", second / 4, |_| {
            std::future::pending::<Fine>()
        });
    trigger.fire();

    let error = lifecycle.run().await.expect_err("all hooks failed");

    let Error::Teardown { report, .. } = &error else {
        panic!("{error:?}");
    };
    let told: Vec<&str> = report.hooks.iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(told, ["hangs first", "hangs second", "hangs last"]);
    assert!(
        report.hooks.iter().all(|hook| hook.error.is_some()),
        "{report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_part_that_panics_is_told_by_its_name() {
    for background in [false, true] {
        let (lifecycle, _trigger) = manual();
        let panics = async {
            if true {
                panic!("out of ink");
            }
            Fine::Ok(())
        };
        let lifecycle = match background {
            true => lifecycle.background("printer", panics),
            false => lifecycle.service("printer", panics),
        };

        let error = lifecycle.run().await.expect_err("it failed");

        let Error::Failed { name, source, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(name, "printer");
        assert!(source.to_string().contains("out of ink"), "{source}");
    }
}

/// A router that lameduck does not serve has no drain, and must not make one for each request.
#[tokio::test]
async fn the_extractor_makes_one_drain_for_all_requests_of_a_plain_server() {
    let router = Router::new().route(
        "/hello",
        get(|CurrentDrain(drain): CurrentDrain| async move { drain.id().to_owned() }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut drains = HashSet::new();

    for _ in 0..10 {
        let mut peer = hello_over(address).await;
        drains.insert(peer.get("/hello").await.text().to_owned());
    }

    assert_eq!(drains.len(), 1, "{drains:?}");
    assert_eq!(
        drains.into_iter().next().unwrap(),
        Drain::shared_detached().id()
    );
    serving.abort();
}

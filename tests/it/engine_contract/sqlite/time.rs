//! A clock that somebody sets: what waits for a span of time waits for that span, what waits for an instant follows.

use super::*;

const HOUR: i64 = 3600;

/// A machine whose clock can be set while its time goes on.
#[derive(Clone, Default)]
struct Machine {
    /// Seconds since its boot, and what its clock is off.
    state: Arc<Mutex<(u64, i64)>>,
}

impl Machine {
    fn new() -> Self {
        let machine = Self::default();
        machine.passes(1000);
        machine
    }

    fn passes(&self, seconds: u64) {
        self.state.lock().unwrap().0 += seconds;
    }

    fn is_set(&self, by: i64) {
        self.state.lock().unwrap().1 += by;
    }

    fn now(&self) -> Timestamp {
        let (uptime, off) = *self.state.lock().unwrap();
        let start: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::from_secs(i64::try_from(uptime).unwrap() + off)
    }

    fn open(&self, directory: &Path, boot: &str) -> SqliteEngine {
        let (clock, uptime) = (self.clone(), self.clone());
        let options = SqliteOptions {
            clock: Arc::new(move || clock.now()),
            uptime: Some(Arc::new(move || {
                Duration::from_secs(uptime.state.lock().unwrap().0)
            })),
            boot_id: Some(boot.to_owned()),
            min_free: 0,
            ..SqliteOptions::default()
        };
        SqliteEngine::open(directory, options).unwrap()
    }
}

fn after(seconds: u64) -> NewJob {
    NewJob {
        run_at: Some(Duration::from_secs(seconds).into()),
        ..a_job("later")
    }
}

async fn runnable(engine: &dyn Engine) -> Vec<String> {
    let reserved = reserve(engine, 9).await;
    let payloads = payloads(&reserved);
    for one in reserved {
        settle(engine, one.claim.settle(completed(""))).await;
    }
    payloads
}

#[tokio::test]
async fn what_waits_for_a_span_of_time_waits_for_just_that() {
    for set in [-HOUR, HOUR, -400 * 24 * HOUR] {
        let (directory, machine) = (a_directory(), Machine::new());
        let engine = machine.open(directory.path(), "boot");
        submit(&engine, a_job("now")).await;
        let delayed = submit(&engine, after(60)).await;
        machine.passes(1);

        machine.is_set(set);

        assert_eq!(
            runnable(&engine).await,
            ["now"],
            "{set}: it is neither hidden ..."
        );
        let due = engine.next_run_in(&mail()).await.unwrap();
        assert_eq!(due, Some(Duration::from_secs(59)), "{set}");
        let shown = record(&engine, delayed).await;
        assert_eq!(
            shown.run_at,
            machine.now() + Duration::from_secs(59),
            "{set}: by the clock as it goes"
        );
        machine.passes(58);
        assert!(
            runnable(&engine).await.is_empty(),
            "{set}: ... nor run early"
        );
        machine.passes(1);
        assert_eq!(runnable(&engine).await, ["later"], "{set}");
    }
}

#[tokio::test]
async fn what_waits_for_an_instant_follows_the_clock() {
    let (directory, machine) = (a_directory(), Machine::new());
    let engine = machine.open(directory.path(), "boot");
    let at = machine.now() + Duration::from_secs(7200);
    let job = NewJob {
        run_at: Some(at.into()),
        ..a_job("at")
    };
    let id = submit(&engine, job).await;

    machine.is_set(HOUR);
    assert!(runnable(&engine).await.is_empty());
    assert_eq!(
        engine.next_run_in(&mail()).await.unwrap(),
        Some(Duration::from_secs(3600))
    );
    assert_eq!(record(&engine, id).await.run_at, at);
    machine.is_set(-HOUR);
    assert!(runnable(&engine).await.is_empty());
    assert_eq!(
        engine.next_run_in(&mail()).await.unwrap(),
        Some(Duration::from_secs(7200))
    );
    machine.is_set(2 * HOUR);
    assert_eq!(runnable(&engine).await, ["at"]);
}

#[tokio::test]
async fn nothing_is_overdue_or_outlived_because_a_clock_was_set() {
    let (directory, machine) = (a_directory(), Machine::new());
    let engine = machine.open(directory.path(), "boot");
    let done = submit(&engine, a_job("x")).await;
    runnable(&engine).await;
    let waits = submit(&engine, a_job("y")).await;
    let until = Duration::from_secs(600).into();
    let claim = reserve_one(&engine).await.claim;
    settle(&engine, claim.settle(Outcome::Deferred { until })).await;
    let backs_off = submit(&engine, a_job("z")).await;
    let claim = reserve_one(&engine).await.claim;
    let then = AfterFailure::RetryAt(Duration::from_secs(30).into());
    settle(
        &engine,
        claim.settle(Outcome::Failed {
            error: "no".to_owned(),
            then,
        }),
    )
    .await;

    machine.is_set(30 * 24 * HOUR);
    engine.maintain().await.unwrap();

    assert_eq!(state(&engine, done).await, State::Completed);
    assert_eq!(state(&engine, waits).await, State::Deferred);
    assert_eq!(state(&engine, backs_off).await, State::Scheduled);
    machine.passes(30);
    assert_eq!(runnable(&engine).await, ["z"]);
}

#[tokio::test]
async fn the_next_process_knows_what_was_set_while_nobody_ran() {
    // On the same boot by the machine's uptime; on the next one a clock that went back is seen at least.
    for (boot, set, passed, left) in [
        ("boot", -HOUR, 20, 40),
        ("boot", HOUR, 20, 40),
        ("next", -HOUR, 20, 60),
    ] {
        let (directory, machine) = (a_directory(), Machine::new());
        let engine = machine.open(directory.path(), "boot");
        submit(&engine, a_job("now")).await;
        submit(&engine, after(60)).await;
        engine.close().await;
        drop(engine);
        machine.is_set(set);
        machine.passes(passed);

        let engine = machine.open(directory.path(), boot);

        assert_eq!(runnable(&engine).await, ["now"], "{boot} {set}");
        let due = engine.next_run_in(&mail()).await.unwrap();
        assert_eq!(due, Some(Duration::from_secs(left)), "{boot} {set}");
    }
}

#[tokio::test]
async fn no_text_keeps_an_outcome_from_being_written_here_either() {
    let directory = a_directory();
    let engine = open(directory.path()).unwrap();
    let database = rusqlite::Connection::open(directory.path().join("lameduck.db")).unwrap();
    let offended = "CREATE TRIGGER offended BEFORE UPDATE ON jobs WHEN NEW.last_error LIKE '%quack%' OR NEW.result = x'71'
                    BEGIN SELECT RAISE(ABORT, 'offended'); END";
    database.execute_batch(offended).unwrap();
    let (bad, good) = (
        submit(&engine, a_job("x")).await,
        submit(&engine, a_job("y")).await,
    );
    let mut claims = reserve(&engine, 2)
        .await
        .into_iter()
        .map(|reserved| reserved.claim);
    let error = "quack".to_owned();
    let dead = Outcome::Failed {
        error,
        then: AfterFailure::Dead,
    };
    let settlements = Arc::new(vec![
        claims.next().unwrap().settle(dead),
        claims.next().unwrap().settle(completed("q")),
    ]);

    assert_eq!(
        engine.settle(&settlements).await.unwrap(),
        [Settled::Written; 2]
    );

    let said = record(&engine, bad).await;
    assert_eq!(said.state, State::Dead);
    assert!(said.last_error.unwrap().contains("could not be stored"));
    assert_eq!(engine.runs(bad).await.unwrap().len(), 1);
    assert_eq!(state(&engine, good).await, State::Completed);
}

#[tokio::test]
async fn a_row_that_cant_be_read_is_an_error_about_that_row_alone() {
    let directory = a_directory();
    let engine = open(directory.path()).unwrap();
    let (bad, good) = (
        submit(&engine, a_job("bad")).await,
        submit(&engine, a_job("good")).await,
    );
    let database = rusqlite::Connection::open(directory.path().join("lameduck.db")).unwrap();
    database
        .execute(
            "UPDATE jobs SET run_at = -9000000000000000000 WHERE id = ?1",
            [bad.as_bytes()],
        )
        .unwrap();

    let listing = |state| lameduck::jobs::job::Listing {
        queue: mail(),
        state,
        after: None,
        limit: 9,
    };
    let page = engine.list(&listing(State::Pending)).await.unwrap();
    assert_eq!((page.jobs[0].id, page.unreadable[0].id), (good, Some(bad)));
    assert!(matches!(
        engine.job(bad).await,
        Err(EngineError::Unreadable(_))
    ));
    assert_eq!(reserve_one(&engine).await.job.id, good);
    let page = engine.list(&listing(State::Dead)).await.unwrap();
    assert_eq!(page.unreadable[0].id, Some(bad), "it was not run");
    assert!(engine.cancel(bad).await.unwrap().is_some());
}

//! A part of the engine that panics: everybody hears of it, and nothing that was acknowledged is lost.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use jiff::Timestamp;
use lameduck::{jobs::engine::EngineError, lifecycle::Cause};

use super::*;

/// The engine of a directory whose writer panics with its next transaction, once it is told to.
fn a_fragile_engine(directory: &TempDir) -> (Arc<SqliteEngine>, Arc<AtomicBool>) {
    let panics = Arc::new(AtomicBool::new(false));
    let told = panics.clone();
    let options = SqliteOptions {
        clock: Arc::new(move || {
            let writes = std::thread::current().name() == Some("queue-writer");
            assert!(!(writes && told.load(SeqCst)), "the clock has stopped");
            Timestamp::now()
        }),
        ..SqliteOptions::default()
    };
    let engine = SqliteEngine::open(directory.path(), options).unwrap();
    (Arc::new(engine), panics)
}

#[tokio::test]
async fn a_writer_that_panics_fails_readiness_at_once_and_the_process_drains_because_of_it() {
    let directory = a_directory();
    let (engine, panics) = a_fragile_engine(&directory);
    let gate = Arc::new(Semaphore::new(0));
    let entered = Arc::new(Notify::new());
    let (opens, enters) = (gate.clone(), entered.clone());
    let handler = move |_: u32, _| {
        let (gate, entered) = (opens.clone(), enters.clone());
        async move {
            entered.notify_one();
            gate.acquire().await?.forget();
            Ok::<_, Failure>(())
        }
    };
    let program = Program::start_with(engine.clone(), vec![pool(function(handler))]);
    let held = program.submit(a_job("1")).await;
    entered.notified().await;
    let mut acknowledged = vec![held];
    let mut later = a_job("2");
    later.run_at = Some(Duration::from_secs(3600).into());
    for _ in 0..20 {
        acknowledged.push(program.submit(later.clone()).await);
    }
    let ready = program.drain.readiness_changes();
    assert!(*ready.borrow());

    panics.store(true, SeqCst);
    let error = engine.submit(vec![a_job("3")]).await.unwrap_err();
    let EngineError::Failed { part, why } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(part, "queue-writer");
    assert!(why.contains("the clock has stopped"), "{why}");

    program
        .drain
        .reached(lameduck::lifecycle::Moment::Began)
        .await;
    let checks = program.drain.readiness_checks();
    let storage = checks.iter().find(|check| check.name == "storage").unwrap();
    let reason = storage.failed.as_deref().unwrap_or("it passes");
    assert!(reason.contains("queue-writer"), "{reason}");
    let families = program.drain.registry().gather();
    let answers = families
        .iter()
        .find(|f| f.name() == "lameduck_storage_answers");
    assert_eq!(
        answers.unwrap().get_metric()[0].get_gauge().get_value(),
        0.0
    );
    assert!(matches!(
        engine.ping().await,
        Err(EngineError::Failed { .. })
    ));

    gate.add_permits(1);
    let ended = timeout(BOUND, program.running).await.unwrap().unwrap();
    let error = ended.unwrap_err();
    assert!(error.to_string().contains("queue-writer"), "{error}");
    let report = error.report().unwrap();
    assert_eq!(report.cause, Cause::Failed);
    assert_eq!(report.jobs.left.ids, [held.to_string()]);
    timeout(BOUND, engine.close()).await.expect("it closes");

    // The directory stays locked until the process is gone. So the next one finds what is on the disk.
    let in_use = SqliteEngine::open(directory.path(), SqliteOptions::default());
    assert!(matches!(in_use, Err(EngineError::InUse { .. })));
    let disk = a_directory();
    for file in fs::read_dir(directory.path()).unwrap().flatten() {
        fs::copy(file.path(), disk.path().join(file.file_name())).unwrap();
    }
    let next = SqliteEngine::open(disk.path(), SqliteOptions::default()).unwrap();
    for id in acknowledged {
        let job = next.job(id).await.unwrap();
        assert!(job.is_some_and(|job| !job.state.has_ended()), "{id}");
    }
}

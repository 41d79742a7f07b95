//! What it finds at the address that it was given.

use futures_util::future::join_all;

use lameduck::jobs::engine::postgres::{migrate, read_drains};

use super::*;
use crate::postgres_server::{PgBouncer, own_server};

async fn refused(url: String) -> EngineError {
    refused_with(PostgresOptions::new(url)).await
}

async fn refused_with(options: PostgresOptions) -> EngineError {
    match PostgresEngine::connect(options).await {
        Ok(_) => panic!("it should be refused"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_unless_it_is_compatible() {
    let database = shared().database().await;
    drop(open(quick(&database)).await);
    let client = database.connect().await;
    let write = async |min_compatible: i32| {
        let newer = "UPDATE lameduck.schema_version SET version = 1000, min_compatible = $1";
        client.execute(newer, &[&min_compatible]).await.unwrap();
    };

    write(999).await;
    let error = refused(database.url()).await;
    assert!(matches!(error, EngineError::Unusable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("newer version (schema 1000"),
        "{error}"
    );

    // A rollout brings the new ones up while the old ones still run, and may bring one back.
    write(1).await;
    submit(&open(quick(&database)).await, a_job("x")).await;
}

#[tokio::test]
async fn a_schema_is_brought_up_to_date_once_and_while_others_work_with_it() {
    let database = shared().database().await;
    let client = database.connect().await;
    let version = async || {
        let version = "SELECT version FROM lameduck.schema_version";
        client
            .query_one(version, &[])
            .await
            .unwrap()
            .get::<_, i32>(0)
    };
    // What the first version made, with a job in it.
    let first = include_str!("../../../../crates/postgres/src/schema/1.sql");
    let old = format!(
        "CREATE SCHEMA lameduck; {first}; INSERT INTO lameduck.schema_version VALUES (1, 1);
         INSERT INTO lameduck.queues (name) VALUES ('mail');
         INSERT INTO lameduck.jobs (id, queue, state, priority, run_at, max_attempts, submitted_at, content_type, payload)
         VALUES (gen_random_uuid(), 1, 0, 0, 0, 5, 0, 'text/plain', 'old')"
    );
    client.batch_execute(&old).await.unwrap();

    let refused = refused_with(PostgresOptions {
        migrate: false,
        ..quick(&database)
    })
    .await;
    assert!(
        refused.to_string().contains("lameduck migrate"),
        "{refused}"
    );
    assert_eq!(version().await, 1);

    // Some only migrate, some start, all at once.
    let options = quick(&database);
    let migrations = (0..5).map(|_| migrate(&options));
    let starts = (0..5).map(|_| PostgresEngine::connect(quick(&database)));
    let (migrations, starts) =
        futures_util::future::join(join_all(migrations), join_all(starts)).await;

    let migrated = migrations.into_iter().map(Result::unwrap);
    let newest = version().await;
    assert!(newest > 1);
    assert!(migrated.into_iter().all(|schema| schema.version == newest));
    let engines: Vec<_> = starts.into_iter().map(Result::unwrap).collect();
    assert_eq!(&*reserve_one(&engines[0]).await.job.payload, b"old");
    let again = migrate(&options).await.unwrap();
    assert_eq!((again.found, again.version), (Some(newest), newest));
    open(PostgresOptions {
        migrate: false,
        ..quick(&database)
    })
    .await;
}

#[tokio::test]
async fn the_ledger_can_be_read_without_being_in_it() {
    let database = shared().database().await;
    let missing = read_drains(&quick(&database), 9).await.unwrap_err();
    assert!(
        missing.to_string().contains("no queue of lameduck"),
        "{missing}"
    );

    let engine = open(quick(&database)).await;
    let rows = read_drains(&quick(&database), 9).await.unwrap();

    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].process, engine.process());
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused() {
    let database = shared().database().await;
    let url = database.url().replace("test_", "missing_");

    let error = refused(url).await;

    assert!(matches!(error, EngineError::Unusable { .. }), "{error:?}");
    assert!(error.to_string().contains("CREATE DATABASE"), "{error}");
}

#[tokio::test]
async fn the_schema_of_somebody_else_is_refused_and_left_alone() {
    let database = shared().database().await;
    let client = database.connect().await;
    let theirs = "CREATE SCHEMA lameduck; CREATE TABLE lameduck.jobs (x int)";
    client.batch_execute(theirs).await.unwrap();

    let error = refused(database.url()).await;

    assert!(error.to_string().contains("somebody else's"), "{error}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'lameduck'";
    let tables: i64 = client.query_one(tables, &[]).await.unwrap().get(0);
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn a_server_that_is_down_may_come_back() {
    let error = refused("postgres://u@127.0.0.1:1/d".to_owned()).await;

    assert!(matches!(error, EngineError::Storage(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pgbouncer_in_transaction_mode_may_be_in_between() {
    const JOBS: usize = 100;
    let database = shared().database().await;
    let bouncer = PgBouncer::in_front_of(&database);
    let options = || PostgresOptions {
        lease: LEASE,
        ..PostgresOptions::new(bouncer.url())
    };
    let (one, other) = (open(options()).await, open(options()).await);

    let submissions = (0..JOBS).map(|n| submit(&one, a_job(&n.to_string())));
    join_all(submissions).await;
    let work = async |engine: &PostgresEngine| {
        let mut done = 0;
        loop {
            let reserved = reserve(engine, 7).await;
            if reserved.is_empty() {
                return done;
            }
            done += reserved.len();
            let outcomes = reserved.into_iter().map(|r| r.claim.settle(completed("")));
            let outcomes = Arc::new(outcomes.collect());
            let settled = engine.settle(&outcomes).await.unwrap();
            assert!(settled.iter().all(|settled| *settled == Settled::Written));
        }
    };
    let (by_one, by_other) = tokio::join!(work(&one), work(&other));

    assert_eq!(by_one + by_other, JOBS);
    // Both leases are renewed through it.
    let client = database.connect().await;
    until("beats", async || {
        let least = "SELECT min(beat) FROM lameduck.processes WHERE left_at IS NULL";
        let least = client.query_one(least, &[]).await.unwrap();
        least.get::<_, i64>(0) > 2
    })
    .await;
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connections_are_encrypted_where_the_url_says_so() {
    let database = own_server().database().await;
    let roots = format!(
        "sslmode=verify-full&sslrootcert={}",
        database.over_tls("", "").1.display()
    );
    for parameters in ["sslmode=require", "sslmode=prefer", &roots] {
        let (url, _) = database.over_tls("localhost", parameters);
        let engine = open(PostgresOptions::new(url)).await;
        listening(&database, 1).await;

        let plain = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                     WHERE datname = current_database() AND application_name = 'lameduck' AND NOT ssl";
        let plain = database.connect().await.query_one(plain, &[]).await;
        assert_eq!(plain.unwrap().get::<_, i64>(0), 0, "{parameters}");
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_proves_nothing_is_refused() {
    let database = own_server().database().await;
    let certificate = database.over_tls("", "").1.display().to_string();
    let own = format!("sslmode=verify-full&sslrootcert={certificate}");
    for (host, parameters) in [
        ("localhost", "sslmode=verify-full"),
        ("127.0.0.1", own.as_str()),
    ] {
        let error = refused(database.over_tls(host, parameters).0).await;

        assert!(matches!(error, EngineError::Unusable { .. }), "{error:?}");
        assert!(error.to_string().contains("sslrootcert"), "{error}");
    }
}

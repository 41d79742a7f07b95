//! What it finds at the address that it was given.

use super::*;

async fn refused(url: String) -> EngineError {
    match PostgresEngine::connect(PostgresOptions::new(url)).await {
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

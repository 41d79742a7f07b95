//! What databases can't hold: other encodings are refused, and no text keeps its outcome from being written.

use lameduck::jobs::engine::postgres::migrate;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_another_encoding_is_refused_in_words() {
    let database = shared().database().await;
    let admin = database.connect().await;
    for encoding in ["WIN1252", "EUC_JP", "LATIN1", "SQL_ASCII"] {
        let name = format!(
            "in_{}_{}",
            encoding.to_lowercase(),
            uuid::Uuid::new_v4().simple()
        );
        let make = format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        );
        admin.batch_execute(&make).await.unwrap();
        let url = database.url();
        let (before, query) = url.split_once('?').unwrap_or((&url, ""));
        let (server, _) = before.rsplit_once('/').unwrap();
        let options = PostgresOptions::new(format!("{server}/{name}?{query}"));

        let migrated = migrate(&options).await.unwrap_err();
        let opened = PostgresEngine::connect(options)
            .await
            .map(drop)
            .unwrap_err();

        let gone = format!("DROP DATABASE {name}");
        admin.batch_execute(&gone).await.unwrap();
        for error in [migrated, opened] {
            assert!(matches!(error, EngineError::Unusable { .. }), "{error:?}");
            let said = error.to_string();
            assert!(
                said.contains(encoding) && said.contains("ENCODING 'UTF8'"),
                "{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_keeps_an_outcome_from_being_written() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let client = database.connect().await;
    // Takes offence at what it likes, as an encoding does at a character that it has not.
    let offended = "ALTER TABLE lameduck.jobs ADD CHECK (last_error !~ '🦆'), ADD CHECK (octet_length(result) < 9)";
    client.batch_execute(offended).await.unwrap();
    let failed = |error: &str, then| Outcome::Failed {
        error: error.to_owned(),
        then,
    };
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(submit(&engine, a_job(&n.to_string())).await);
    }
    let mut claims = reserve(&engine, 4)
        .await
        .into_iter()
        .map(|reserved| reserved.claim);
    let mut claim = || claims.next().unwrap();
    let settlements = Arc::new(vec![
        claim().settle(failed("quack 🦆", AfterFailure::Dead)),
        claim().settle(Outcome::Postponed {
            error: "🦆".to_owned(),
            until: Duration::ZERO.into(),
        }),
        claim().settle(completed("a result that is long")),
        claim().settle(completed("short")),
    ]);

    let answers = engine.settle(&settlements).await.unwrap();

    assert_eq!(answers, [Settled::Written; 4]);
    let said = record(&engine, ids[0]).await;
    assert_eq!(said.state, State::Dead);
    assert!(said.last_error.unwrap().contains("could not be stored"));
    assert_eq!(state(&engine, ids[1]).await, State::Pending);
    let done = record(&engine, ids[2]).await;
    assert_eq!(
        (done.state, done.result.as_deref()),
        (State::Completed, Some(&b""[..]))
    );
    assert!(done.last_error.unwrap().contains("its result of 21 bytes"));
    assert_eq!(
        record(&engine, ids[3]).await.result.as_deref(),
        Some(&b"short"[..])
    );

    // Nor where nothing at all is taken.
    engine.cancel(ids[1]).await.unwrap();
    let all = "ALTER TABLE lameduck.jobs ADD CHECK (last_error IS NULL) NOT VALID";
    client.batch_execute(all).await.unwrap();
    let id = submit(&engine, a_job("x")).await;
    let reserved = reserve(&engine, 9)
        .await
        .into_iter()
        .find(|r| r.job.id == id)
        .unwrap();
    let dead = reserved
        .claim
        .settle(failed("anything", AfterFailure::Dead));
    assert_eq!(settle(&engine, dead).await, Settled::Written);
    assert_eq!(state(&engine, id).await, State::Dead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_without_end_is_kept_as_far_as_it_helps() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let id = submit(&engine, a_job("x")).await;
    let claim = reserve_one(&engine).await.claim;
    let error = "é".repeat(10 << 20);

    let dead = Outcome::Failed {
        error,
        then: AfterFailure::Dead,
    };
    settle(&engine, claim.settle(dead)).await;

    assert_eq!(
        record(&engine, id).await.last_error.unwrap().len(),
        64 << 10
    );
}

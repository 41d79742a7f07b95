//! Jobs that another application submits inside a transaction of its own.

use tokio_postgres::error::SqlState;

use super::*;

async fn enqueue(client: &impl tokio_postgres::GenericClient, arguments: &str) -> JobId {
    let call = format!("SELECT lameduck.enqueue({arguments})::text");
    let row = client.query_one(&call, &[]).await.unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_there_when_the_transaction_commits_and_never_when_it_does_not() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let mut application = database.connect().await;

    let given_up = application.transaction().await.unwrap();
    let never = enqueue(&given_up, "'mail', 'x'").await;
    given_up.rollback().await.unwrap();
    assert!(engine.job(never).await.unwrap().is_none());

    let order = application.transaction().await.unwrap();
    let id = enqueue(&order, "'mail', 'x', priority => 3, timeout => '90s'").await;
    assert!(reserve(&engine, 9).await.is_empty(), "nobody knows of it");
    order.commit().await.unwrap();

    let reserved = reserve_one(&engine).await;
    assert_eq!((reserved.job.id, &*reserved.job.payload), (id, &b"x"[..]));
    assert_eq!(reserved.job.timeout, Some(Duration::from_secs(90)));
    let settled = settle(&engine, reserved.claim.settle(completed("done"))).await;
    assert_eq!(settled, Settled::Written);
    assert_eq!(i64::from(record(&engine, id).await.priority.get()), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_commit_wakes_a_worker_unless_it_says_otherwise() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    listening(&database, 1).await;
    let mut events = engine.events();
    let application = database.connect().await;

    enqueue(&application, "'mail', 'x', notify => false").await;
    enqueue(&application, "'other', 'x'").await;

    let heard = events.recv().await.unwrap();
    assert_eq!(
        heard,
        lameduck::jobs::engine::Event::Runnable(queue("other"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_means_the_same_to_the_function_and_to_the_program() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let application = database.connect().await;
    let arguments = "'mail', 'x', content_type => 'text/plain', idempotency_key => 'order-17'";
    let keyed = |payload| NewJob {
        idempotency_key: Some("order-17".to_owned()),
        ..a_job(payload)
    };

    let id = enqueue(&application, arguments).await;

    assert_eq!(enqueue(&application, arguments).await, id);
    let again = engine.submit(vec![keyed("x"), keyed("y")]).await.unwrap();
    assert_eq!(again[0].as_ref().unwrap().id, id);
    assert!(again[1].is_err(), "another payload");
    let other = arguments.replace("'x'", "'y'");
    let other = format!("SELECT lameduck.enqueue({other})");
    let refused = application.query_one(&other, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::UNIQUE_VIOLATION));
    assert!(
        refused
            .as_db_error()
            .unwrap()
            .message()
            .contains(&id.to_string()),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_its_name() {
    let database = shared().database().await;
    let _engine = open(quick(&database)).await;
    let application = database.connect().await;
    for (arguments, word) in [
        ("'Mail', 'x'", "queue name"),
        ("NULL, 'x'", "queue name"),
        ("'mail', NULL", "payload"),
        ("'mail', 'x', content_type => ''", "content_type"),
        ("'mail', 'x', content_type => E'a\\nb'", "content_type"),
        ("'mail', 'x', priority => 10", "priority"),
        ("'mail', 'x', priority => NULL", "priority"),
        ("'mail', 'x', max_attempts => 0", "max_attempts"),
        ("'mail', 'x', timeout => '0s'", "timeout"),
        ("'mail', 'x', idempotency_key => ''", "idempotency_key"),
        (
            "'mail', 'x', idempotency_key => E'a\\tb'",
            "idempotency_key",
        ),
    ] {
        let call = format!("SELECT lameduck.enqueue({arguments})");
        let refused = application.query_one(&call, &[]).await.unwrap_err();
        let said = refused.as_db_error().expect(arguments);
        assert_eq!(said.code(), &SqlState::INVALID_PARAMETER_VALUE, "{said:?}");
        assert!(said.message().contains(word), "{arguments}: {said}");
    }
    let json = "SELECT lameduck.enqueue_json('mail', '{\"a\": 1}')";
    application.query_one(json, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_transaction_holds_up_nobody_and_its_jobs_are_counted() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    submit(&engine, a_job("first")).await;
    let mut application = database.connect().await;

    let long = application.transaction().await.unwrap();
    for _ in 0..3 {
        enqueue(&long, "'mail', 'x'").await;
    }
    // So many connections count in every place that there is; a held one would end in this timeout.
    let plain = "SET statement_timeout = '5s';
        INSERT INTO lameduck.jobs (id, queue, state, priority, run_at, max_attempts, submitted_at, content_type, payload)
        SELECT gen_random_uuid(), id, 0, 0, 0, 5, 0, 'text/plain', '' FROM lameduck.queues";
    let mut others = Vec::new();
    for _ in 0..20 {
        let other = database.connect().await;
        other.batch_execute(plain).await.unwrap();
        others.push(other);
    }
    long.commit().await.unwrap();

    let pending = async || engine.queues().await.unwrap()[0].pending;
    assert_eq!(pending().await, 24);
    engine.maintain().await.unwrap();
    assert_eq!(pending().await, 24);
    let own = "SELECT count(*) FROM lameduck.queue_counts WHERE shard >= 16";
    let own = database.connect().await.query_one(own, &[]).await.unwrap();
    assert_eq!(own.get::<_, i64>(0), 0, "folded into the others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_needs_the_right_to_call_it_and_no_other() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let admin = database.connect().await;
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    let make = format!("CREATE ROLE {role}; GRANT USAGE ON SCHEMA lameduck TO {role}");
    admin.batch_execute(&make).await.unwrap();
    let call = format!("SET ROLE {role}; SELECT lameduck.enqueue('mail', 'x'); RESET ROLE");

    let refused = database.connect().await.batch_execute(&call).await;
    let code = refused.unwrap_err().code().cloned();
    assert_eq!(code, Some(SqlState::INSUFFICIENT_PRIVILEGE));

    let grant = format!("GRANT EXECUTE ON FUNCTION lameduck.enqueue TO {role}");
    admin.batch_execute(&grant).await.unwrap();
    let granted = database.connect().await.batch_execute(&call).await;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    admin.batch_execute(&drop).await.unwrap();
    granted.unwrap();
    assert_eq!(engine.queues().await.unwrap()[0].pending, 1);
}

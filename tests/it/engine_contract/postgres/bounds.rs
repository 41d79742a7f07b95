//! What is stored can be read, whichever door it came through; and what can't be read hides nothing else.

use lameduck::jobs::{bounds, job::Listing};
use tokio_postgres::error::SqlState;

use super::*;

async fn by_sql(
    client: &tokio_postgres::Client,
    function: &str,
    arguments: &str,
) -> Option<String> {
    let call = format!("SELECT lameduck.{function}({arguments})");
    let refused = client.query_one(&call, &[]).await.err()?;
    let said = refused
        .as_db_error()
        .unwrap_or_else(|| panic!("{arguments}: {refused}"));
    assert_eq!(
        said.code(),
        &SqlState::INVALID_PARAMETER_VALUE,
        "{arguments}: {said}"
    );
    Some(said.message().to_owned())
}

async fn list(engine: &dyn Engine, state: State) -> lameduck::jobs::job::Page {
    let listing = Listing {
        queue: mail(),
        state,
        after: None,
        limit: 100,
    };
    engine.list(&listing).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_doors_have_the_same_bounds() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let client = database.connect().await;
    let seconds = bounds::MAX_DELAY.as_secs();
    let inside = |change: &dyn Fn(&mut NewJob)| {
        let mut job = a_job("x");
        change(&mut job);
        job
    };
    let key = |bytes: usize| "k".repeat(bytes);
    let umlauts = |characters: usize| "ä".repeat(characters);
    let content_type = |bytes: usize| "t".repeat(bytes);
    let cases: Vec<(bool, String, NewJob)> = vec![
        (
            true,
            format!(
                "run_at => clock_timestamp() + interval '{} s'",
                seconds - 60
            ),
            inside(&|job| job.run_at = Some(Duration::from_secs(seconds - 60).into())),
        ),
        (
            false,
            format!(
                "run_at => clock_timestamp() + interval '{} s'",
                seconds + 60
            ),
            inside(&|job| job.run_at = Some(Duration::from_secs(seconds + 60).into())),
        ),
        (
            false,
            "run_at => '9999-12-31'".to_owned(),
            inside(&|job| {
                job.run_at = Some("9999-12-30T00:00:00Z".parse::<Timestamp>().unwrap().into())
            }),
        ),
        (
            true,
            "run_at => '4000-01-01 BC'".to_owned(),
            inside(&|job| job.run_at = Some(Timestamp::MIN.into())),
        ),
        (
            true,
            "timeout => '1 ms'".to_owned(),
            inside(&|job| job.timeout = Some(*bounds::TIMEOUT.start())),
        ),
        (
            false,
            "timeout => '999 microseconds'".to_owned(),
            inside(&|job| job.timeout = Some(Duration::from_micros(999))),
        ),
        (
            true,
            "timeout => '7 days'".to_owned(),
            inside(&|job| job.timeout = Some(*bounds::TIMEOUT.end())),
        ),
        (
            false,
            "timeout => '604801 s'".to_owned(),
            inside(&|job| job.timeout = Some(*bounds::TIMEOUT.end() + Duration::from_secs(1))),
        ),
        (
            true,
            format!("idempotency_key => '{}'", key(bounds::MAX_KEY)),
            inside(&|job| job.idempotency_key = Some(key(bounds::MAX_KEY))),
        ),
        (
            false,
            format!("idempotency_key => '{}'", key(bounds::MAX_KEY + 1)),
            inside(&|job| job.idempotency_key = Some(key(bounds::MAX_KEY + 1))),
        ),
        (
            false,
            format!("idempotency_key => '{}'", umlauts(bounds::MAX_KEY / 2 + 1)),
            inside(&|job| job.idempotency_key = Some(umlauts(bounds::MAX_KEY / 2 + 1))),
        ),
        (
            false,
            "idempotency_key => U&'a\\0085b'".to_owned(),
            inside(&|job| job.idempotency_key = Some("a\u{85}b".to_owned())),
        ),
        (
            false,
            "idempotency_key => E'a\\x7f'".to_owned(),
            inside(&|job| job.idempotency_key = Some("a\u{7f}".to_owned())),
        ),
        (
            true,
            format!(
                "content_type => '{}'",
                content_type(bounds::MAX_CONTENT_TYPE)
            ),
            inside(&|job| job.content_type = content_type(bounds::MAX_CONTENT_TYPE)),
        ),
        (
            false,
            format!(
                "content_type => '{}'",
                content_type(bounds::MAX_CONTENT_TYPE + 1)
            ),
            inside(&|job| job.content_type = content_type(bounds::MAX_CONTENT_TYPE + 1)),
        ),
        (
            false,
            "content_type => 'naïve'".to_owned(),
            inside(&|job| job.content_type = "naïve".to_owned()),
        ),
        (
            true,
            "traceparent => 'what is this'".to_owned(),
            inside(&|job| job.traceparent = Some("what is this".to_owned())),
        ),
    ];
    for (taken, arguments, job) in cases {
        let sql = by_sql(&client, "enqueue", &format!("'by-sql', 'x', {arguments}")).await;
        assert_eq!(sql.is_none(), taken, "{arguments}: {sql:?}");
        let program = engine.submit(vec![job]).await.unwrap().remove(0);
        assert_eq!(program.is_ok(), taken, "{arguments}: {program:?}");
    }
    for arguments in [
        "run_at => 'infinity'",
        "run_at => '-infinity'",
        "max_attempts => 101",
        "max_attempts => 2147483647",
        "max_attempts => -1",
        "priority => 2147483647",
        "timeout => '-1 s'",
        "timeout => '100000 years'",
    ] {
        let refused = by_sql(&client, "enqueue", &format!("'mail', 'x', {arguments}")).await;
        let refused = refused.unwrap_or_else(|| panic!("{arguments} was taken"));
        let word = arguments.split(' ').next().unwrap();
        assert!(refused.contains(word), "{arguments}: {refused}");
    }
    assert_eq!(list(&engine, State::Pending).await.unreadable, []);
    assert_eq!(list(&engine, State::Scheduled).await.unreadable, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_themselves_refuse_what_no_program_could_read() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    submit(&engine, a_job("x")).await;
    let client = database.connect().await;
    for change in [
        "run_at = 253402300800000000",
        "run_at = -1",
        "submitted_at = 9223372036854775807",
        "ended_at = -62135596800000001",
        "priority = 10",
        "timeout = 0",
        "max_attempts = 0",
        "state = 6",
    ] {
        let update = format!("UPDATE lameduck.jobs SET {change}");
        let refused = client.batch_execute(&update).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Some(&SqlState::CHECK_VIOLATION),
            "{change}: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cant_be_read_is_an_error_about_that_row_alone() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let bad = submit(&engine, a_job("bad")).await;
    let never = submit(&engine, a_job("never")).await;
    let good = submit(&engine, a_job("good")).await;
    let client = database.connect().await;
    let break_it = format!(
        "ALTER TABLE lameduck.jobs DROP CONSTRAINT jobs_instants_in_bounds;
         INSERT INTO lameduck.queues (name) VALUES ('No Such Name');
         UPDATE lameduck.jobs SET run_at = -9223372036854775807 WHERE id = '{bad}';
         UPDATE lameduck.jobs SET run_at = 9223372036854775807 WHERE id = '{never}'"
    );
    client.batch_execute(&break_it).await.unwrap();

    let error = engine.job(never).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreadable(_)), "{error:?}");
    assert!(error.to_string().contains(&never.to_string()), "{error}");
    let page = list(&engine, State::Pending).await;
    assert_eq!((page.jobs.len(), page.jobs[0].id), (1, good));
    assert_eq!(page.unreadable[0].id, Some(bad));
    assert_eq!(
        list(&engine, State::Scheduled).await.unreadable[0].id,
        Some(never)
    );
    assert_eq!(engine.queues().await.unwrap().len(), 1);
    engine.maintain().await.unwrap();

    assert_eq!(reserve_one(&engine).await.job.id, good);
    let dead = list(&engine, State::Dead).await;
    assert_eq!(dead.unreadable[0].id, Some(bad), "it was not run");
    for id in [bad, never] {
        let cancelled = engine.cancel(id).await.unwrap();
        assert_eq!(cancelled, Some(lameduck::jobs::job::Cancelled::Now));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_database_with_such_rows_is_put_in_order_and_its_rights_stay() {
    let database = shared().database().await;
    let client = database.connect().await;
    let steps = [
        include_str!("../../../../crates/postgres/src/schema/1.sql"),
        include_str!("../../../../crates/postgres/src/schema/2.sql"),
    ];
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    let old = format!(
        "CREATE SCHEMA lameduck; {} {} INSERT INTO lameduck.schema_version VALUES (2, 1);
         CREATE ROLE {role}; GRANT USAGE ON SCHEMA lameduck TO {role};
         GRANT EXECUTE ON FUNCTION lameduck.enqueue, lameduck.enqueue_json TO {role};
         SELECT lameduck.enqueue('mail', 'x', run_at => '9999-12-31', max_attempts => 2147483647,
                                 timeout => '1000 years')",
        steps[0], steps[1]
    );
    client.batch_execute(&old).await.unwrap();

    let engine = open(quick(&database)).await;

    let page = list(&engine, State::Scheduled).await;
    assert_eq!((page.jobs.len(), page.unreadable.len()), (1, 0));
    assert!(engine.cancel(page.jobs[0].id).await.unwrap().is_some());
    // By its name alone, as whoever wrote it down before.
    let again =
        format!("GRANT EXECUTE ON FUNCTION lameduck.enqueue, lameduck.enqueue_json TO {role}");
    let calls = format!(
        "SET ROLE {role};
         SELECT lameduck.enqueue_json('mail', '{{\"a\": 1}}');
         SELECT lameduck.enqueue_json('mail', '{{\"a\": 1}}'::jsonb);
         SELECT lameduck.enqueue_json('mail', json_build_object('a', 1));
         RESET ROLE"
    );
    let called = client.batch_execute(&calls).await;
    let granted = client.batch_execute(&again).await;
    let drop = format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}");
    client.batch_execute(&drop).await.unwrap();
    called.unwrap();
    granted.unwrap();
    assert_eq!(engine.queues().await.unwrap()[0].pending, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_json_and_key_are_the_same_job_through_both_doors() {
    let database = shared().database().await;
    let engine = open(quick(&database)).await;
    let client = database.connect().await;
    let text = "{\"b\":1,  \"a\" :[1.0, 1.0],\n\"b\": 2}";
    let job = |payload| NewJob {
        content_type: "application/json".to_owned(),
        idempotency_key: Some("order-17".to_owned()),
        ..a_job(payload)
    };
    let id = submit(&engine, job(text)).await;

    let call = format!(
        "SELECT lameduck.enqueue_json('mail', '{text}', idempotency_key => 'order-17')::text"
    );
    let same: String = client.query_one(&call, &[]).await.unwrap().get(0);

    assert_eq!(same, id.to_string());
    let (_, payload) = engine.payload(id).await.unwrap().unwrap();
    assert_eq!(&*payload, text.as_bytes());
    let broken = "SELECT lameduck.enqueue_json('mail', '{broken')";
    let refused = client.query_one(broken, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_TEXT_REPRESENTATION));
}

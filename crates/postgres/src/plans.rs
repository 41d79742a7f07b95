//! Tests of PostgreSQL's query plans: no statement may read or sort more because many jobs wait or have ended.

use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    address::Address,
    convert::params,
    lookup::NEXT_RUN_AT,
    queue::statements::{
        CANCEL_DEAD, EXPIRE, FOLD_COUNTS, FORGET_KEYS, FREE, FREE_TO_TAKE, PRUNE, RELEASE_HELD,
        RESERVE, REVIVE_ALL, SETTLE, WERE_SETTLED,
    },
    schema,
    session::{PLANNER, Param},
};

#[allow(dead_code)]
#[path = "../../../tests/it/postgres_server.rs"]
mod postgres_server;

use postgres_server::{Database, server};

const PROCESS: Uuid = Uuid::from_u128(1);

/// Number of jobs that wait; as many have ended, a few of them just now.
const JOBS: i64 = 20_000;

/// Number of jobs that run, in all processes together.
const RUNNING: i64 = 2_000;

/// Maximum number of rows that a statement about a few jobs may touch in one of its steps.
const FEW: f64 = 1_000.0;

/// When the planner last gathered statistics about the tables.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Nothing,
    /// Autovacuum ran while the tables were empty.
    Empty,
    /// Autovacuum ran when some jobs had ended, and none waited or ran.
    Quiet,
    /// Autovacuum ran just now.
    All,
}

/// Returns a database with many jobs in it.
async fn crowded(seen: Seen) -> (Database, Client) {
    let database = server().database().await;
    let address = Address::parse(&database.url(), std::time::Duration::from_secs(9)).unwrap();
    let (client, driver) = address.connect().await.unwrap();
    tokio::spawn(driver);
    schema::prepare(&client, &address, true).await.unwrap();
    let ended = format!(
        "INSERT INTO lameduck.jobs (id, queue, state, priority, run_at, max_attempts, submitted_at, ended_at,
                                    content_type, payload)
         SELECT gen_random_uuid(), 1, 2 + n % 3, 0, n, 5, n, n, 'text/plain', '' FROM generate_series(1, {JOBS}) AS n;"
    );
    let fill = format!(
        "INSERT INTO lameduck.jobs (id, queue, state, priority, run_at, max_attempts, submitted_at, content_type, payload)
         SELECT gen_random_uuid(), 1, 0, n % 3 - 1, n, 5, n, 'text/plain', '' FROM generate_series(1, {JOBS}) AS n;
         INSERT INTO lameduck.jobs (id, queue, state, priority, run_at, max_attempts, submitted_at, started_at, process,
                                    claim, content_type, payload)
         SELECT gen_random_uuid(), 1, 1, 0, n, 5, n, n, gen_random_uuid(), gen_random_uuid(), 'text/plain', ''
         FROM generate_series(1, {RUNNING}) AS n;
         INSERT INTO lameduck.idempotency_keys
         SELECT 1, n, gen_random_uuid(), '', n FROM generate_series(1, {JOBS}) AS n;"
    );
    let begin = format!(
        "ALTER TABLE lameduck.jobs SET (autovacuum_enabled = off);
         INSERT INTO lameduck.queues (name) VALUES ('mail');
         INSERT INTO lameduck.processes (id, opened_at, lease) VALUES ('{PROCESS}', 0, 1);"
    );
    let story = match seen {
        Seen::Nothing => [&*begin, &ended, &fill, ""],
        Seen::Empty => [&*begin, "VACUUM ANALYZE", &ended, &fill],
        Seen::Quiet => [&*begin, &ended, "VACUUM ANALYZE", &fill],
        Seen::All => [&*begin, &ended, &fill, "VACUUM ANALYZE"],
    };
    for step in story {
        client.batch_execute(step).await.unwrap();
    }
    (database, client)
}

/// Returns the most rows that any step of the plan produced.
async fn most_rows(client: &Client, sql: &str, params: &[Param<'_>]) -> (f64, String) {
    let begin = format!("BEGIN; {PLANNER}");
    client.batch_execute(&begin).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, FORMAT JSON) {sql}");
    let row = client.query_typed_one(&explain, params).await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    let plan: Json = row.get(0);
    (most(&plan.0), plan.0.to_string())
}

fn most(plan: &Value) -> f64 {
    let number = |key: &str| plan.get(key).and_then(Value::as_f64).unwrap_or_default();
    let here = number("Actual Rows") * number("Actual Loops");
    let thrown_away = number("Rows Removed by Filter") * number("Actual Loops");
    let below: Vec<&Value> = match plan {
        Value::Array(plans) => plans.iter().collect(),
        Value::Object(fields) => fields.values().filter(|v| !v.is_string()).collect(),
        _ => Vec::new(),
    };
    below
        .into_iter()
        .map(most)
        .fold(here.max(thrown_away), f64::max)
}

struct Json(Value);

impl<'a> tokio_postgres::types::FromSql<'a> for Json {
    fn from_sql(
        _: &tokio_postgres::types::Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(serde_json::from_slice(raw)?))
    }

    tokio_postgres::types::accepts!(JSON);
}

#[tokio::test]
async fn no_statement_reads_all_that_waits_or_has_ended() {
    let (ids, tokens) = (vec![Uuid::new_v4(); 20], vec![Uuid::new_v4(); 20]);
    let seqs: Vec<i64> = (1..=20).collect();
    let (numbers, ends) = (vec![0_i16; 20], vec![0_i16; 5]);
    let (none, texts, bytes) = (
        vec![None::<i64>; 20],
        vec![None::<&str>; 20],
        vec![None::<&[u8]>; 20],
    );
    let reserve = params![
        PROCESS => UUID, "mail" => TEXT, JOBS => INT8, 60_000_000_i64 => INT8, 20_i64 => INT8, 84_i64 => INT8,
        tokens => UUID_ARRAY,
    ];
    let settle = params![
        ids => UUID_ARRAY, tokens => UUID_ARRAY, numbers => INT2_ARRAY, none => INT8_ARRAY, texts => TEXT_ARRAY,
        texts => TEXT_ARRAY, bytes => BYTEA_ARRAY, JOBS => INT8, ends => INT2_ARRAY, 20_i32 => INT4,
    ];
    let release = params![
        PROCESS => UUID, JOBS => INT8, true => BOOL, JOBS => INT8, None::<Vec<Uuid>> => UUID_ARRAY, 2_i16 => INT2,
        20_i32 => INT4,
    ];
    let expire =
        params![JOBS => INT8, 500_i64 => INT8, "late" => TEXT, 1_i16 => INT2, 20_i32 => INT4];
    let statements: [(&str, &[Param<'_>]); 13] = [
        (RESERVE, reserve),
        (SETTLE, settle),
        (
            WERE_SETTLED,
            params![ids => UUID_ARRAY, tokens => UUID_ARRAY],
        ),
        (RELEASE_HELD, release),
        (FREE_TO_TAKE, params![PROCESS => UUID]),
        (
            FREE,
            params![PROCESS => UUID, JOBS => INT8, 2_i32 => INT4, seqs => INT8_ARRAY],
        ),
        (
            REVIVE_ALL,
            params![1_i32 => INT4, JOBS => INT8, 100_i64 => INT8],
        ),
        (
            CANCEL_DEAD,
            params![1_i32 => INT4, JOBS => INT8, 100_i64 => INT8],
        ),
        (EXPIRE, expire),
        (PRUNE, params![2_i16 => INT2, JOBS => INT8, 500_i64 => INT8]),
        (FORGET_KEYS, params![JOBS => INT8, 500_i64 => INT8]),
        (FOLD_COUNTS, params![500_i64 => INT8]),
        (NEXT_RUN_AT, params!["mail" => TEXT]),
    ];

    for seen in [Seen::Nothing, Seen::Empty, Seen::Quiet, Seen::All] {
        let (_database, client) = crowded(seen).await;
        for (sql, params) in statements {
            let (rows, plan) = most_rows(&client, sql, params).await;
            assert!(rows <= FEW, "{rows} rows (seen: {seen:?}): {sql}\n{plan}");
        }
    }
}

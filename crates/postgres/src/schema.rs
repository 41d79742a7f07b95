//! The database's schema, and how an older one is brought up to date while others use it.
//!
//! In a rollout old and new programs run side by side. So a step of the schema may only add what an older
//! program does not notice: tables, indexes, columns that are null or have a default. A step that an older
//! program could not live with takes two releases: the first brings a program that can live with both, the
//! second the step, and the step raises `min_compatible` to the schema that the first release writes.
//!
//! | the database's schema | the program |
//! | --- | --- |
//! | older | brings it up to its own, in one transaction, one process after the other |
//! | the same | works |
//! | newer, `min_compatible` not above its own | works: it is the old one in a rollout |
//! | newer, `min_compatible` above it | is refused |

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::{Client, error::SqlState};

use super::{
    address::Address,
    failure::{of_certificate, of_database},
};
use lameduck_jobs::engine::EngineError;

/// "lameduck" in bytes: the process that holds this lock migrates.
const LOCK: i64 = 0x6c61_6d65_6475_636b;

/// How long a step of the schema waits for a table that others write to, during which they wait too.
const TABLE_WAIT: Duration = Duration::from_millis(500);

/// Pause between two attempts, so that the others get on.
const PAUSE: Duration = Duration::from_secs(2);

/// How long a migration is tried; less than opening may take, so that there is time to report what was in its way.
const PATIENCE: Duration = Duration::from_secs(45);

/// The oldest PostgreSQL that is known to work.
const OLDEST: i32 = 130_000;

/// The steps from an empty database to today's. Never edit one that was released: append.
const MIGRATIONS: &[Step] = &[
    Step {
        version: 1,
        min_compatible: 1,
        sql: include_str!("schema/1.sql"),
    },
    Step {
        version: 2,
        min_compatible: 1,
        sql: include_str!("schema/2.sql"),
    },
    Step {
        version: 3,
        min_compatible: 1,
        sql: include_str!("schema/3.sql"),
    },
];

/// Errors that pass after some time: a server that starts, stops or is overloaded, and locks that others hold.
const MAY_WORK_LATER: [SqlState; 10] = [
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::TOO_MANY_CONNECTIONS,
    // The code for a database that takes no connections at the moment.
    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    SqlState::LOCK_NOT_AVAILABLE,
    SqlState::QUERY_CANCELED,
    SqlState::T_R_DEADLOCK_DETECTED,
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::READ_ONLY_SQL_TRANSACTION,
];

struct Step {
    version: i32,
    min_compatible: i32,
    sql: &'static str,
}

/// The version of a database's schema before and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schema {
    /// The version that was found; `None` if there was no schema of ours.
    pub found: Option<i32>,
    /// The version that is there now.
    pub version: i32,
}

/// The schema that this program writes.
const fn version() -> i32 {
    MIGRATIONS[MIGRATIONS.len() - 1].version
}

/// Checks the server, and brings the schema up to date if it `may`; otherwise an older one is refused.
pub(super) async fn prepare(
    client: &Client,
    address: &Address,
    may: bool,
) -> Result<Schema, EngineError> {
    check_server(client, address).await?;
    let found = found(client)
        .await
        .map_err(|error| failed(address, &error))?;
    match found {
        Some(found) if found.0 >= version() => refuse_newer(address, found),
        _ if may => migrate(client, address, found.map(|(found, _)| found)).await,
        _ => Err(unusable(address, &older(found.map(|(found, _)| found)))),
    }
}

/// Checks that there is a schema which this program can read, and changes nothing.
pub(super) async fn check(client: &Client, address: &Address) -> Result<(), EngineError> {
    let found = found(client).await;
    match found.map_err(|error| failed(address, &error))? {
        Some(found) => refuse_newer(address, found).map(drop),
        None => Err(unusable(address, "there is no queue of lameduck in it")),
    }
}

fn older(found: Option<i32>) -> String {
    let found = match found {
        Some(version) => format!("its schema is version {version}"),
        None => "there is no schema 'lameduck' in it".to_owned(),
    };
    format!(
        "{found}, and this program needs version {}: run 'lameduck migrate' on it first, or let the program do that \
         at its start (setting 'database-migrate')",
        version()
    )
}

async fn check_server(client: &Client, address: &Address) -> Result<(), EngineError> {
    let about =
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                        current_setting('synchronous_commit'), current_setting('server_encoding'), current_database()";
    let about = client
        .query_typed_one(about, &[])
        .await
        .map_err(|error| failed(address, &error))?;
    let (number, name, commit): (i32, &str, &str) = (about.get(0), about.get(1), about.get(2));
    let (encoding, database): (&str, &str) = (about.get(3), about.get(4));
    if number < OLDEST {
        return Err(unusable(
            address,
            &format!("this is PostgreSQL {name}; use version 13 or later"),
        ));
    }
    if encoding != "UTF8" {
        // An error message with characters that this encoding lacks could not be stored.
        return Err(unusable(
            address,
            &format!(
                "its encoding is {encoding}, and what jobs and their errors say needs UTF8: name a database that was \
                 made so, as by CREATE DATABASE \"{database}_utf8\" ENCODING 'UTF8' TEMPLATE template0 (with LC_COLLATE \
                 'C' LC_CTYPE 'C' where the server's locale has another encoding)"
            ),
        ));
    }
    if commit == "off" {
        tracing::warn!(
            "the database has synchronous_commit = off: a crash of its machine loses jobs that were acknowledged; \
             set it on for this user: ALTER ROLE … SET synchronous_commit = on"
        );
    }
    Ok(())
}

/// Returns the version and the oldest compatible one; `None` if there is no schema of ours yet.
async fn found(client: &Client) -> Result<Option<(i32, i32)>, tokio_postgres::Error> {
    // Not `to_regclass`: that one answers from the session's memory, which a lock does not refresh.
    let ours = "
        SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'lameduck' AND c.relname = 'schema_version'";
    if client.query_typed_opt(ours, &[]).await?.is_none() {
        return Ok(None);
    }
    let version = "SELECT version, min_compatible FROM lameduck.schema_version";
    let version = client.query_typed_opt(version, &[]).await?;
    Ok(version.map(|row| (row.get(0), row.get(1))))
}

/// Applies all the missing steps in one transaction. Another process that comes at the same time waits for
/// the lock and finds them done.
async fn migrate(
    client: &Client,
    address: &Address,
    before: Option<i32>,
) -> Result<Schema, EngineError> {
    let begun = Instant::now();
    let found = loop {
        let done = steps(client).await;
        let end = match done {
            Ok(_) => "COMMIT",
            Err(_) => "ROLLBACK",
        };
        let ended = client.batch_execute(end).await;
        match done {
            Ok(found) => {
                ended.map_err(|error| failed(address, &error))?;
                break found;
            }
            Err(error) if begins_anew(&error) && begun.elapsed() < PATIENCE => sleep(PAUSE).await,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Err(locked(client, address, &error).await);
            }
            Err(error) => return Err(failed(address, &error)),
        }
    };
    match found {
        Some(found) => refuse_newer(address, found),
        None => Ok(Schema {
            found: before,
            version: version(),
        }),
    }
}

/// Whether another attempt at a migration may succeed: somebody had a table locked, or wrote into it.
fn begins_anew(error: &tokio_postgres::Error) -> bool {
    let codes = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::CHECK_VIOLATION,
    ];
    error.code().is_some_and(|code| codes.contains(code))
}

/// Returns the error for tables that others have locked, with their names.
async fn locked(client: &Client, address: &Address, error: &tokio_postgres::Error) -> EngineError {
    let holders = "
        SELECT DISTINCT format('pid %s of %s%s, in a transaction for %s s', a.pid, a.usename,
                               coalesce(' (' || nullif(a.application_name, '') || ')', ''),
                               extract(epoch FROM now() - a.xact_start)::bigint)
        FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE n.nspname = 'lameduck' AND l.granted AND a.xact_start < now() - interval '1 second' LIMIT 5";
    let found = client.query_typed(holders, &[]).await.unwrap_or_default();
    let found: Vec<String> = found.iter().filter_map(|row| row.try_get(0).ok()).collect();
    let who = match found.is_empty() {
        true => String::new(),
        false => format!(": {}", found.join("; ")),
    };
    let message = format!(
        "its schema can't be brought up to date as long as others have its tables locked ({}){who}",
        of_database(error)
    );
    EngineError::Storage(unusable(address, &message).to_string())
}

/// Applies the missing steps; returns the schema found if somebody else was faster.
async fn steps(client: &Client) -> Result<Option<(i32, i32)>, tokio_postgres::Error> {
    let lock =
        format!("BEGIN; SET LOCAL lock_timeout = '40s'; SELECT pg_advisory_xact_lock({LOCK})");
    client.batch_execute(&lock).await?;
    let found = found(client).await?;
    if found.is_some_and(|(found, _)| found >= version()) {
        return Ok(found);
    }
    let schema = "SELECT 1 FROM pg_namespace WHERE nspname = 'lameduck'";
    if client.query_typed_opt(schema, &[]).await?.is_none() {
        client.batch_execute("CREATE SCHEMA lameduck").await?;
    }
    // While a step waits for a table, everybody who wants to write a row waits behind it.
    let wait = format!("SET LOCAL lock_timeout = {}", TABLE_WAIT.as_millis());
    client.batch_execute(&wait).await?;
    let mut at = found.map_or(0, |(found, _)| found);
    for step in MIGRATIONS.iter().filter(|step| step.version > at) {
        client.batch_execute(step.sql).await?;
    }
    if let Some(last) = MIGRATIONS.last() {
        at = last.version;
        let write = format!(
            "DELETE FROM lameduck.schema_version; INSERT INTO lameduck.schema_version VALUES ({at}, {})",
            last.min_compatible
        );
        client.batch_execute(&write).await?;
    }
    tracing::info!(version = at, "the database's schema is up to date");
    Ok(None)
}

fn refuse_newer(address: &Address, found: (i32, i32)) -> Result<Schema, EngineError> {
    let (found, min_compatible) = found;
    if min_compatible <= version() {
        return Ok(Schema {
            found: Some(found),
            version: found,
        });
    }
    let message = format!(
        "it was written by a newer version (schema {found}, which needs a program that knows {min_compatible}; this \
         one knows {}); run that version, or name another database",
        version()
    );
    Err(unusable(address, &message))
}

/// Returns the error for a database that failed. If it is only down, or was busy, it may work later.
pub(super) fn failed(address: &Address, error: &tokio_postgres::Error) -> EngineError {
    let mut message = of_database(error);
    if error.code() == Some(&SqlState::DUPLICATE_TABLE) {
        message += "; its schema 'lameduck' is somebody else's: name another database";
    }
    let why = unusable(address, &message);
    // Without a code there was no answer at all.
    let may_work = error
        .code()
        .is_none_or(|code| MAY_WORK_LATER.contains(code));
    match may_work && !of_certificate(error) {
        true => EngineError::Storage(why.to_string()),
        false => why,
    }
}

/// Returns the error for a database that can't be used as it is.
pub(super) fn unusable(address: &Address, message: &str) -> EngineError {
    EngineError::Unusable {
        context: format!("opening the database {}", address.to_people()),
        message: message.to_owned(),
    }
}

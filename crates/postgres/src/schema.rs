//! What the database looks like, and how an older one becomes like it, while others use it.
//!
//! In a rollout old and new programs run side by side. So a step of the schema may only bring what an older
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

use tokio_postgres::{Client, error::SqlState};

use super::{
    address::Address,
    failure::{of_certificate, of_database},
};
use lameduck_jobs::engine::EngineError;

/// "lameduck" in bytes: who holds it migrates.
const LOCK: i64 = 0x6c61_6d65_6475_636b;

/// The oldest PostgreSQL that is known to do.
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
];

/// What is over some time: a start or an end of the server, a rush on it, others who have it locked.
const MAY_WORK_LATER: [SqlState; 10] = [
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::TOO_MANY_CONNECTIONS,
    // What it says of a database that takes no connections at the moment.
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

/// What a database's schema was, and what it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schema {
    /// The version that was found; `None` where there was nothing of ours.
    pub found: Option<i32>,
    /// The version that is there now.
    pub version: i32,
}

/// The schema that this program writes.
const fn version() -> i32 {
    MIGRATIONS[MIGRATIONS.len() - 1].version
}

/// Checks the server, and brings the schema up to today's where it `may`; else an older one is refused.
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
                        current_setting('synchronous_commit')";
    let about = client
        .query_typed_one(about, &[])
        .await
        .map_err(|error| failed(address, &error))?;
    let (number, name, commit): (i32, &str, &str) = (about.get(0), about.get(1), about.get(2));
    if number < OLDEST {
        return Err(unusable(
            address,
            &format!("this is PostgreSQL {name}; use version 13 or later"),
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

/// The version and the oldest compatible one; `None` where there is nothing of ours yet.
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

/// All the missing steps in one transaction. Whoever comes at the same time waits for the lock and finds
/// them done.
async fn migrate(
    client: &Client,
    address: &Address,
    before: Option<i32>,
) -> Result<Schema, EngineError> {
    let done = steps(client).await;
    let end = match done {
        Ok(_) => "COMMIT",
        Err(_) => "ROLLBACK",
    };
    let ended = client.batch_execute(end).await;
    let found = done.map_err(|error| failed(address, &error))?;
    ended.map_err(|error| failed(address, &error))?;
    match found {
        Some(found) => refuse_newer(address, found),
        None => Ok(Schema {
            found: before,
            version: version(),
        }),
    }
}

/// What was found instead, where somebody else was faster.
async fn steps(client: &Client) -> Result<Option<(i32, i32)>, tokio_postgres::Error> {
    let lock =
        format!("BEGIN; SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock({LOCK})");
    client.batch_execute(&lock).await?;
    let found = found(client).await?;
    if found.is_some_and(|(found, _)| found >= version()) {
        return Ok(found);
    }
    let schema = "SELECT 1 FROM pg_namespace WHERE nspname = 'lameduck'";
    if client.query_typed_opt(schema, &[]).await?.is_none() {
        client.batch_execute("CREATE SCHEMA lameduck").await?;
    }
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

/// The error for a database that did not do it. Where it is only down, or was busy, it may work later.
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

/// The error for a database that can't be used as it is.
pub(super) fn unusable(address: &Address, message: &str) -> EngineError {
    EngineError::Unusable {
        context: format!("opening the database {}", address.to_people()),
        message: message.to_owned(),
    }
}

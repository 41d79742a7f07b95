//! Error messages that say what went wrong and what to do about it.

use std::{error::Error as _, io};

use deadpool_postgres::PoolError;
use tokio_postgres::{Error, error::SqlState};

use super::session::Failure;
use lameduck_jobs::engine::EngineError;

/// Returns the error for the caller. `perhaps_done`: the failure happened at the COMMIT.
pub(super) fn explain(failure: &Failure, perhaps_done: bool) -> EngineError {
    let why = match failure {
        Failure::Database(error) if failure.is_locked() && !perhaps_done => {
            return EngineError::Locked(of_lock(error));
        }
        Failure::Database(error) => of_database(error),
        Failure::NoConnection(PoolError::Closed) => return EngineError::Closed,
        Failure::NoConnection(PoolError::Timeout(_)) => {
            "no connection to the database in time; it is down, or slow, or more connections are \
             needed (setting 'database-connections')"
                .to_owned()
        }
        Failure::NoConnection(PoolError::Backend(error)) => of_database(error),
        Failure::NoConnection(error) => error.to_string(),
        Failure::Silent(patience) => format!(
            "the database did not answer within {} s; it hangs, or the network does",
            patience.as_secs_f64()
        ),
        Failure::NewQueue(queue) => {
            return EngineError::Locked(format!(
                "another transaction in the database has used the new queue '{queue}' first and has not ended; nothing \
                 was written"
            ));
        }
        Failure::Raced => "others were faster again and again".to_owned(),
        Failure::Unreadable(what) => what.clone(),
    };
    let done = match perhaps_done {
        true => "it may or may not have been written",
        false => "nothing was written",
    };
    EngineError::Storage(format!("{why}; {done}"))
}

/// Describes a failure for callers that need not know what became of a transaction.
pub(super) fn in_words(failure: &Failure) -> String {
    match failure {
        Failure::Database(error) => of_database(error),
        Failure::Unreadable(what) => what.clone(),
        other => format!("{other:?}"),
    }
}

/// Describes what is locked, as far as PostgreSQL names it.
fn of_lock(error: &Error) -> String {
    let place = error
        .as_db_error()
        .and_then(|said| said.where_()?.lines().next());
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    format!(
        "another transaction in the database has locked what this needs, and has not ended{place}; nothing was written. \
         pg_stat_activity shows who has been in a transaction for long"
    )
}

/// Returns PostgreSQL's message, and what to do about it.
pub(super) fn of_database(error: &Error) -> String {
    let Some(said) = error.as_db_error() else {
        let cause = error.source().map(|cause| format!(": {cause}"));
        let remedy = match of_certificate(error) {
            true => {
                "; the server's certificate has to be for the host in the database's URL, by an authority that this \
                 system knows or that sslrootcert=/path in the URL names"
            }
            false => "",
        };
        return format!("{error}{}{remedy}", cause.unwrap_or_default());
    };
    let remedy = remedy(said.code())
        .map(|remedy| format!("; {remedy}"))
        .unwrap_or_default();
    format!("{} ({}){remedy}", said.message(), said.code().code())
}

/// Whether the server is reachable but could not prove that it is the right one.
pub(super) fn of_certificate(error: &Error) -> bool {
    let io = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    let tls = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

fn remedy(code: &SqlState) -> Option<&'static str> {
    Some(match *code {
        SqlState::QUERY_CANCELED => {
            "a statement took longer than it may: the database is overloaded, or somebody holds a lock"
        }
        SqlState::TOO_MANY_CONNECTIONS => {
            "each process takes its pool and three more: raise max_connections, make the pool smaller, or put a \
             PgBouncer between"
        }
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "check the user and the password in the database's URL, and the server's pg_hba.conf"
        }
        SqlState::INVALID_CATALOG_NAME => {
            "create it, or name another one in the database's URL: CREATE DATABASE …"
        }
        SqlState::DISK_FULL => "the database's disk is full: free some space or enlarge it",
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "the user needs a schema of its own: CREATE SCHEMA lameduck AUTHORIZATION <user>"
        }
        SqlState::READ_ONLY_SQL_TRANSACTION => {
            "this server is a standby or set to read only: the URL has to lead to the primary"
        }
        _ => return None,
    })
}

//! The drain ledger for readers beside the process that owns the database, or after its death.
//!
//! Nothing is changed here, neither rows nor who has the directory. A row that is still open belongs to the
//! living process, or to one that was killed and whose row nobody has closed yet: the lock on the directory
//! tells which.

use std::{collections::BTreeSet, fs, io, path::Path};

use rusqlite::Connection;

use super::{
    connection::{self, explain},
    directory::Directory,
    drains, schema,
    time::Shift,
};
use lameduck_jobs::{
    engine::EngineError,
    job::ProcessId,
    ledger::{DrainRow, KILLED},
};

/// Returns the latest process runs in the ledger of this data directory, at most this many, the latest first;
/// like [`Ledger::drains`](lameduck_jobs::ledger::Ledger::drains), but shows a killed process as killed even
/// before the next one finds out. Works beside a running process. Blocks.
///
/// # Errors
/// If there is no queue in this directory, or it can't be read.
pub fn read_drains(directory: &Path, limit: usize) -> Result<Vec<DrainRow>, EngineError> {
    let database = Directory::database_in(directory);
    if let Err(error) = fs::metadata(&database) {
        let message = match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no queue; name its data directory (--data)".to_owned()
            }
            _ => format!("{error}; look as the user whose queue it is"),
        };
        return Err(EngineError::Unusable {
            context: format!("looking for the drain ledger in {}", directory.display()),
            message,
        });
    }
    let connection = connection::beside(&database)?;
    let read = || {
        read(&connection, limit).map_err(|error| EngineError::Storage(explain(&database, &error)))
    };
    let rows = read()?;
    let open: BTreeSet<_> = open(&rows).collect();
    if open.is_empty() || !Directory::is_free(directory)? {
        return Ok(rows);
    }
    // No process that had an open row then is alive now. But it may have closed its row before it went, and
    // another process may have opened one since.
    let mut rows = read()?;
    for row in &mut rows {
        if row.outcome.is_none() && open.contains(&row.process) {
            row.outcome = Some(KILLED.to_owned());
        }
    }
    Ok(rows)
}

fn read(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<DrainRow>> {
    match schema::is_empty(connection)? {
        true => Ok(Vec::new()),
        false => {
            let shift = Shift::of(connection);
            let rows = drains::newest(connection, limit)?;
            Ok(rows.into_iter().map(|row| shift.drain(row)).collect())
        }
    }
}

fn open(rows: &[DrainRow]) -> impl Iterator<Item = ProcessId> {
    let open = rows.iter().filter(|row| row.outcome.is_none());
    open.map(|row| row.process)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{SqliteEngine, SqliteOptions};
    use lameduck_jobs::{
        engine::Engine,
        ledger::{LastWord, Ledger},
    };

    fn open(directory: &Path) -> SqliteEngine {
        SqliteEngine::open(directory, SqliteOptions::default()).unwrap()
    }

    fn outcomes(directory: &Path) -> Vec<Option<String>> {
        let rows = read_drains(directory, 20).unwrap();
        rows.into_iter().map(|row| row.outcome).collect()
    }

    #[tokio::test]
    async fn a_living_process_is_told_as_living_and_one_without_a_last_word_as_killed() {
        let place = tempfile::tempdir().unwrap();
        let engine = open(place.path());
        assert_eq!(outcomes(place.path()), [None]);
        engine
            .mark_drain("abc", "signal", Duration::ZERO)
            .await
            .unwrap();
        engine
            .close_drain(&LastWord {
                drain_id: "abc".to_owned(),
                cause: "signal".to_owned(),
                outcome: "clean".to_owned(),
                seconds: 1.5,
                report: "{}".to_owned(),
                ..LastWord::default()
            })
            .await
            .unwrap();
        engine.close().await;
        drop(engine);
        drop(open(place.path()));

        assert_eq!(
            outcomes(place.path()),
            [Some("killed".to_owned()), Some("clean".to_owned())]
        );
        let _third = open(place.path());
        assert_eq!(outcomes(place.path()).len(), 3);
        assert_eq!(outcomes(place.path())[0], None);
        assert_eq!(read_drains(place.path(), 1).unwrap().len(), 1);
    }

    #[test]
    fn where_there_is_no_queue_it_says_so_and_makes_none() {
        let place = tempfile::tempdir().unwrap();
        for directory in [place.path(), &place.path().join("missing")] {
            let error = read_drains(directory, 1).unwrap_err().to_string();
            assert!(error.contains("--data"), "{error}");
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_database_of_somebody_else_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let database = place.path().join("lameduck.db");
        Connection::open(&database)
            .unwrap()
            .execute_batch("CREATE TABLE processes (id); INSERT INTO processes VALUES (1)")
            .unwrap();
        let error = read_drains(place.path(), 1).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");

        fs::write(
            &database,
            "not a database, but long enough to look like one".repeat(100),
        )
        .unwrap();
        let error = read_drains(place.path(), 1).unwrap_err().to_string();
        assert!(error.contains("not a database"), "{error}");

        fs::write(&database, "").unwrap();
        assert_eq!(read_drains(place.path(), 1).unwrap(), []);
    }
}

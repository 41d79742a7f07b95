//! Connections: opened in the only right way, with errors that say what to do.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema::{self, Found};
use lameduck_jobs::engine::EngineError;

/// Before this version, a WAL reset could corrupt the database (the bug was fixed in 3.51.3).
const OLDEST_SQLITE: i32 = 3_051_003;

/// Opens the writing connection, and brings the database up to today's schema.
pub(super) fn writer(database: &Path) -> Result<Connection, EngineError> {
    assert_version(rusqlite::version_number(), rusqlite::version())?;
    let unusable = |error: rusqlite::Error| unusable(explain(database, &error));
    let mut connection = open(database, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(unusable)?;
    // This comes before any change: WAL mode is written into the file.
    match schema::inspect(&connection).map_err(unusable)? {
        Found::Ours => {}
        found => return Err(refuse(database, &found)),
    }
    configure(&connection).map_err(unusable)?;
    schema::migrate(&mut connection).map_err(unusable)?;
    Ok(connection)
}

/// Opens a reading connection, which sees what was committed when its statement began.
pub(super) fn reader(database: &Path) -> Result<Connection, EngineError> {
    open(database, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| unusable(explain(database, &error)))
}

/// Opens a connection that reads a database of today's schema beside its writer, or after the writer's end.
pub(super) fn beside(database: &Path) -> Result<Connection, EngineError> {
    let unusable = |error: rusqlite::Error| unusable(explain(database, &error));
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let mut connection = open(database, read_only).map_err(unusable)?;
    let mut found = schema::inspect(&connection);
    let may_not_write = |error: &rusqlite::Error| {
        let code = error.sqlite_error_code();
        matches!(code, Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
    };
    if found.as_ref().is_err_and(may_not_write) && !has_wal(database) {
        // A reader, too, tries to create the shared memory of a write-ahead log, and may not. There is no
        // log, and so no writer: everything is in the file.
        let flags = read_only | OpenFlags::SQLITE_OPEN_URI;
        connection = open(&immutable(database), flags).map_err(unusable)?;
        found = schema::inspect(&connection);
    }
    match found.map_err(unusable)? {
        Found::Ours => Ok(connection),
        found => Err(refuse(database, &found)),
    }
}

fn has_wal(database: &Path) -> bool {
    let mut wal = database.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(Path::new(&wal)).is_ok_and(|wal| wal.len() > 0)
}

/// Returns a URI (https://sqlite.org/uri.html), which needs a few characters escaped.
fn immutable(database: &Path) -> PathBuf {
    let path = database.to_string_lossy();
    let path = path.replace('%', "%25").replace('?', "%3f");
    format!("file:{}?immutable=1", path.replace('#', "%23")).into()
}

/// Explains to an operator what a failed statement means.
pub(super) fn explain(database: &Path, error: &rusqlite::Error) -> String {
    let path = database.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("{path}: the disk is full ({error}); free some space or enlarge the volume")
        }
        Some(ErrorCode::NotADatabase) => {
            format!(
                "{path} is not a database ({error}); move it away or name another directory (--data)"
            )
        }
        Some(ErrorCode::DatabaseCorrupt) => format!(
            "{path} is damaged ({error}); stop the program, keep a copy, and restore a backup or recover it with \
             'sqlite3 lameduck.db .recover'"
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => format!(
            "{path}: {error}; the file and its directory have to be writable for user {}",
            rustix::process::geteuid().as_raw()
        ),
        // With a full disk, its shared memory fails with an I/O error.
        Some(ErrorCode::SystemIoFailure) if is_full(database) => {
            format!("{path}: the disk is full ({error}); free some space or enlarge the volume")
        }
        Some(ErrorCode::SystemIoFailure) => {
            format!("{path}: {error}; look at the volume and at the kernel's log")
        }
        _ => format!("{path}: {error}"),
    }
}

fn is_full(database: &Path) -> bool {
    let directory = database.parent().unwrap_or(database);
    rustix::fs::statvfs(directory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize < 64 << 10)
}

fn open(database: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // No mutex: each connection stays on one thread.
    let connection =
        Connection::open_with_flags(database, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // This comes first, so that everything after it waits for a checkpoint or a recovery instead of failing.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::ToSqlConversionFailure(
            "this file system can't hold a write-ahead log (no shared memory): use a local disk or a block volume, not a \
             network file system"
                .into(),
        ));
    }
    // In WAL mode NORMAL does not sync at a commit: a power cut would lose what was acknowledged.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // There are no foreign keys: a job's rows come and go together, in code that is in one place.
    connection.pragma_update(None, "foreign_keys", "OFF")?;
    // A burst makes the WAL large; it need not stay so.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)
}

fn assert_version(number: i32, name: &str) -> Result<(), EngineError> {
    if number >= OLDEST_SQLITE {
        return Ok(());
    }
    Err(EngineError::Unusable {
        context: "checking the SQLite library".to_owned(),
        message: format!(
            "version {name} can corrupt a database in WAL mode; build with the bundled one, or with 3.51.3 or later"
        ),
    })
}

fn refuse(database: &Path, found: &Found) -> EngineError {
    let message = match found {
        Found::Newer(version) => format!(
            "it was written by a newer version (schema {version}, this program knows {}); run that version again, or \
             name another directory (--data)",
            schema::version()
        ),
        _ => "it is a database of another program; move it away or name another directory (--data)"
            .to_owned(),
    };
    unusable(format!("{}: {message}", database.display()))
}

/// The message begins with the database's path.
fn unusable(message: String) -> EngineError {
    EngineError::Unusable {
        context: "opening the database".to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_library_with_the_wal_reset_bug_is_refused() {
        assert!(assert_version(3_040_001, "3.40.1").is_err());
        assert!(assert_version(rusqlite::version_number(), rusqlite::version()).is_ok());
    }

    #[test]
    fn a_commit_is_synced_before_it_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("a.db");
        std::fs::File::create(&database).unwrap();
        let connection = writer(&database).unwrap();

        let synchronous: i64 = connection
            .query_row("PRAGMA synchronous", [], |r| r.get(0))
            .unwrap();
        let mode: String = connection
            .query_row("PRAGMA journal_mode", [], |r| r.get(0))
            .unwrap();
        assert_eq!((synchronous, mode.as_str()), (2, "wal"));
    }

    #[test]
    fn a_database_that_nobody_may_write_is_read_wherever_it_is() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("50%? of #1");
        std::fs::create_dir(&directory).unwrap();
        let database = directory.join("a.db");
        std::fs::File::create(&database).unwrap();
        drop(writer(&database).unwrap());
        let mode = |mode| std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode));
        mode(0o500).unwrap();

        // Root may write everywhere: for root the second connection is what others get from the first.
        let beside = beside(&database);
        let immutable = open(
            &immutable(&database),
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
        );

        mode(0o700).unwrap();
        assert_eq!(schema::inspect(&beside.unwrap()).unwrap(), Found::Ours);
        assert!(!schema::is_empty(&immutable.unwrap()).unwrap());
    }
}

//! The database's schema, and how an older one is brought up to date.

use rusqlite::{Connection, TransactionBehavior};

/// "LDUK" in the header of every database of ours, so that no other database is taken for one.
pub(super) const APPLICATION_ID: i32 = 0x4c44_554b;

/// The steps from an empty database to today's, each with the schema that it leads to. Never edit one that was
/// released: append.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("schema/1.sql")),
    (2, include_str!("schema/2.sql")),
    (3, include_str!("schema/3.sql")),
];

/// The database's origin according to its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// An empty database, or one with an older schema of ours.
    Ours,
    /// A database written by a later version, in this schema.
    Newer(i64),
    /// Another program's database.
    Foreign,
}

/// The schema that this program writes.
pub(super) const fn version() -> i64 {
    MIGRATIONS[MIGRATIONS.len() - 1].0
}

/// Reads the header, without changing anything.
pub(super) fn inspect(connection: &Connection) -> rusqlite::Result<Found> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |r| r.get(0))?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    Ok(match application {
        APPLICATION_ID if found > version() => Found::Newer(found),
        APPLICATION_ID => Found::Ours,
        0 if found == 0 && objects == 0 => Found::Ours,
        _ => Found::Foreign,
    })
}

/// Whether nothing was ever written into the database.
pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    Ok(found == 0)
}

/// Brings the schema up to date, each step in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if found == 0 {
        // Set before the first table, because later it takes a rewrite of the whole file: pages that stay
        // empty for long can go back to the file system, a few at a time.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    for (step, sql) in MIGRATIONS.iter().filter(|(step, _)| *step > found) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", step)?;
        transaction.commit()?;
    }
    Ok(())
}

//! `lameduck migrate`: brings the database's schema up to date before a process needs it.

use std::process::ExitCode;

use anyhow::Context;
use lameduck::jobs::engine::postgres::{self, Schema};

use crate::{cli, config, logging, runtime, storage};

/// Brings the schema up to date and prints its old and its new version.
pub fn run(asked: cli::Storage) -> ExitCode {
    logging::install();
    match migrate(asked) {
        Ok(schema) => {
            println!("{}", tell(schema));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lameduck: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn migrate(asked: cli::Storage) -> anyhow::Result<Schema> {
    let process = config::storage(asked)?;
    let database = storage::database(&process)?.context(
        "no PostgreSQL database is named: give --database, --database-file, or a --config with one of them. The \
         embedded database needs no such step",
    )?;
    let options = storage::postgres_options(&process, database);
    Ok(runtime::of_one_thread()?.block_on(postgres::migrate(&options))?)
}

fn tell(Schema { found, version, .. }: Schema) -> String {
    match found {
        Some(found) if found == version => format!("schema {version}: nothing to do"),
        Some(found) => format!("schema {version}: brought up to date from {found}"),
        None => format!("schema {version}: made"),
    }
}

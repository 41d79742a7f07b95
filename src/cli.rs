//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{Settings, Time};

/// A job service whose pods can be rolled at any moment.
///
/// Jobs come in over HTTP, are stored durably, and are run by parallel workers. On SIGTERM the process
/// fails readiness, goes on serving until nobody routes to it, finishes or gives back its jobs inside its
/// grace period, and says what happened.
#[derive(Debug, Parser)]
#[command(name = "lameduck", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take in jobs over HTTP and run them.
    Serve(Box<Serve>),
    /// A handler to try things with: reads its payload, takes its time, answers.
    Demo {
        /// How long it works.
        #[arg(long, default_value = "3s", value_name = "DURATION")]
        duration: Time,
    },
    /// Print the version.
    Version,
}

/// `lameduck serve`.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// A TOML file with the settings below, by the same names without the dashes in front.
    #[arg(long, env = "LAMEDUCK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

//! The command line.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf};

use clap::{Parser, Subcommand};
use lameduck_doctor::Workload;
use rustix::process::Signal;

use crate::{
    config::{
        Address, DEFAULT_ADMIN, Database, DrainFlags, SecretFile, Settings, Target, Time, Value,
    },
    run,
};

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
    /// Run a program, and drain in front of it: the entry point of its container, or of its unit.
    ///
    /// On SIGTERM readiness fails, and the program goes on serving, unaware, until nobody routes to it and its clients
    /// have left. Then it gets its stop signal, and the rest of the grace period. With --listen, requests reach it
    /// through lameduck; without, it is told at once, and its end is waited for.
    Run(Box<Run>),
    /// A handler to try things with: reads its payload, takes its time, answers.
    Demo {
        /// How long it works.
        #[arg(long, default_value = "3s", value_name = "DURATION")]
        duration: Time,
    },
    /// Check a configuration, or show what is in force and where it comes from.
    #[command(subcommand)]
    Config(Config),
    /// Say what would make a rollout lose work, by the live objects of a workload in Kubernetes.
    ///
    /// It reads the workload, its Pods, Services, PodDisruptionBudgets, claims and permissions, changes nothing,
    /// and ends within half a minute. In a pod it looks at that pod's own workload; elsewhere by a kubeconfig
    /// (KUBECONFIG, or ~/.kube/config) at the one that is named.
    #[command(after_help = crate::doctor::EXIT_STATUSES)]
    Doctor(Doctor),
    /// Print how the latest processes of a queue ended, from the drain ledger in its database.
    ///
    /// It reads the files in the data directory, beside a running process or after it, and changes nothing; or it
    /// asks a running service. A process that left no word is told as killed.
    Drains(Drains),
    /// Bring the schema of a PostgreSQL database up to date, and start nothing.
    ///
    /// What 'serve' does at its start unless database-migrate = false. Processes of the version before may go on
    /// working meanwhile, and several may migrate at once.
    Migrate(Storage),
    /// Ask a running process' probe, and exit with 0 where it succeeds: for images without curl.
    Healthcheck(Healthcheck),
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

/// `lameduck run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Where requests are taken in for the program: HOST:PORT, or unix:PATH.
    #[arg(long, env = "LAMEDUCK_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,

    /// Where the program listens: HOST:PORT [default: a free port of 127.0.0.1, which it is given in PORT].
    #[arg(
        long,
        env = "LAMEDUCK_UPSTREAM",
        value_name = "ADDR",
        requires = "listen"
    )]
    pub upstream: Option<lameduck::proxy::Address>,

    /// Where probes and metrics are served: HOST:PORT, or unix:PATH.
    #[arg(long, env = "LAMEDUCK_ADMIN", value_name = "ADDR", default_value = DEFAULT_ADMIN)]
    pub admin: String,

    /// A path of the program that answers 2xx while it is well [default: it is well while it accepts connections].
    #[arg(long, env = "LAMEDUCK_HEALTH", value_name = "PATH", requires = "listen", value_parser = run::path)]
    pub health: Option<String>,

    /// The signal by which the program is told to stop.
    #[arg(long, env = "LAMEDUCK_STOP_SIGNAL", value_name = "SIGNAL", default_value = "TERM", value_parser = run::signal)]
    pub stop_signal: Signal,

    /// Send the stop signal to the program's whole process group, and not to its first process alone.
    #[arg(long, env = "LAMEDUCK_SIGNAL_GROUP")]
    pub signal_group: bool,

    /// More signals that begin a drain, beside SIGTERM and SIGINT, as in QUIT,WINCH.
    #[arg(long, env = "LAMEDUCK_BEGIN_ON", value_name = "SIGNALS", value_delimiter = ',', value_parser = run::signal)]
    pub begin_on: Vec<Signal>,

    /// When the program hears of a drain: last; at-start, by its stop signal; at-start=SIGNAL; or at-start=/PATH, by a
    /// POST request.
    #[arg(long, env = "LAMEDUCK_TELL", value_name = "WHEN", default_value = "last", value_parser = run::TellWhen::from_text)]
    pub tell: run::TellWhen,

    /// The drain's settings.
    #[command(flatten)]
    pub drain: DrainFlags,

    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `lameduck config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say what the configuration is, or everything that is wrong with it. Runs nothing.
    Check(Box<Check>),
    /// Print every setting in force, and where its value comes from.
    Show(Box<Show>),
}

/// `lameduck config check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The TOML file; flags and the environment count as they do for `serve`.
    #[arg(value_name = "FILE", env = "LAMEDUCK_CONFIG")]
    pub file: Option<PathBuf>,

    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// `lameduck config show`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// What `serve` would be given.
    #[command(flatten)]
    pub serve: Serve,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where a queue is: as `serve` would be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Storage {
    /// The TOML file of 'serve', for where the queue is.
    #[arg(long, env = "LAMEDUCK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Directory of the embedded database [default: lameduck-data].
    #[arg(long, env = "LAMEDUCK_DATA", value_name = "DIR", value_parser = PathBuf::from_text)]
    pub data: Option<PathBuf>,

    /// The PostgreSQL database: postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full.
    #[arg(long, env = "LAMEDUCK_DATABASE", value_name = "URL", hide_env_values = true, value_parser = Database::from_text)]
    pub database: Option<Database>,

    /// A file with its URL, such as a mounted Secret's.
    #[arg(long, env = "LAMEDUCK_DATABASE_FILE", value_name = "FILE", hide_env_values = true, value_parser = SecretFile::from_text)]
    pub database_file: Option<SecretFile>,
}

/// `lameduck healthcheck`.
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    /// Which probe.
    #[arg(value_enum, default_value_t)]
    pub probe: Probe,

    /// Where the process serves its probes: HOST:PORT, or unix:PATH. An address that stands for all of the machine's
    /// is asked on the loopback.
    #[arg(long, env = "LAMEDUCK_ADMIN", value_name = "ADDR", default_value = DEFAULT_ADMIN, value_parser = Address::from_text)]
    pub admin: Address,

    /// How long to wait for its answer.
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub timeout: Time,
}

/// A probe of a running process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// It answers. Stays so through the whole drain.
    Livez,
    /// It is to be sent requests.
    #[default]
    Readyz,
    /// It has started.
    Startupz,
}

/// `lameduck drains`.
#[derive(Debug, clap::Args)]
pub struct Drains {
    /// Where the queue is.
    #[command(flatten)]
    pub storage: Storage,

    /// Ask the API of a running service instead: http://HOST:PORT or https://HOST:PORT.
    #[arg(long, value_name = "URL", value_parser = Target::from_text)]
    pub url: Option<Target>,

    /// The file with the API's bearer tokens; the first one is used.
    #[arg(long, env = "LAMEDUCK_TOKENS", value_name = "FILE", hide_env_values = true, value_parser = SecretFile::from_text)]
    pub tokens: Option<SecretFile>,

    /// How many processes, the latest first; a service tells of 1000 at most.
    #[arg(long, value_name = "N", default_value = "20", value_parser = NonZeroUsize::from_text)]
    pub limit: NonZeroUsize,

    /// Print JSON, with the whole drain reports.
    #[arg(long)]
    pub json: bool,
}

/// `lameduck doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// deployment/NAME or statefulset/NAME [default: the one that this pod belongs to].
    #[arg(value_name = "WORKLOAD")]
    pub workload: Option<Workload>,

    /// Its namespace [default: the context's, or the pod's own].
    #[arg(long, short, value_name = "NS", requires = "workload")]
    pub namespace: Option<String>,

    /// The kubeconfig's context [default: the current one].
    #[arg(long, value_name = "CTX", requires = "workload")]
    pub context: Option<String>,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// How long the longest job takes: the grace period is measured by it [default: in a pod, the longest run
    /// that the service tells of].
    #[arg(long, value_name = "DURATION")]
    pub longest_job: Option<Time>,
}

//! The list of all settings: the only place where a name, a type, a default or a help text is written.

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use lameduck::{
    jobs::{
        engine::postgres::PostgresOptions,
        job::{Order, Retention},
    },
    lifecycle::{DrainSettings, ReadinessPolicy},
};

use super::{
    database::Database,
    declare::{Section, settings},
    listen::Address,
    secret::SecretFile,
    value::{Bytes, CommandLine, Method, Share, Target, Time},
};

settings! {
    /// Settings of a queue. At the top level they hold for every queue that does not say otherwise.
    pub struct QueueSettings => QueueValues {
        /// The command that does a job's work: payload on stdin, result on stdout, exit status 0 for done.
        /// Split like a shell does; no shell is involved.
        exec: CommandLine, "COMMAND";

        /// The HTTP endpoint that does a job's work: each job is sent to it by POST. A queue has either this or a
        /// command.
        http: Target, "URL";

        /// A file with one or more secrets, whsec_…, a line each, that requests to the HTTP endpoint are signed with.
        http_secrets: SecretFile, "FILE";

        /// A command that was told to stop and then ends with status 0 has done its job; otherwise the job is given
        /// back and runs again.
        zero_after_stop_is_done: bool = false, "BOOL";

        /// How many jobs of the queue run at once.
        workers: NonZeroUsize = nonzero(20), "N";

        /// How long a run may take where the submitter does not say.
        timeout: Time = seconds(600), "DURATION";

        /// Attempts in all before a job is dead, where the submitter does not say.
        max_attempts: NonZeroU32 = nonzero(5), "N";

        /// How long a job waits after its first failure; doubled after each one more.
        backoff_first: Time = seconds(1), "DURATION";

        /// How long a failed job waits at the most.
        backoff_max: Time = seconds(300), "DURATION";

        /// Which job is the next: priority (by the instant from which each could run, and its priority), or run-at (by
        /// that instant alone).
        order: Order = Order::default(), "ORDER";
    }
}

settings! {
    /// Settings of the process.
    pub struct ProcessSettings => ProcessValues {
        /// Directory of the embedded database; one process only, no network file system.
        data: PathBuf = "lameduck-data".into(), "DIR";

        /// A PostgreSQL database for any number of replicas, instead of the embedded one:
        /// postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full, or as libpq's words.
        database: Database, "URL";

        /// A file with the URL of the PostgreSQL database, such as a mounted Secret's.
        database_file: SecretFile, "FILE";

        /// Bring the PostgreSQL database's schema up to date at the start; otherwise 'lameduck migrate' has to.
        database_migrate: bool = true, "BOOL";

        /// Connections to the PostgreSQL database for commands; three more are for the lease, for events and for readiness.
        database_connections: NonZeroUsize = nonzero(PostgresOptions::new("").connections as u64), "N";

        /// How long a process may seem dead before its jobs are given to others, with PostgreSQL.
        database_lease: Time = Time(PostgresOptions::new("").lease), "DURATION";

        /// How long one statement may take in the PostgreSQL database, and how long a connection to it.
        database_statement_timeout: Time = Time(PostgresOptions::new("").statement_timeout), "DURATION";

        /// How many processes have this configuration. The embedded database serves one only, and more are refused.
        replicas: NonZeroU32 = nonzero(1), "N";

        /// Where the API listens: HOST:PORT, or unix:PATH.
        listen: Address = Address::of("127.0.0.1:8080"), "ADDR";

        /// Where probes and metrics are served: HOST:PORT, or unix:PATH.
        admin: Address = Address::of(super::DEFAULT_ADMIN), "ADDR";

        /// The certificate chain that the API speaks TLS with, as PEM; read again when it changes.
        tls_cert: SecretFile, "FILE";

        /// Its private key, as PEM.
        tls_key: SecretFile, "FILE";

        /// A file with bearer tokens, a line each: who has one of them may use the API.
        tokens: SecretFile, "FILE";

        /// Let everybody who can reach the API use it.
        allow_anonymous: bool = false, "BOOL";

        /// The largest payload, in bytes.
        max_body: Bytes = Bytes(1 << 20), "BYTES";

        /// Jobs in one batch request at the most.
        max_batch: NonZeroUsize = nonzero(1_000), "N";

        /// The largest batch request, in bytes.
        max_batch_body: Bytes = Bytes(16 << 20), "BYTES";

        /// Bytes that all request bodies under way hold together; who finds no room is told to come again.
        max_bodies: Bytes = Bytes(64 << 20), "BYTES";

        /// Requests that wait for a job at the same time: long polls and event streams.
        max_waiting: NonZeroUsize = nonzero(4_000), "N";

        /// How long a request body may pause.
        body_pause: Time = Time(Duration::from_secs(30)), "DURATION";

        /// How long a request body may take in all.
        body_time: Time = Time(Duration::from_secs(60)), "DURATION";

        /// Jobs that may wait in one queue; more are refused.
        max_queue_length: NonZeroU64 = nonzero(1_000_000), "N";

        /// Bytes that the database may hold before jobs are refused; none where it is not given.
        max_disk: Bytes, "BYTES";

        /// Bytes that jobs leave free on the database's file system, so that there is room for their outcomes.
        min_free_disk: Bytes = Bytes(64 << 20), "BYTES";

        /// How long completed and cancelled jobs are kept.
        retain_completed: Time = Time(Retention::default().completed), "DURATION";

        /// How long dead jobs are kept.
        retain_dead: Time = Time(Retention::default().dead), "DURATION";

        /// How long an idempotency key is remembered after its submission, but never shorter than its job.
        idempotency_window: Time = Time(Retention::default().keys), "DURATION";

        /// A job is dead when its process crashed so often in a row while it ran, the last time alone; 0 for never.
        max_crashes: u32 = 10, "N";

        /// From SIGTERM to SIGKILL: terminationGracePeriodSeconds.
        grace: Time = Time(drain().grace), "DURATION";

        /// When readiness fails in a drain: immediate, after-removal, auto.
        readiness: ReadinessPolicy = drain().readiness, "POLICY";

        /// From removal in the API to removal everywhere.
        settle: Time = Time(drain().settle), "DURATION";

        /// Without a request on a new connection for this long, nobody routes here; after half of it clients are asked to leave.
        quiet: Time = Time(drain().quiet), "DURATION";

        /// After this long removal is assumed where it can't be observed.
        fallback_wait: Time = Time(drain().fallback_wait), "DURATION";

        /// The share of the grace period in which idle connections may speak once more, 0 to 1.
        lame_duck_share: Share = Share(drain().lame_duck_share), "SHARE";

        /// What handlers get to come to an end, from SIGTERM to SIGKILL for commands.
        stop_notice: Time = Time(drain().stop_notice), "DURATION";

        /// Kept for giving jobs back and for hooks, behind the hard deadline.
        teardown: Time = Time(drain().teardown), "DURATION";

        /// Kept for the drain report.
        reporting: Time = Time(drain().reporting), "DURATION";

        /// Wait at the end, inside the grace period, until everybody who scrapes has been there once more.
        final_scrape: bool = false, "BOOL";

        /// Left unused at the end of the grace period, at most a tenth of it.
        margin: Time = Time(drain().margin), "DURATION";

        /// A file that the drain report is written to, as JSON.
        report: PathBuf, "FILE";

        /// Keep the Pod's annotation controller.kubernetes.io/pod-deletion-cost, so that a scale-down takes idle pods
        /// first; needs the permission to patch pods.
        deletion_cost: bool = false, "BOOL";
    }
}

settings! {
    /// A teardown hook: a table `[[teardown-hook]]` of the file. Exactly one of `run`, `url` and `remove`.
    pub struct HookSettings => HookValues {
        /// What the drain report calls it.
        name: String, "NAME";

        /// A command, in a process group of its own; without a shell.
        run: CommandLine, "COMMAND";

        /// A request over plain HTTP; an answer of 2xx is good.
        url: Target, "URL";

        /// The method of the request.
        method: Method = Method(http::Method::POST), "METHOD";

        /// A file, or a folder with all that is in it.
        remove: PathBuf, "PATH";

        /// How long it may take; never longer than the drain has left for its teardown.
        timeout: Time = seconds(10), "DURATION";
    }
}

/// Every setting that has a flag.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Settings of queues.
    pub queue: QueueSettings,
    /// Settings of the process.
    pub process: ProcessSettings,
}

/// The settings of the process that concern a drain in front of a program, for a command that has no others.
#[derive(Clone, Debug, Default)]
pub struct DrainFlags(ProcessSettings);

impl DrainFlags {
    const NAMES: [&str; 9] = [
        "grace",
        "readiness",
        "settle",
        "quiet",
        "fallback-wait",
        "lame-duck-share",
        "stop-notice",
        "final-scrape",
        "report",
    ];

    /// Returns the values in force; those that have no flag here have their defaults.
    pub fn in_force(&self) -> ProcessValues {
        self.0.in_force()
    }
}

fn drain() -> DrainSettings {
    DrainSettings::default()
}

fn seconds(seconds: u64) -> Time {
    Time(Duration::from_secs(seconds))
}

/// Returns a default that is not zero; it panics for zero.
fn nonzero<T: TryFrom<NonZeroU64>>(number: u64) -> T
where
    T::Error: std::fmt::Debug,
{
    let number = NonZeroU64::new(number).expect("a default above zero");
    T::try_from(number).expect("a default within its type")
}

// === impl Settings ===

impl Settings {
    /// Merges two sets of settings; those of `self` take precedence.
    pub fn or(self, other: Self) -> Self {
        Self {
            queue: self.queue.or(other.queue),
            process: self.process.or(other.process),
        }
    }
}

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        command
            .next_help_heading("Settings of queues")
            .args(QueueSettings::args())
            .next_help_heading("Settings of the process")
            .args(ProcessSettings::args())
            .next_help_heading(None)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            queue: QueueSettings::from_matches(matches),
            process: ProcessSettings::from_matches(matches),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let earlier = std::mem::take(self);
        *self = Self::from_arg_matches(matches)?.or(earlier);
        Ok(())
    }
}

// === impl DrainFlags ===

impl Args for DrainFlags {
    fn augment_args(command: Command) -> Command {
        let concerns = |arg: &Arg| {
            arg.get_long()
                .is_some_and(|name| Self::NAMES.contains(&name))
        };
        command
            .next_help_heading("Settings of the drain")
            .args(ProcessSettings::args().into_iter().filter(concerns))
            .next_help_heading(None)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for DrainFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(ProcessSettings::from_matches(matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let earlier = std::mem::take(&mut self.0);
        self.0 = ProcessSettings::from_matches(matches).or(earlier);
        Ok(())
    }
}

// === impl ProcessValues ===

impl ProcessValues {
    /// Returns the settings of the drain.
    pub fn drain(&self) -> DrainSettings {
        let mut drain = DrainSettings::default();
        drain.grace = self.grace.0;
        drain.readiness = self.readiness;
        drain.settle = self.settle.0;
        drain.quiet = self.quiet.0;
        drain.fallback_wait = self.fallback_wait.0;
        drain.lame_duck_share = self.lame_duck_share.0;
        drain.stop_notice = self.stop_notice.0;
        drain.teardown = self.teardown.0;
        drain.reporting = self.reporting.0;
        drain.margin = self.margin.0;
        drain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::declare::variable_of;

    const PAGE: &str = include_str!("../../docs/configuration.md");

    /// Returns the table of a section as it has to be on the page.
    fn table<S: Section>(title: &str) -> String {
        let rows = S::settings().into_iter().map(|setting| {
            let default = setting.default.map(|default| format!("`{default}`"));
            let default = default.unwrap_or_default();
            format!("| `{}` | {default} | {} |\n", setting.name, setting.help)
        });
        let rows: String = rows.collect();
        format!("| {title} | default | meaning |\n| --- | --- | --- |\n{rows}")
    }

    #[test]
    fn the_page_has_every_setting_with_its_default_and_its_help() {
        for table in [
            table::<QueueSettings>("of a queue"),
            table::<ProcessSettings>("of the process"),
            table::<HookSettings>("of a teardown hook"),
        ] {
            assert!(
                PAGE.contains(&table),
                "put this table into docs/configuration.md:\n\n{table}"
            );
        }
    }

    #[test]
    fn the_flags_of_a_drain_are_settings_of_the_process() {
        let command = DrainFlags::augment_args(Command::new("run"));
        let mut names: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
        names.sort_unstable();
        let mut expected = DrainFlags::NAMES;
        expected.sort_unstable();
        assert_eq!(names, expected);

        let matches = command.get_matches_from(["run", "--grace", "7s", "--final-scrape"]);
        let values = DrainFlags::from_arg_matches(&matches).unwrap().in_force();
        assert_eq!(values.drain().grace, Duration::from_secs(7));
        assert!(values.final_scrape);
        assert_eq!(values.settle.0, drain().settle);
    }

    #[test]
    fn a_setting_has_the_same_name_everywhere_and_only_once() {
        let command = Settings::augment_args(Command::new("serve"));
        let mut names = Vec::new();
        for arg in command.get_arguments() {
            let name = arg.get_long().unwrap();
            assert_eq!(arg.get_env().unwrap(), &*variable_of(name));
            assert!(!names.contains(&name), "{name} is there twice");
            names.push(name);
        }
        command.debug_assert();
    }
}

//! The configuration: one typed list of settings, read from flags, environment and a TOML file.
//!
//! Precedence: flags, environment (`LAMEDUCK_…`), file, defaults. Every setting has the same name
//! everywhere: `--lame-duck-share`, `LAMEDUCK_LAME_DUCK_SHARE`, `lame-duck-share = 0.5`.

use std::{
    fmt,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de};

use lameduck::lifecycle::{DrainSettings, ReadinessPolicy};

/// Where probes and metrics are served unless told otherwise.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:9090";

/// Every setting, each from wherever it was given; `None` where it was not.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The command that does a job's work: payload on stdin, result on stdout, exit status 0 for done.
    /// Split like a shell does; no shell is involved.
    #[arg(long, env = "LAMEDUCK_EXEC", value_name = "COMMAND")]
    pub exec: Option<CommandLine>,

    /// A command that was told to stop and then ends with status 0 has done its job; otherwise the job is
    /// given back and runs again [default: false].
    #[arg(long, env = "LAMEDUCK_ZERO_AFTER_STOP_IS_DONE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub zero_after_stop_is_done: Option<bool>,

    /// How many jobs run at once [default: 20].
    #[arg(long, env = "LAMEDUCK_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Attempts in all before a job is dead [default: 5].
    #[arg(long, env = "LAMEDUCK_MAX_ATTEMPTS", value_name = "N")]
    pub max_attempts: Option<std::num::NonZeroU32>,

    /// Directory of the embedded database; one process only, no network file system
    /// [default: lameduck-data].
    #[arg(long, env = "LAMEDUCK_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Where the API listens: HOST:PORT, or unix:PATH [default: 127.0.0.1:8080].
    #[arg(long, env = "LAMEDUCK_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,

    /// Where probes and metrics are served: HOST:PORT, or unix:PATH [default: 127.0.0.1:9090].
    #[arg(long, env = "LAMEDUCK_ADMIN", value_name = "ADDR")]
    pub admin: Option<String>,

    /// The certificate chain that the API speaks TLS with, as PEM; read again when it changes.
    #[arg(long, env = "LAMEDUCK_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Its private key, as PEM.
    #[arg(long, env = "LAMEDUCK_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// The largest payload, in bytes [default: 1048576].
    #[arg(long, env = "LAMEDUCK_MAX_BODY", value_name = "BYTES")]
    pub max_body: Option<NonZeroUsize>,

    /// From SIGTERM to SIGKILL: terminationGracePeriodSeconds [default: 30s].
    #[arg(long, env = "LAMEDUCK_GRACE", value_name = "DURATION")]
    pub grace: Option<Time>,

    /// When readiness fails in a drain: immediate, after-removal, auto [default: auto].
    #[arg(long, env = "LAMEDUCK_READINESS", value_name = "POLICY")]
    pub readiness: Option<Readiness>,

    /// From removal in the API to removal everywhere [default: 1s].
    #[arg(long, env = "LAMEDUCK_SETTLE", value_name = "DURATION")]
    pub settle: Option<Time>,

    /// Without a request on a new connection for this long, nobody routes here [default: 2s].
    #[arg(long, env = "LAMEDUCK_QUIET", value_name = "DURATION")]
    pub quiet: Option<Time>,

    /// After this long removal is assumed where it can't be observed [default: 5s].
    #[arg(long, env = "LAMEDUCK_FALLBACK_WAIT", value_name = "DURATION")]
    pub fallback_wait: Option<Time>,

    /// The share of the grace period in which idle connections may speak once more, 0 to 1 [default: 0.5].
    #[arg(long, env = "LAMEDUCK_LAME_DUCK_SHARE", value_name = "SHARE")]
    pub lame_duck_share: Option<Share>,

    /// What handlers get to come to an end, from SIGTERM to SIGKILL for commands [default: 5s].
    #[arg(long, env = "LAMEDUCK_STOP_NOTICE", value_name = "DURATION")]
    pub stop_notice: Option<Time>,

    /// Kept for giving jobs back and for hooks, behind the hard deadline [default: 3s].
    #[arg(long, env = "LAMEDUCK_TEARDOWN", value_name = "DURATION")]
    pub teardown: Option<Time>,

    /// Kept for the drain report [default: 1s].
    #[arg(long, env = "LAMEDUCK_REPORTING", value_name = "DURATION")]
    pub reporting: Option<Time>,

    /// Wait at the end, inside the grace period, until everybody who scrapes has been there once more
    /// [default: false].
    #[arg(long, env = "LAMEDUCK_FINAL_SCRAPE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub final_scrape: Option<bool>,

    /// Write the drain report to this file as JSON, whole and in one step.
    #[arg(long, env = "LAMEDUCK_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Left unused at the end of the grace period, at most a tenth of it [default: 1s].
    #[arg(long, env = "LAMEDUCK_MARGIN", value_name = "DURATION")]
    pub margin: Option<Time>,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The command of the queue `default`.
    pub exec: CommandLine,
    /// Whether its status 0 counts after it was told to stop.
    pub zero_after_stop_is_done: bool,
    /// Its workers.
    pub workers: NonZeroUsize,
    /// Attempts in all.
    pub max_attempts: u32,
    /// The embedded database.
    pub data: PathBuf,
    /// The API.
    pub listen: String,
    /// Probes and metrics.
    pub admin: String,
    /// Certificate and key that the API speaks TLS with.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Bytes.
    pub max_body: usize,
    /// Whether to wait for one scrape more at the end.
    pub final_scrape: bool,
    /// Where the drain report is written as a file.
    pub report: Option<PathBuf>,
    /// The drain.
    pub drain: DrainSettings,
}

/// What is wrong with the configuration, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read the configuration file {path}: {error}")]
    Unreadable {
        /// Its path.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not what it should be; the message shows line and column.
    #[error("in the configuration file {path}:\n{error}")]
    Invalid {
        /// Its path.
        path: String,
        /// Where and why.
        error: toml::de::Error,
    },
    /// A certificate without its key, or the other way round.
    #[error(
        "'{missing}' is missing: TLS takes both a certificate (tls-cert) and its key (tls-key)"
    )]
    HalfTls {
        /// The setting that is missing.
        missing: &'static str,
    },
    /// Nobody would do the work.
    #[error(
        "no handler: jobs would be taken in and never run. Give one, for example\n\
         \n    lameduck serve --exec 'python3 resize.py'\n\n\
         or LAMEDUCK_EXEC='python3 resize.py', or exec = [\"python3\", \"resize.py\"] in the configuration \
         file. To try things out: lameduck serve --exec '{example}'"
    )]
    NoHandler {
        /// A command line that works here.
        example: String,
    },
}

/// A command and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine(pub Vec<String>);

/// A duration as people write it: `30s`, `1m 30s`, `500ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

/// A readiness policy by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(pub ReadinessPolicy);

// === impl Settings ===

impl Settings {
    /// Reads a TOML file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: shown.clone(),
            error,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Invalid { path: shown, error })
    }

    /// What was given here, else what was given there.
    pub fn or(self, other: Self) -> Self {
        Self {
            exec: self.exec.or(other.exec),
            zero_after_stop_is_done: self
                .zero_after_stop_is_done
                .or(other.zero_after_stop_is_done),
            workers: self.workers.or(other.workers),
            max_attempts: self.max_attempts.or(other.max_attempts),
            data: self.data.or(other.data),
            listen: self.listen.or(other.listen),
            admin: self.admin.or(other.admin),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            max_body: self.max_body.or(other.max_body),
            grace: self.grace.or(other.grace),
            readiness: self.readiness.or(other.readiness),
            settle: self.settle.or(other.settle),
            quiet: self.quiet.or(other.quiet),
            fallback_wait: self.fallback_wait.or(other.fallback_wait),
            lame_duck_share: self.lame_duck_share.or(other.lame_duck_share),
            stop_notice: self.stop_notice.or(other.stop_notice),
            teardown: self.teardown.or(other.teardown),
            reporting: self.reporting.or(other.reporting),
            final_scrape: self.final_scrape.or(other.final_scrape),
            report: self.report.or(other.report),
            margin: self.margin.or(other.margin),
        }
    }

    /// The rest by default.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let drain = self.drain();
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::HalfTls { missing: "tls-key" }),
            (None, Some(_)) => {
                return Err(ConfigError::HalfTls {
                    missing: "tls-cert",
                });
            }
        };
        let exec = self.exec.ok_or_else(|| ConfigError::NoHandler {
            example: format!("{} demo --duration 3s", own_name()),
        })?;
        Ok(Config {
            exec,
            zero_after_stop_is_done: self.zero_after_stop_is_done.unwrap_or(false),
            workers: self.workers.unwrap_or(NonZeroUsize::new(20).expect("20")),
            max_attempts: self.max_attempts.map_or(5, std::num::NonZeroU32::get),
            data: self.data.unwrap_or_else(|| "lameduck-data".into()),
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:8080".into()),
            admin: self.admin.unwrap_or_else(|| DEFAULT_ADMIN.into()),
            tls,
            final_scrape: self.final_scrape.unwrap_or(false),
            report: self.report,
            max_body: self.max_body.map_or(1 << 20, NonZeroUsize::get),
            drain,
        })
    }

    /// The drain's settings, the rest by default.
    pub fn drain(&self) -> DrainSettings {
        let mut drain = DrainSettings::default();
        let set = |target: &mut Duration, given: Option<Time>| {
            if let Some(Time(time)) = given {
                *target = time;
            }
        };
        set(&mut drain.grace, self.grace);
        set(&mut drain.settle, self.settle);
        set(&mut drain.quiet, self.quiet);
        set(&mut drain.fallback_wait, self.fallback_wait);
        set(&mut drain.stop_notice, self.stop_notice);
        set(&mut drain.teardown, self.teardown);
        set(&mut drain.reporting, self.reporting);
        set(&mut drain.margin, self.margin);
        if let Some(Share(share)) = self.lame_duck_share {
            drain.lame_duck_share = share;
        }
        if let Some(Readiness(policy)) = self.readiness {
            drain.readiness = policy;
        }
        drain
    }
}

fn own_name() -> String {
    std::env::args().next().unwrap_or_else(|| "lameduck".into())
}

// === impl CommandLine ===

impl FromStr for CommandLine {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words = shell_words::split(line)
            .map_err(|error| format!("'{line}' cannot be split into words: {error}"))?;
        Self::try_from(words)
    }
}

impl TryFrom<Vec<String>> for CommandLine {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        if words.first().is_none_or(String::is_empty) {
            return Err("the command is empty; give a program and its arguments".into());
        }
        Ok(Self(words))
    }
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "a command line, or an array of a program and its arguments"
        )]
        enum Form {
            Line(String),
            Words(Vec<String>),
        }
        match Form::deserialize(deserializer)? {
            Form::Line(line) => line.parse(),
            Form::Words(words) => words.try_into(),
        }
        .map_err(de::Error::custom)
    }
}

// === impl Time ===

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration: jiff::SignedDuration = text
            .parse()
            .map_err(|_| format!("'{text}' is not a duration; write it as in 30s, 1m30s, 500ms"))?;
        Duration::try_from(duration)
            .map(Self)
            .map_err(|_| format!("'{text}' is negative; a duration is 0s or more"))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

// === impl Share ===

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share: f64 = text
            .parse()
            .map_err(|_| format!("'{text}' is not a number from 0 to 1"))?;
        Self::try_from(share)
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(share: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(format!("{share} is not a number from 0 to 1"))
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer)?
            .try_into()
            .map_err(de::Error::custom)
    }
}

// === impl Readiness ===

impl FromStr for Readiness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "immediate" => Ok(Self(ReadinessPolicy::Immediate)),
            "after-removal" => Ok(Self(ReadinessPolicy::AfterRemoval)),
            "auto" => Ok(Self(ReadinessPolicy::Auto)),
            _ => Err(format!(
                "'{text}' is not a readiness policy; use immediate, after-removal or auto"
            )),
        }
    }
}

/// Deserializes by `FromStr`.
macro_rules! from_string {
    ($($type:ty),+) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

from_string!(Time, Readiness);

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = parse("exec = 'cat -n'\nworkers = 3\ngrace = '1m'").unwrap();
        let flags = Settings {
            workers: NonZeroUsize::new(7),
            ..Settings::default()
        };
        let config = flags.or(file).resolve().unwrap();
        assert_eq!(config.workers.get(), 7);
        assert_eq!(config.exec.0, ["cat", "-n"]);
        assert_eq!(config.drain.grace, Duration::from_secs(60));
        assert_eq!(config.drain.quiet, DrainSettings::default().quiet);
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_line_and_what_to_do() {
        for (text, words) in [
            ("workres = 3", "unknown field `workres`"),
            ("\ngrace = '30 parsecs'", "line 2"),
            ("grace = '30 parsecs'", "write it as in 30s"),
            ("workers = 0", "nonzero"),
            ("exec = []", "give a program and its arguments"),
            ("lame-duck-share = 7.0", "from 0 to 1"),
            ("readiness = 'later'", "immediate, after-removal or auto"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn without_a_handler_it_says_how_to_give_one() {
        let error = Settings::default().resolve().unwrap_err().to_string();
        assert!(error.contains("--exec"), "{error}");
        assert!(error.contains("LAMEDUCK_EXEC"), "{error}");
    }
}

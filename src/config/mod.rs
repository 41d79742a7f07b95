//! The configuration: one list of settings, read from flags, environment and a TOML file.
//!
//! ```text
//!   flags ─▶ LAMEDUCK_… ─▶ file ─▶ defaults            what was given, with its place   (`settings`, `file`)
//!                  └──────────┬────────┘
//!                   [queues.NAME] of the file           each queue: its own, else the top level's
//!                             ▼
//!                 combinations are checked              errors and warnings, all at once  (`check`)
//!                             ▼
//!                          Config                       typed, and nothing left to doubt
//! ```
//!
//! Every setting has the same name everywhere: `--max-body`, `LAMEDUCK_MAX_BODY`, `max-body = 1024`. A queue's
//! own table takes precedence for that queue, even over a flag, which is for all queues.

use std::path::{Path, PathBuf};

use lameduck::{
    jobs::{handler::http::Secret, job::QueueName},
    lifecycle::DrainSettings,
};

use crate::cli;

mod check;
mod database;
mod declare;
mod file;
mod listen;
mod problem;
mod secret;
mod settings;
mod show;
mod value;
#[cfg(test)]
mod words;

pub use self::{
    check::unstartable,
    database::Database,
    declare::{Entry, Section, Setting, Source, variable_of},
    file::Document,
    listen::Address,
    problem::{Problem, Problems},
    secret::SecretFile,
    settings::{
        DrainFlags, HookSettings, ProcessSettings, ProcessValues, QueueSettings, QueueValues,
        Settings,
    },
    show::{check, show},
    value::{Bytes, CommandLine, Target, Time, Value},
};

/// Default address of the listener for probes and metrics.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:9090";

/// Name of the queue if no table names one.
const DEFAULT_QUEUE: &str = "default";

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The queues, each with its handler.
    pub queues: Vec<Queue>,
    /// The process's settings, as they were declared.
    pub process: ProcessValues,
    /// The settings of the drain.
    pub drain: DrainSettings,
    /// Certificate and key for the API's TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Access to the API.
    pub access: Access,
    /// Teardown hooks, in the order of the file.
    pub hooks: Vec<Hook>,
}

/// A queue and its handler.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// The handler that does its work.
    pub handler: Handler,
    /// Its settings, as they were declared.
    pub values: QueueValues,
}

/// The handler of a queue.
#[derive(Clone, Debug)]
pub enum Handler {
    /// Runs a command for each job.
    Exec(CommandLine),
    /// Sends a request for each job.
    Http {
        /// The endpoint.
        url: Target,
        /// The secrets that requests are signed with.
        secrets: Vec<Secret>,
    },
}

/// Access to the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody who reaches it.
    Anonymous,
    /// Clients that have one of the tokens in this file.
    Tokens(PathBuf),
}

/// A teardown hook.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Its name in the drain report.
    pub name: String,
    /// The task.
    pub task: Task,
    /// How long it may take.
    pub timeout: Time,
}

/// The task of a teardown hook.
#[derive(Clone, Debug)]
pub enum Task {
    /// Runs a command.
    Run(CommandLine),
    /// Sends a request.
    Request {
        /// The method.
        method: http::Method,
        /// The target.
        url: Target,
    },
    /// Removes a file or a folder.
    Remove {
        /// The file or folder to remove.
        path: PathBuf,
        /// The queue's data: a folder that holds it is never removed.
        never: PathBuf,
    },
}

/// The settings that were given, from all sources, before they are checked.
#[derive(Clone, Debug)]
pub struct Given {
    settings: Settings,
    /// The queues, with what they inherit from the top level.
    queues: Vec<(QueueName, Source, QueueSettings)>,
    hooks: Vec<(Source, HookSettings)>,
}

/// A valid configuration, and warnings about it.
#[derive(Debug)]
pub struct Checked {
    /// The configuration to run with.
    pub config: Config,
    /// Doubtful settings, which the operator should know about.
    pub warnings: Vec<Problem>,
}

/// How similar a variable must be to that of a setting to be taken for a typo: one letter in five may differ.
const ALIKE: f64 = 0.8;

/// Reads all sources and checks the combined settings.
pub fn load(file: Option<&Path>, flags: Settings) -> Result<Checked, Problems> {
    let (given, mut problems) = Given::gather(file, flags)?;
    match check::check(&given) {
        Ok(mut checked) if problems.is_empty() => {
            let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            checked.warnings.extend(misspelt(variables));
            let is_set = |name: &str| std::env::var_os(name).is_some_and(|it| !it.is_empty());
            checked
                .warnings
                .extend(unread(&checked.config.process, is_set));
            Ok(checked)
        }
        Ok(_) => Err(Problems(problems)),
        Err(Problems(more)) => {
            problems.extend(more);
            Err(Problems(problems))
        }
    }
}

/// Returns the settings that say where the queue is, read as by `serve`. The other settings are not checked.
pub fn storage(asked: cli::Storage) -> Result<ProcessValues, Problems> {
    let cli::Storage {
        config,
        data,
        database,
        database_file,
    } = asked;
    let mut flags = Settings::default();
    flags.process.data = data.map(|data| by_hand("data", data));
    flags.process.database = database.map(|url| by_hand("database", url));
    flags.process.database_file = database_file.map(|file| by_hand("database-file", file));
    let (given, _) = Given::gather(config.as_deref(), flags)?;
    Ok(given.settings.process.in_force())
}

fn by_hand<T>(name: &str, value: T) -> declare::Given<T> {
    declare::Given {
        value,
        source: Source::Flag(format!("--{name}")),
    }
}

// === impl Given ===

impl Given {
    /// Reads all sources. Also returns the parts of the file that can't be understood.
    pub fn gather(file: Option<&Path>, flags: Settings) -> Result<(Self, Vec<Problem>), Problems> {
        let (document, problems) = match file {
            Some(file) => Document::load(file)?,
            None => Default::default(),
        };
        Ok((Self::of(flags, document), problems))
    }

    fn of(flags: Settings, document: Document) -> Self {
        let mut document = document;
        if flags.queue.exec.is_some() || flags.queue.http.is_some() {
            // A handler given by a flag or a variable replaces the file's; it is not one more.
            let from_file = &mut document.settings.queue;
            (from_file.exec, from_file.http) = (None, None);
        }
        let settings = flags.or(document.settings);
        let queues = document
            .queues
            .into_iter()
            .map(|(name, place, own)| (name, place, inherit(own, &settings.queue)));
        Self {
            queues: queues.collect(),
            settings,
            hooks: document.hooks,
        }
    }
}

/// Returns a queue's own settings, and those of the top level for the rest. A queue with a handler inherits none.
fn inherit(own: QueueSettings, top: &QueueSettings) -> QueueSettings {
    let mut top = top.clone();
    if own.exec.is_some() || own.http.is_some() {
        (top.exec, top.http) = (None, None);
    }
    if own.exec.is_some() {
        // Queues with an endpoint do inherit the secrets: an unsigned request would be a surprise.
        top.http_secrets = None;
    }
    own.or(top)
}

/// Warns of variables that are similar to that of a setting. They are no errors, because the prefix is not ours
/// alone: Kubernetes sets variables with it for a Service called lameduck.
fn misspelt(variables: impl Iterator<Item = String>) -> Vec<Problem> {
    let settings: Vec<Setting> = [QueueSettings::settings(), ProcessSettings::settings()].concat();
    let known: Vec<String> = settings
        .iter()
        .map(|setting| variable_of(&setting.name))
        .collect();
    let slip = |name: String| {
        let meant = |known: &&String| {
            let [name, known] = [&name, *known].map(|name| name.strip_prefix("LAMEDUCK_"));
            name.zip(known)
                .is_some_and(|(a, b)| strsim::normalized_damerau_levenshtein(a, b) >= ALIKE)
        };
        let meant = known.iter().find(meant)?;
        let text =
            format!("no setting has this variable, and it is ignored; did you mean {meant}?");
        Some(Problem::new(&Source::Variable(name), text))
    };
    variables
        .filter(|name| !known.contains(name))
        .filter_map(slip)
        .collect()
}

/// Warns of variables that libpq would read. They are no errors, because handlers may need them; but if the URL has
/// no password, somebody may believe that it is taken from there.
fn unread(process: &ProcessValues, is_set: impl Fn(&str) -> bool) -> Option<Problem> {
    let database = process.database.as_ref()?;
    let unread = ["PGPASSWORD", "PGPASSFILE", "PGSERVICE"];
    let name = unread.into_iter().find(|name| is_set(name))?;
    (!database.has_password()).then(|| {
        let text = "it is not read here, and the database's URL has no password; write the password into the URL, or the \
                    whole URL into a file (setting 'database-file')";
        Problem::new(&Source::Variable(name.to_owned()), text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_printed_for_debugging_shows_no_secret() {
        let text = "database = 'postgres://me:S3cret@db/jobs'\n\
                    [queues.a]\nhttp = 'http://me:S3cret@a/?S3cret'\n\
                    [queues.b]\nexec = 'sh -c \"TOKEN=S3cret exec cat\"'\n\
                    [[teardown-hook]]\nname = 'h'\nurl = 'http://me:S3cret@a/?S3cret'\n";
        let (document, problems) = Document::read("a.toml", text);
        assert_eq!(problems, []);
        let given = Given::of(Settings::default(), document);
        let checked = check::check(&given).unwrap();

        for said in [format!("{given:?}"), format!("{:#?}", checked.config)] {
            assert!(said.contains("http://me:***@a/"), "{said}");
            assert!(!said.contains("S3cret"), "{said}");
        }
    }

    #[test]
    fn a_password_that_libpq_would_find_is_told_to_be_missing() {
        let process = |url: &str| ProcessValues {
            database: Some(Database::from_text(url).unwrap()),
            ..ProcessSettings::default().in_force()
        };
        let set = |name: &str| name == "PGPASSWORD";
        let said = unread(&process("postgres://me@db/jobs"), set).unwrap();
        assert!(said.to_string().contains("PGPASSWORD"), "{said}");
        assert_eq!(unread(&process("postgres://me:x@db/jobs"), set), None);
        assert_eq!(unread(&process("postgres://me@db/jobs"), |_| false), None);
    }

    #[test]
    fn a_variable_that_is_nearly_a_setting_is_warned_of() {
        let names = [
            "LAMEDUCK_WORKRES",
            "LAMEDUCK_WORKERS",
            "LAMEDUCK_LOG",
            "LAMEDUCK_CONFIG",
            "LAMEDUCK_PORT",
            "LAMEDUCK_SERVICE_HOST",
            "WORKERS",
        ];
        let said: Vec<String> = misspelt(names.into_iter().map(str::to_owned))
            .iter()
            .map(ToString::to_string)
            .collect();
        let [said] = &said[..] else {
            panic!("{said:?}")
        };
        assert!(said.contains("LAMEDUCK_WORKRES"), "{said}");
        assert!(said.contains("did you mean LAMEDUCK_WORKERS?"), "{said}");
    }
}

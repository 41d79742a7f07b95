//! Parsing of the command line and the environment.
//!
//! Errors do not repeat the value of a flag or a variable: it may be a password, perhaps in the wrong place.

use std::ffi::OsString;

use clap::{
    Arg, Command, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

use crate::cli::Cli;

/// Parses the command line. If it is wrong, prints the error and ends the process with exit status 2.
pub fn parse() -> Cli {
    let command = heedless_of_the_empty(Cli::command(), &|name| std::env::var_os(name));
    let words: Vec<OsString> = std::env::args_os().collect();
    command
        .try_get_matches_from(&words)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .unwrap_or_else(|error| {
            let status = error.exit_code();
            match told(error, |flag| of_a_variable(flag, &words)) {
                Ok(fault) => eprintln!("error: {fault}\n\nFor more information, try '--help'."),
                // Help, the version, or an error that repeats no value. If standard error is closed, it is lost.
                Err(error) => drop(error.print()),
            }
            std::process::exit(status)
        })
}

/// Describes an error without the value that was given. An error without one is returned as it is, for clap to print.
/// `variable` returns the variable that a flag's value comes from, if any.
pub fn told(mut error: Error, variable: impl Fn(&str) -> Option<String>) -> Result<String, Error> {
    let arg = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => arg.clone(),
        _ => String::new(),
    };
    // The argument looks like `--workers <N>`, `[FILE]` or `--final-scrape[=<BOOL>]`.
    let name = arg.split([' ', '=', '[']).next().unwrap_or_default();
    let name = match name {
        "" => arg.trim_matches(['[', ']', '<', '>']),
        name => name.trim_matches(['<', '>']),
    };
    let place = name
        .strip_prefix("--")
        .and_then(&variable)
        .unwrap_or_else(|| name.to_owned());
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    match (error.kind(), reason) {
        (ErrorKind::ValueValidation, Some(reason)) => Ok(format!("{place}: {reason}")),
        (ErrorKind::InvalidValue | ErrorKind::ValueValidation, _) => {
            Ok(match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(words)) if !words.is_empty() => {
                    format!("{place}: it is not one of {}", words.join(", "))
                }
                _ => format!("{place}: a value is missing, or is not one that it takes"),
            })
        }
        // clap does not say which value it is.
        (ErrorKind::InvalidUtf8, _) => Ok(format!(
            "{}: it is not UTF-8; settings are written in UTF-8",
            not_unicode().unwrap_or_else(|| "a flag or a variable LAMEDUCK_…".to_owned())
        )),
        (ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues, _) => {
            Ok(format!("{place}: it was given a value too many, or takes none at all"))
        }
        (ErrorKind::UnknownArgument, _) if !arg.starts_with('-') => Ok(
            "there is a word too many, behind the flags or between them (it is not shown, because it may be a secret); a \
             value with spaces stands in quotes"
                .to_owned(),
        ),
        (ErrorKind::UnknownArgument, _) => {
            // A secret may begin with a dash, so only a word that looks like the name of a flag is shown.
            let known_form = name.starts_with("--")
                && name.len() < 40
                && name[2..].bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'_');
            let shown = if known_form { name } else { "an option" };
            error.insert(ContextKind::InvalidArg, ContextValue::String(shown.to_owned()));
            error.remove(ContextKind::Suggested);
            Err(error)
        }
        (ErrorKind::InvalidSubcommand, _) => {
            let word = match error.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(word)) => word.clone(),
                _ => String::new(),
            };
            match word.len() < 20 && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
                true => Err(error),
                false => Ok("there is no such command; `lameduck --help` lists them".to_owned()),
            }
        }
        _ => Err(error),
    }
}

/// Returns the flag or the variable whose value is not UTF-8.
fn not_unicode() -> Option<String> {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let flag = words.iter().enumerate().find_map(|(at, word)| {
        word.to_str().is_none().then(|| {
            // The flag is in the same word (`--flag=value`), or in the one before (`--flag value`).
            let own = word.to_string_lossy().into_owned();
            let before = at
                .checked_sub(1)
                .map(|at| words[at].to_string_lossy().into_owned());
            [Some(own), before]
                .into_iter()
                .flatten()
                .find(|word| word.starts_with("--"))
                .map(|word| word.split('=').next().unwrap_or_default().to_owned())
        })
    });
    let variable = || {
        let mut variables = std::env::vars_os().filter(|(_, value)| value.to_str().is_none());
        variables.find_map(|(name, _)| {
            name.into_string()
                .ok()
                .filter(|name| name.starts_with("LAMEDUCK_"))
        })
    };
    flag.flatten().or_else(variable)
}

/// Ignores empty variables: manifests set them from optional Secrets and ConfigMaps.
fn heedless_of_the_empty(
    command: Command,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Command {
    let is_empty = |arg: &Arg| {
        let name = arg.get_env().and_then(|name| name.to_str());
        name.and_then(variable)
            .is_some_and(|value| value.is_empty())
    };
    command
        .mut_args(|arg| match is_empty(&arg) {
            true => arg.env(None::<&str>),
            false => arg,
        })
        .mut_subcommands(|command| heedless_of_the_empty(command, variable))
}

/// Returns the variable that the value of a flag comes from, unless the flag is on the command line.
fn of_a_variable(flag: &str, words: &[OsString]) -> Option<String> {
    let given = |word: &OsString| {
        let word = word.to_string_lossy();
        let word = word.strip_prefix("--");
        word.is_some_and(|word| word.split('=').next() == Some(flag))
    };
    let variable = crate::config::variable_of(flag);
    let is_set = std::env::var_os(&variable).is_some();
    (is_set && !words.iter().any(given)).then_some(variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_empty_is_not_there() {
        let empty = |name: &str| (name == "LAMEDUCK_DATABASE_FILE").then(OsString::new);

        let command = heedless_of_the_empty(Cli::command(), &empty);

        let serve = command.find_subcommand("serve").unwrap();
        let env_of = |id: &str| {
            let arg = serve.get_arguments().find(|arg| arg.get_long() == Some(id));
            arg.unwrap().get_env().map(ToOwned::to_owned)
        };
        assert_eq!(env_of("database-file"), None);
        assert_eq!(env_of("workers"), Some("LAMEDUCK_WORKERS".into()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_name_and_without_its_value() {
        for (words, said) in [
            (
                "serve --workers S3cret",
                "--workers: it is not a whole number; write 1 or more",
            ),
            ("serve --workers=0", "--workers: it is 0; write 1 or more"),
            (
                "serve --workers=",
                "--workers: it is empty; write 1 or more",
            ),
            (
                "serve --final-scrape=S3cret",
                "--final-scrape: it is neither true nor false",
            ),
            (
                "serve --database mysql://S3cret@db",
                "--database: it is a URL that does not begin with postgres://",
            ),
            (
                "config show --json=S3cret",
                "--json: it was given a value too many",
            ),
            (
                "serve --help=S3cret",
                "--help: it was given a value too many",
            ),
            ("drains --limit 0", "--limit: it is 0; write 1 or more"),
            (
                "drains --url S3cret",
                "--url: it is not a URL with http:// or https:// in front",
            ),
            (
                "drains --database postgres://me:S3cret/pw@db/jobs",
                "--database: a character in it has to be percent-encoded",
            ),
            (
                "migrate --database S3cret",
                "--database: it does not begin with postgres://",
            ),
            ("demo --duration S3cret", "--duration: it is not a duration"),
            (
                "healthcheck S3cret",
                "PROBE: it is not one of livez, readyz, startupz",
            ),
            ("healthcheck --admin S3cret", "--admin: it has no port"),
            (
                "healthcheck --timeout S3cret",
                "--timeout: it is not a duration",
            ),
            (
                "doctor S3cret",
                "WORKLOAD: it names no workload; write it as in deployment/web",
            ),
            (
                "doctor S3cret/x",
                "WORKLOAD: it is neither a deployment nor a statefulset",
            ),
            (
                "doctor --longest-job S3cret",
                "--longest-job: it is not a duration",
            ),
            (
                "config check a.toml postgres://S3cret@db",
                "a word too many",
            ),
            ("serve postgres://me:S3cret@db/jobs", "a word too many"),
            (
                "serve --databse=postgres://me:S3cret@db/jobs",
                "'--databse' found",
            ),
            ("serve -S3cret", "'an option' found"),
            ("serve --S3cret", "'an option' found"),
            ("postgres://me:S3cret@db/jobs", "there is no such command"),
            ("srve", "unrecognized subcommand 'srve'"),
        ] {
            let error = Cli::command()
                .mut_subcommands(without_variables)
                .try_get_matches_from(["lameduck"].into_iter().chain(words.split(' ')))
                .and_then(|matches| Cli::from_arg_matches(&matches))
                .map(|_| ())
                .expect_err(words);
            let told = told(error, |_| None).unwrap_or_else(|error| error.to_string());
            assert!(told.contains(said), "{words}: {told}");
            assert!(!told.contains("S3cret"), "{words}: {told}");
        }
    }

    /// Removes the variables, so that the environment of the tests does not matter.
    fn without_variables(command: Command) -> Command {
        command
            .mut_args(|arg| arg.env(None::<&str>))
            .mut_subcommands(without_variables)
    }
}

//! The command line and the environment, read as people mean them.

use std::ffi::OsString;

use clap::{
    Arg, Command, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, Error},
};

use crate::cli::Cli;

/// Reads them; where they are wrong, says so and ends the process with exit status 2.
pub fn parse() -> Cli {
    let command = heedless_of_the_empty(Cli::command(), &|name| std::env::var_os(name));
    let words: Vec<OsString> = std::env::args_os().collect();
    command
        .try_get_matches_from(&words)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .unwrap_or_else(|error| {
            let tip = tip(&error, &words);
            // Neither can be told where standard error is gone.
            let _ = error.print();
            if let Some(tip) = tip {
                eprintln!("{tip}");
            }
            std::process::exit(error.exit_code())
        })
}

/// A variable that is empty is one that is not set: manifests have them from optional Secrets and ConfigMaps.
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

/// Where a value comes from that nobody wrote on the command line.
fn tip(error: &Error, words: &[OsString]) -> Option<String> {
    let ContextValue::String(arg) = error.get(ContextKind::InvalidArg)? else {
        return None;
    };
    let flag = arg.split([' ', '=']).next()?.strip_prefix("--")?;
    let given = |word: &OsString| {
        let word = word.to_string_lossy();
        let word = word.strip_prefix("--");
        word.is_some_and(|word| word.split('=').next() == Some(flag))
    };
    let variable = crate::config::variable_of(flag);
    let told = std::env::var_os(&variable).is_some() && !words.iter().any(given);
    told.then(|| format!("The value comes from the environment: {variable}"))
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
}

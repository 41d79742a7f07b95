//! The program: parse, wire, run.

mod cli;
mod command_line;
mod config;
mod demo;
mod doctor;
mod drains;
mod healthcheck;
mod listen;
mod log_limit;
mod logging;
mod migrate;
mod progress;
mod run;
mod runtime;
mod serve;
mod storage;
mod teardown;
mod terminal;

use std::{io, process::ExitCode};

use lameduck::{jobs::handler::exec, lifecycle::Signals};

use crate::{
    cli::{Command, Serve, Show},
    config::Checked,
};

/// Exit status of an invalid configuration, the same as clap's for a wrong command line.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    // This comes first, because a SIGTERM before it is not handled. The other commands end by it, as programs do.
    let serves = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "serve" || word == "run");
    let signals = serves.then(|| Signals::install().map(Signals::nothing_begun));
    let status = obey(command_line::parse().command, signals);
    terminal::flush();
    status
}

fn obey(command: Command, signals: Option<io::Result<Signals>>) -> ExitCode {
    match command {
        Command::Serve(serve) => run(*serve, signals.unwrap_or_else(Signals::install)),
        Command::Run(asked) => run::run(*asked, signals.unwrap_or_else(Signals::install)),
        Command::Demo { duration } => demo::run(duration.0),
        Command::Config(cli::Config::Check(asked)) => {
            config::check(asked.file.as_deref(), asked.settings)
        }
        Command::Config(cli::Config::Show(asked)) => {
            let Show { serve, json } = *asked;
            config::show(serve.config.as_deref(), serve.settings, json)
        }
        Command::Doctor(asked) => doctor::run(asked),
        Command::Drains(asked) => drains::run(asked),
        Command::Migrate(asked) => migrate::run(asked),
        Command::Healthcheck(asked) => healthcheck::run(&asked),
        Command::Version => {
            println!("lameduck {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn run(serve: Serve, signals: io::Result<Signals>) -> ExitCode {
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot take SIGTERM and SIGINT: {error}")),
    };
    signals.last_will(|| {
        exec::kill_all_groups();
        terminal::flush();
    });
    logging::install();
    // This comes before there are orphans to adopt, and while there still is a process id for its thread.
    if let Err(error) = exec::reap_orphans() {
        return fail(format_args!(
            "cannot watch over the processes that commands leave behind: {error}"
        ));
    }
    let Checked { config, warnings } = match config::load(serve.config.as_deref(), serve.settings) {
        Ok(checked) => checked,
        Err(problems) => {
            eprintln!("lameduck: {problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    for unstartable in config::unstartable(&config) {
        tracing::error!("{unstartable}");
    }
    if !signals.begin() {
        tracing::info!("told to end before anything was begun; there is nothing to drain");
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start the runtime: {error}")),
    };
    let result = runtime.block_on(serve::serve(config, signals));
    // Commands that still run have used up their time. They would outlive us, and run beside their jobs' next run.
    exec::kill_all_groups();
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("{error:#}")),
    }
}

pub(crate) fn fail(error: std::fmt::Arguments<'_>) -> ExitCode {
    tracing::error!("{error}");
    ExitCode::FAILURE
}

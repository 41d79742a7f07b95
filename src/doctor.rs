//! `lameduck doctor`: examines a workload, prints the findings, and tells by its exit status how bad they are.

use std::{io::Write, process::ExitCode, time::Duration};

use clap::{Args, FromArgMatches};
use lameduck::lifecycle::LONGEST_RUN;
use lameduck_doctor::{self as doctor, Diagnosis, Invocation, Program, Question, Severity};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    cli::{Doctor, Serve},
    command_line,
    config::{DEFAULT_ADMIN, Document},
    runtime,
};

/// Last section of the help text.
pub const EXIT_STATUSES: &str = "\
Exit status:
  0  nothing worse than ok and unknown
  1  warnings
  2  problems; or a wrong command line, with nothing on standard output
  3  could not look: no API server, no answer, no such workload, or no permission to read it";

const COULD_NOT_LOOK: u8 = 3;

/// Time limit for the metrics of the service in this pod, and maximum number of bytes that are read of them.
const SCRAPE: Duration = Duration::from_secs(2);
const LARGEST_SCRAPE: u64 = 4 << 20;

/// Runs the examination and prints the result.
pub fn run(asked: Doctor) -> ExitCode {
    let runtime = match runtime::of_one_thread() {
        Ok(runtime) => runtime,
        Err(error) => return could_not_look(asked.json, &format!("{error:#}")),
    };
    let own = asked.workload.is_none();
    let longest_job = match asked.longest_job {
        Some(time) => Some(time.0),
        None if own => runtime.block_on(longest_run()),
        None => None,
    };
    let question = Question {
        workload: asked.workload,
        namespace: asked.namespace,
        context: asked.context,
        longest_job,
        reader: read,
    };
    let examined = runtime.block_on(doctor::examine(question));
    // A thread may still be waiting for a command that makes credentials.
    runtime.shutdown_background();
    match examined {
        Ok(diagnosis) => show(&diagnosis, asked.json),
        Err(error) => could_not_look(asked.json, &error.to_string()),
    }
}

/// Returns the longest run that the service in this pod reports; `None` if it does not answer or has run no job yet.
async fn longest_run() -> Option<Duration> {
    let admin = std::env::var("LAMEDUCK_ADMIN").unwrap_or_else(|_| DEFAULT_ADMIN.to_owned());
    let port = admin.rsplit(':').next()?;
    let scrape = async {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.ok()?;
        let request = b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut text = String::new();
        stream
            .take(LARGEST_SCRAPE)
            .read_to_string(&mut text)
            .await
            .ok()?;
        longest_in(&text)
    };
    timeout(SCRAPE, scrape).await.ok().flatten()
}

/// Returns the longest run of all pools from metrics in Prometheus's text format.
fn longest_in(metrics: &str) -> Option<Duration> {
    let runs = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(LONGEST_RUN)?.strip_prefix('{')?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let longest = runs.fold(0.0, f64::max);
    (longest > 0.0).then(|| Duration::try_from_secs_f64(longest).ok())?
}

fn show(diagnosis: &Diagnosis, json: bool) -> ExitCode {
    print(&match json {
        true => serde_json::to_string_pretty(diagnosis).unwrap_or_else(|error| error.to_string()),
        false => diagnosis.to_string(),
    });
    if !diagnosis.has_looked() {
        return ExitCode::from(COULD_NOT_LOOK);
    }
    ExitCode::from(match diagnosis.verdict {
        Severity::Ok | Severity::Unknown => 0,
        Severity::Warning => 1,
        Severity::Problem => 2,
    })
}

fn could_not_look(json: bool, error: &str) -> ExitCode {
    if json {
        print(&serde_json::json!({ "error": error }).to_string());
    }
    eprintln!("lameduck: {error}");
    ExitCode::from(COULD_NOT_LOOK)
}

/// Prints a text. Errors are ignored: the reader may have closed the pipe, as in `lameduck doctor | head`.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Reads settings as `lameduck serve` does, but from the arguments and variables of a container.
fn read(told: &Invocation) -> Result<Program, String> {
    let command = Serve::augment_args(clap::Command::new("serve"))
        .no_binary_name(true)
        .args_override_self(true);
    // Variables become flags before the container's own flags, so that the latter win.
    let by_variable = command.get_arguments().filter_map(|arg| {
        let value = told.env.get(arg.get_env()?.to_str()?)?;
        Some(format!("--{}={value}", arg.get_long()?))
    });
    let words: Vec<String> = by_variable.chain(told.args.iter().cloned()).collect();
    // Our own environment has nothing to do with the container's.
    let command = command.mut_args(|arg| arg.env(None::<&str>));
    let matches = command.try_get_matches_from(words);
    let serve = matches.and_then(|matches| Serve::from_arg_matches(&matches));
    let serve = serve.map_err(|error| {
        let fault = command_line::told(error, |_| None);
        first_line(&fault.unwrap_or_else(|error| error.to_string()))
    })?;
    let settings = match &told.file {
        Some(text) => {
            let (document, problems) = Document::read("the settings file", text);
            if let Some(problem) = problems.first() {
                return Err(first_line(&problem.to_string()));
            }
            serve.settings.or(document.settings)
        }
        None => serve.settings,
    };
    let process = settings.process;
    Ok(Program {
        drain: process.in_force().drain(),
        embedded: process.database.is_none() && process.database_file.is_none(),
        data: process.data.map(|data| data.value),
    })
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Invocation {
        let mut told = Invocation::default();
        told.args = args.iter().map(|&arg| arg.to_owned()).collect();
        told.env = env
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        told.file = file.map(str::to_owned);
        told
    }

    #[test]
    fn the_longest_run_of_all_pools_is_found_in_the_metrics() {
        let text = "# HELP lameduck_job_longest_run_seconds x\n\
                    lameduck_job_longest_run_seconds{pool=\"default\"} 3.25\n\
                    lameduck_job_longest_run_seconds{pool=\"resize\"} 41\n\
                    lameduck_ready 1\n";
        assert_eq!(longest_in(text), Some(Duration::from_secs(41)));
        let none = "lameduck_job_longest_run_seconds{pool=\"default\"} 0\n";
        assert_eq!(longest_in(none), None, "nothing has run yet");
        assert_eq!(longest_in(""), None);
    }

    #[test]
    fn flags_win_over_variables_and_these_over_the_file() {
        let file = Some("grace = '1s'\nsettle = '7s'\nquiet = '8s'");
        let env = [
            ("LAMEDUCK_GRACE", "2s"),
            ("LAMEDUCK_SETTLE", "9s"),
            ("PATH", "/bin"),
        ];
        let drain = read(&told(&["--grace", "3s"], &env, file)).unwrap().drain;
        let seconds = [drain.grace, drain.settle, drain.quiet].map(|time| time.as_secs());
        assert_eq!(seconds, [3, 9, 8]);
        assert_eq!(drain.teardown, Duration::from_secs(3));
    }

    #[test]
    fn jobs_in_a_database_are_not_on_the_pods_disk() {
        let embedded = |args: &[&str], env: &[(&str, &str)], file| {
            read(&told(args, env, file)).unwrap().embedded
        };
        assert!(embedded(&[], &[], None));
        assert!(!embedded(&["--database", "postgres://h/d"], &[], None));
        assert!(!embedded(&[], &[("LAMEDUCK_DATABASE_FILE", "/db")], None));
        assert!(!embedded(&[], &[], Some("database-file = '/db'")));
    }

    #[test]
    fn what_serve_would_refuse_is_refused() {
        for told in [
            told(&["--grace", "soon"], &[], None),
            told(&[], &[("LAMEDUCK_LAME_DUCK_SHARE", "7")], None),
            told(&[], &[], Some("grcae = '1s'")),
            told(&["--colour"], &[], None),
        ] {
            let error = read(&told).unwrap_err();
            assert!(!error.contains('\n') && !error.is_empty(), "{error}");
        }
    }
}

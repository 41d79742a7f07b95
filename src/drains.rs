//! `lameduck drains`: the drain ledger as a table.

use std::{
    fmt::Write as _,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use jiff::{Timestamp, tz::TimeZone};
use lameduck::{
    api::{DrainView, Drains},
    jobs::{
        engine::{postgres, sqlite},
        handler::http::client_tls,
    },
};
use reqwest::StatusCode;
use serde_json::Value;

use crate::{
    cli,
    config::{self, SecretFile, Target, Value as _},
    runtime, storage,
};

/// How long a service may take to answer, and the maximum size of an answer in bytes.
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST_ANSWER: usize = 64 << 20;

/// Text of a cell without a value.
const NOTHING: &str = "-";

const HEADER: [&str; 12] = [
    "STARTED",
    "DRAIN BEGAN",
    "DRAIN",
    "POD",
    "NODE",
    "CAUSE",
    "OUTCOME",
    "SECONDS",
    "FINISHED",
    "RELEASED",
    "LEFT",
    "CUT",
];

/// Index of the first column with numbers; all columns after it have numbers, too.
const NUMBERS: usize = 7;

/// Reads the ledger and prints it.
pub fn run(asked: cli::Drains) -> ExitCode {
    let read = match &asked.url {
        Some(url) => read_from(url, asked.tokens.as_ref(), asked.limit.get()),
        None => read_storage(asked.storage, asked.limit.get()),
    };
    let drains = match read {
        Ok(drains) => drains,
        Err(error) => {
            eprintln!("lameduck: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let text = match asked.json {
        true => serde_json::to_string_pretty(&drains).map(|json| json + "\n"),
        false => Ok(table(&drains.drains, &TimeZone::system())),
    };
    let printed = text
        .map_err(io::Error::from)
        .and_then(|text| io::stdout().write_all(text.as_bytes()));
    match printed {
        // A reader that has seen enough closes the pipe, which is no error.
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_storage(storage: cli::Storage, limit: usize) -> anyhow::Result<Drains> {
    let process = config::storage(storage)?;
    let Some(database) = storage::database(&process)? else {
        return Ok(sqlite::read_drains(&process.data, limit)?.into());
    };
    let options = storage::postgres_options(&process, database);
    let read = postgres::read_drains(&options, limit);
    Ok(runtime::of_one_thread()?.block_on(read)?.into())
}

fn read_from(url: &Target, tokens: Option<&SecretFile>, limit: usize) -> anyhow::Result<Drains> {
    let token = tokens.map(first_token).transpose()?;
    let limit = limit.min(Drains::MOST);
    let mut asked = url.0.clone();
    asked.set_path(&format!("{}/v1/drains", asked.path().trim_end_matches('/')));
    asked.set_query(Some(&format!("limit={limit}")));
    let mut shown = asked.clone();
    shown.set_query(None);
    let shown = Target(shown).shown();
    runtime::of_one_thread()?
        .block_on(ask(asked.as_str(), token))
        .with_context(|| format!("cannot read the drain ledger from {shown} (--url)"))
}

/// Returns the first token of a file, read as the API reads it.
fn first_token(file: &SecretFile) -> anyhow::Result<String> {
    let shown = file.shown();
    let text = file
        .read()
        .map_err(|error| anyhow::anyhow!("{error} (--tokens)"))?;
    let mut lines = text.lines().map(str::trim);
    let token = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    token
        .map(str::to_owned)
        .with_context(|| format!("there is no token in {shown} (--tokens)"))
}

async fn ask(url: &str, token: Option<String>) -> anyhow::Result<Drains> {
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .tls_backend_preconfigured(client_tls()?)
        .build()?;
    let mut request = client.get(url);
    if let Some(token) = &token {
        request = request.bearer_auth(token);
    }
    let mut answer = request.send().await.map_err(reqwest::Error::without_url)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        body.extend_from_slice(&chunk);
        anyhow::ensure!(
            body.len() <= LARGEST_ANSWER,
            "the answer has more than {LARGEST_ANSWER} bytes; ask for fewer (--limit)"
        );
    }
    if status.is_success() {
        return serde_json::from_slice(&body)
            .context("the answer is not a drain ledger; --url is the address of lameduck's API");
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = problem["detail"].as_str();
    if status == StatusCode::UNAUTHORIZED {
        let remedy = match token {
            None => "name the file with the API's tokens (--tokens)",
            Some(_) => "it was the first of the file that --tokens names",
        };
        anyhow::bail!(
            "it answered {status}: {}; {remedy}",
            detail.unwrap_or("it wants a token")
        );
    }
    anyhow::bail!(
        "it answered {status}: {}",
        detail.unwrap_or("--url is the address of lameduck's API, not of its probes and metrics")
    )
}

// --- the table ---

fn table(drains: &[DrainView], zone: &TimeZone) -> String {
    let rows: Vec<[String; HEADER.len()]> = [HEADER.map(str::to_owned)]
        .into_iter()
        .chain(drains.iter().map(|drain| row(drain, zone)))
        .collect();
    let widths: Vec<usize> = (0..HEADER.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = match column < NUMBERS {
                true => write!(line, "{cell:<width$}  "),
                false => write!(line, "{cell:>width$}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn row(drain: &DrainView, zone: &TimeZone) -> [String; HEADER.len()] {
    let when = |at: Timestamp| {
        at.to_zoned_datetime(zone.clone())
            .strftime("%F %T")
            .to_string()
    };
    let word = |word: Option<&str>| word.unwrap_or(NOTHING).to_owned();
    let number = |path: &str| {
        let report = drain.report.as_ref();
        let number = report.and_then(|report| report.pointer(path)?.as_u64());
        number.map_or_else(|| NOTHING.to_owned(), |number| number.to_string())
    };
    let place = |path: &str| drain.report.as_ref()?.pointer(path)?.as_str();
    // A process that was killed, or still lives, has no report; with PostgreSQL its row has the host's name.
    let pod = place("/pod").or(drain.host.as_deref());
    let living = match drain.began_at {
        None => "serving",
        Some(_) => "draining",
    };
    [
        when(drain.started_at),
        word(drain.began_at.map(when).as_deref()),
        word(drain.drain_id.as_deref()),
        word(pod),
        word(place("/node")),
        word(drain.cause.as_deref()),
        word(drain.outcome.as_deref().or(Some(living))),
        word(drain.seconds.map(|s| format!("{s:.1}")).as_deref()),
        number("/jobs/finished"),
        number("/jobs/released/count"),
        number("/jobs/left/count"),
        number("/requests/cut"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_the_living_the_killed_and_the_drained() {
        let json = serde_json::json!([
            {"process": "0198c0de-0000-7000-8000-000000000003", "started_at": "2026-11-24T12:00:00Z"},
            {"process": "0198c0de-0000-7000-8000-000000000002", "started_at": "2026-11-24T11:00:00Z",
             "host": "jobs-7d9-x2x4k", "ended_at": "2026-11-24T12:00:00Z", "outcome": "killed"},
            {"process": "0198c0de-0000-7000-8000-000000000001", "started_at": "2026-11-24T10:00:00Z",
             "began_at": "2026-11-24T10:59:50.25Z", "drain_id": "7392050f35", "cause": "pod_deleted",
             "ended_at": "2026-11-24T10:59:53.75Z", "outcome": "clean", "seconds": 3.512,
             "host": "jobs-7d9-qqzt7",
             "report": {"pod": "jobs-7d9-qqzt7", "node": "worker-2", "jobs": {"finished": 20, "released": {"count": 1}, "left": {"count": 0}},
                        "requests": {"cut": 0}}}
        ]);
        let drains: Vec<DrainView> = serde_json::from_value(json).unwrap();

        let expected = "\
STARTED              DRAIN BEGAN          DRAIN       POD             NODE      CAUSE        OUTCOME  SECONDS  FINISHED  RELEASED  LEFT  CUT
2026-11-24 12:00:00  -                    -           -               -         -            serving        -         -         -     -    -
2026-11-24 11:00:00  -                    -           jobs-7d9-x2x4k  -         -            killed         -         -         -     -    -
2026-11-24 10:00:00  2026-11-24 10:59:50  7392050f35  jobs-7d9-qqzt7  worker-2  pod_deleted  clean        3.5        20         1     0    0
";
        assert_eq!(table(&drains, &TimeZone::UTC), expected);
    }
}

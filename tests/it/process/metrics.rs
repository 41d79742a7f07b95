//! What a scrape gets: compared with the page that explains it, and judged by Prometheus' own linter.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command as Program, Stdio},
};

use rustix::process::Signal;
use tokio::process::Command;

use super::harness::{Place, Process, until};
use crate::fake_api::{FakeApi, NAMESPACE, Resource, pod};

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// Read when it is looked for: what a registry gets of this has no chart.
const ALERTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/helm/lameduck/files/alerts.yaml"
);

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

/// What is published of a metric beside its values.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Everything that the program exports, in a pod, in the middle of a drain, with a job under way: there is
/// nothing then that has no value yet.
async fn scrape() -> String {
    let place = Place::new(GATED);
    let api = FakeApi::start().await;
    api.write_service_account(&place.path(""), "token");
    api.put(Resource::Pods, pod("worker", "uid-1", "10.0.0.1"));
    api.place("jobs-1", "jobs", &["worker"]);
    let mut command: Command = place.command_with_handler(&[]);
    command
        .env("LAMEDUCK_KUBERNETES_API", api.url())
        .env("LAMEDUCK_SERVICE_ACCOUNT_DIR", place.path(""))
        .env("LAMEDUCK_TERMINATION_LOG", place.path("termination-log"))
        .env("POD_NAMESPACE", NAMESPACE)
        .env("POD_NAME", "worker")
        .env("POD_UID", "uid-1");
    let process = Process::start(command).await;
    process.submit("gated").await;
    place.noted("begin", 1).await;
    api.delete_pod("worker", 30);
    process.signal(Signal::TERM);
    until("all metrics", async || {
        let answer = process.admin("/metrics").await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let late_ones = [
            "lameduck_endpoint_removal_seconds{",
            "lameduck_drains_total{",
        ];
        late_ones
            .iter()
            .all(|series| text.contains(series))
            .then_some(text)
    })
    .await
}

/// As the text format has it.
fn exported(scrape: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    for line in scrape.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((series, labels)) = line.split_once('{') {
            let parts = ["", "_bucket", "_sum", "_count"];
            let name = parts.iter().find_map(|part| {
                let name = series.strip_suffix(part)?;
                families.contains_key(name).then(|| name.to_owned())
            });
            let family = families.get_mut(&name.unwrap()).unwrap();
            let labels = labels.split("=\"").filter_map(|before| {
                let name = before.rsplit([',', '"', '{']).next()?;
                (!before.contains('}') && name != "le").then(|| name.to_owned())
            });
            family.labels.extend(labels);
        }
    }
    families
}

/// The rows of the page's tables: metric and labels, type, and what the metric itself says of it.
fn documented() -> BTreeMap<String, Family> {
    let rows = PAGE
        .lines()
        .filter(|line| line.starts_with("| `lameduck_") || line.starts_with("| `process_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let metric = cells[1].trim_matches('`');
        let (name, labels) = metric.split_once('{').unwrap_or((metric, "}"));
        let labels = labels.trim_end_matches('}').split(',');
        let family = Family {
            kind: cells[2].to_owned(),
            help: cells[3].to_owned(),
            labels: labels
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
        };
        (name.to_owned(), family)
    })
    .collect()
}

fn row(name: &str, family: &Family) -> String {
    let labels: Vec<&str> = family.labels.iter().map(String::as_str).collect();
    let labels = match labels.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", labels.join(",")),
    };
    format!("| `{name}{labels}` | {} | {} |", family.kind, family.help)
}

#[tokio::test]
async fn the_page_has_every_metric_as_the_program_publishes_it() {
    let (exported, documented) = (exported(&scrape().await), documented());

    let rows = |these: &BTreeMap<String, Family>, those: &BTreeMap<String, Family>| {
        let differ = these
            .iter()
            .filter(|(name, family)| those.get(*name) != Some(*family));
        let rows: Vec<String> = differ.map(|(name, family)| row(name, family)).collect();
        rows.join("\n")
    };
    let (missing, wrong) = (rows(&exported, &documented), rows(&documented, &exported));
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "docs/metrics.md should have these rows:\n{missing}\n\nand not these:\n{wrong}"
    );
}

/// What `promtool` says of something; Debian has it in the package `prometheus`.
fn promtool(arguments: &[&str], input: &str) {
    let started = Program::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        assert!(
            std::env::var_os("CI").is_none(),
            "promtool is missing; CI installs what .ci/packages names"
        );
        eprintln!("NOT CHECKED: promtool is missing (apt-get install prometheus)");
        return;
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let said = promtool.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        said.status.success() && said.stderr.is_empty(),
        "{}{}",
        text(&said.stdout),
        text(&said.stderr)
    );
}

/// Names, units, suffixes and help texts as Prometheus wants them.
#[tokio::test]
async fn the_linter_of_prometheus_has_nothing_to_say_of_a_scrape() {
    promtool(&["check", "metrics"], &scrape().await);
}

/// What they do is tested by tests/deploy/watch; this is what plain `cargo test` can say of them.
#[test]
fn the_alerts_are_rules_that_prometheus_takes_and_are_on_the_page() {
    let check = ["check", "rules", "--lint=all", "--lint-fatal", "/dev/stdin"];
    let alerts = std::fs::read_to_string(ALERTS).unwrap();
    promtool(&check, &alerts);

    let lines = alerts.lines().map(str::trim);
    for alert in lines.filter_map(|line| line.strip_prefix("- alert: ")) {
        let row = format!("| [{alert}](runbooks/{alert}.md) |");
        assert!(PAGE.contains(&row), "docs/metrics.md should have: {row}");
    }
}

#[tokio::test]
async fn what_can_be_counted_is_exported_as_zero_before_it_happens() {
    let place = Place::new("");
    let process = place.start(&[]).await;

    let scrape = process.admin("/metrics").await;

    let outcomes = [
        "completed",
        "failed",
        "dead",
        "released",
        "postponed",
        "deferred",
        "cancelled",
    ];
    let outcomes = outcomes.map(|outcome| {
        format!("lameduck_job_outcomes_total{{outcome=\"{outcome}\",queue=\"default\"}}")
    });
    let states = ["pending", "scheduled", "running", "deferred", "dead"];
    let states =
        states.map(|state| format!("lameduck_queue_jobs{{queue=\"default\",state=\"{state}\"}}"));
    let others = [
        "job_timeouts_total",
        "stale_outcomes_total",
        "reserves_after_drain_total",
        "job_wait_seconds_count",
        "queue_oldest_age_seconds",
        "queue_paused",
        "workers_busy",
        "workers_needed",
        "job_grace_needed_seconds",
    ];
    let others = others.map(|name| format!("lameduck_{name}{{queue=\"default\"}}"));
    for series in outcomes.iter().chain(&states).chain(&others) {
        assert_eq!(scrape.metric(series), Some(0.0), "{series}");
    }
    let workers = "lameduck_workers{queue=\"default\"}";
    assert_eq!(scrape.metric(workers), Some(20.0));
}

/// A crowd of jobs, a drain in the middle of it, and a scrape while that drain waits for the last of them.
#[tokio::test]
async fn a_drain_under_load_sends_no_reserve_and_its_last_scrape_says_so() {
    let handler =
        format!(r#"read -r payload; if [ "$payload" = gated ]; then {GATED}; fi; sleep 0.2"#);
    let place = Place::new(&handler);
    let process = place.start(&["--workers", "4"]).await;
    process.submit("gated").await;
    for _ in 0..100 {
        process.submit("short").await;
    }
    place.noted("end", 5).await;

    let since = std::time::Instant::now();
    process.signal(Signal::TERM);
    let log = process.log().clone();
    log.line("phase", |line| line["phase"] == "draining").await;
    let busy = "lameduck_workers_busy{queue=\"default\"}";
    until("the gated job alone", async || {
        (process.metric(busy).await == Some(1.0)).then_some(())
    })
    .await;
    let scrape = process.admin("/metrics").await;
    place.touch("go");
    process.exit(since).await.assert_clean();

    let figure = |name: &str| scrape.metric(name).unwrap();
    let never = "lameduck_reserves_after_drain_total{queue=\"default\"}";
    assert_eq!(figure(never), 0.0);
    let reserved = figure("lameduck_job_wait_seconds_count{queue=\"default\"}");
    let outcome = |word: &str| {
        let series = "lameduck_job_outcomes_total";
        figure(&format!("{series}{{outcome=\"{word}\",queue=\"default\"}}"))
    };
    // What was reserved when the drain began is given back; the gated one still runs.
    let ended = outcome("completed") + outcome("released");
    assert_eq!(reserved, ended + 1.0);
    assert!(reserved < 101.0, "the drain should have begun under load");
}

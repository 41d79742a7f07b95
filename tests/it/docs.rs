//! The documentation says what the code does.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use lameduck::{Lifecycle, lifecycle::DrainSettings};

const ARCHITECTURE: &str = include_str!("../../docs/architecture.md");

/// The first two columns of the table of defaults.
fn documented() -> BTreeMap<String, String> {
    let table = ARCHITECTURE
        .split("| setting | default |")
        .nth(1)
        .expect("a table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    })
    .collect()
}

#[test]
fn the_architecture_page_states_the_defaults_that_are_in_the_code() {
    let settings = serde_json::to_value(DrainSettings::default()).unwrap();
    let in_code: BTreeMap<String, String> = settings
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "readiness")
        .map(|(name, value)| {
            let shown = match value.as_object() {
                Some(duration) => {
                    let seconds = duration["secs"].as_u64().unwrap();
                    let nanos = duration["nanos"].as_u64().unwrap();
                    format!(
                        "{:?}",
                        Duration::from_secs(seconds) + Duration::from_nanos(nanos)
                    )
                }
                None => value.to_string(),
            };
            (name.replace('_', "-"), shown)
        })
        .collect();
    assert_eq!(documented(), in_code);
}

#[tokio::test]
async fn the_page_on_the_drain_report_shows_the_whole_state_of_a_drain() {
    let page = include_str!("../../docs/drain-report.md");
    let state = Lifecycle::builder().drain().state();
    let state = serde_json::to_value(state).unwrap();
    for name in state.as_object().unwrap().keys() {
        let shown = format!("\n  \"{name}\": ");
        assert!(page.contains(&shown), "'{name}' is not shown");
    }
}

#[test]
fn the_help_states_the_same_defaults() {
    let help = Command::new(env!("CARGO_BIN_EXE_lameduck"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for (setting, default) in documented() {
        let option = help
            .split(&format!("--{setting} <"))
            .nth(1)
            .unwrap_or_else(|| panic!("there is no --{setting} in the help"));
        let text = option.split("--").next().unwrap();
        assert!(
            text.contains(&format!("[default: {default}]")),
            "--{setting} is {default} in the documentation, and in the help:{text}"
        );
    }
}

/// What a scrape calls `lameduck_…`, wherever a text names it. Queries name a part of a histogram.
fn metrics_named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| word.starts_with("lameduck_"));
    metrics.map(|metric| metric.strip_suffix("_bucket").unwrap_or(metric))
}

#[test]
fn every_metric_that_the_documentation_names_is_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    let mut folders = vec![root.join("src"), root.join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => sources += &fs::read_to_string(path).unwrap(),
            }
        }
    }
    let mut pages = vec![root.join("README.md")];
    pages.extend(
        fs::read_dir(root.join("docs"))
            .unwrap()
            .map(|page| page.unwrap().path()),
    );
    let crates: Vec<String> = fs::read_dir(root.join("crates"))
        .unwrap()
        .map(|krate| krate.unwrap().file_name().into_string().unwrap())
        .map(|krate| format!("lameduck_{krate}"))
        .collect();
    let mut named = 0;
    for page in pages
        .iter()
        .filter(|page| page.extension().is_some_and(|e| e == "md"))
    {
        let text = fs::read_to_string(page).unwrap();
        // A crate's name is a log target, which looks like a metric.
        let metrics = metrics_named(&text).filter(|name| !crates.iter().any(|krate| krate == name));
        for metric in metrics {
            named += 1;
            let quoted = format!("\"{metric}\"");
            assert!(
                sources.contains(&quoted),
                "{} names {metric}, which nothing exports",
                page.display()
            );
        }
    }
    assert!(named > 10, "the pages were not found");
}

#[test]
fn what_an_answer_means_is_said_alike_in_the_code_and_in_the_documentation() {
    let table = |text: &str| -> Vec<String> {
        let rows = text.lines().map(|line| line.trim_start_matches("//! "));
        rows.skip_while(|line| !line.starts_with("| answer |"))
            .take_while(|line| line.starts_with('|'))
            .map(str::to_owned)
            .collect()
    };
    let in_code = table(include_str!("../../crates/jobs/src/handler/http.rs"));
    assert_eq!(
        table(include_str!("../../docs/handlers.md")),
        in_code,
        "docs/handlers.md"
    );
    assert!(in_code.len() > 2, "a table");
}

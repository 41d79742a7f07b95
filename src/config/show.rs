//! `lameduck config check` and `lameduck config show`: look at a configuration before it is used.

use std::{io::Write, path::Path, process::ExitCode};

use serde_json::json;

use super::{
    Checked, DEFAULT_QUEUE, Entry, Given, Handler, Problems, Section, Settings, Value, load,
    unstartable,
};

/// Exit status of an invalid configuration, the same as for a wrong command line.
const WRONG: u8 = 2;

/// Prints a summary of the configuration, or everything that is wrong with it.
pub fn check(file: Option<&Path>, flags: Settings) -> ExitCode {
    match load(file, flags) {
        Ok(checked) => {
            for warning in &checked.warnings {
                print(&format!("warning: {warning}"));
            }
            for unstartable in unstartable(&checked.config) {
                print(&format!("warning: {unstartable}"));
            }
            print(&summary(&checked));
            ExitCode::SUCCESS
        }
        Err(problems) => complain(&problems),
    }
}

/// Prints the settings in force, and their sources.
pub fn show(file: Option<&Path>, flags: Settings, json: bool) -> ExitCode {
    let given = match Given::gather(file, flags) {
        Ok((given, problems)) if problems.is_empty() => given,
        Ok((_, problems)) => return complain(&Problems(problems)),
        Err(problems) => return complain(&problems),
    };
    let sections = sections(&given);
    match json {
        true => {
            let sections: serde_json::Map<String, serde_json::Value> = sections
                .into_iter()
                .map(|(title, entries)| (title, entries.iter().map(as_json).collect()))
                .collect();
            print(&format!("{:#}", serde_json::Value::Object(sections)));
        }
        false => {
            for (title, entries) in sections {
                print(&as_text(&title, &entries));
            }
        }
    }
    ExitCode::SUCCESS
}

/// Returns every table that there would be if all settings were in the file.
fn sections(given: &Given) -> Vec<(String, Vec<Entry>)> {
    let mut sections = vec![("process".to_owned(), given.settings.process.entries())];
    if given.queues.is_empty() {
        sections.push((
            format!("queues.{DEFAULT_QUEUE}"),
            given.settings.queue.entries(),
        ));
    }
    for (name, _, queue) in &given.queues {
        sections.push((format!("queues.{name}"), queue.entries()));
    }
    for (number, (_, hook)) in given.hooks.iter().enumerate() {
        let name = hook.in_force().name;
        let name = name.unwrap_or_else(|| (number + 1).to_string());
        sections.push((format!("teardown-hook.{name}"), hook.entries()));
    }
    sections
}

fn as_json(entry: &Entry) -> serde_json::Value {
    json!({"name": entry.name, "value": entry.value, "source": entry.source.to_string()})
}

fn as_text(title: &str, entries: &[Entry]) -> String {
    let given = entries.iter().filter_map(|entry| {
        let value = entry.value.as_ref()?;
        let said = format!("{} = {value}", entry.name);
        Some(format!("\n{said:<48} # {}", entry.source))
    });
    format!("[{title}]{}\n", given.collect::<String>())
}

fn summary(checked: &Checked) -> String {
    let config = &checked.config;
    let mut lines = vec![format!(
        "good: {}, {} on {}",
        count(config.queues.len(), "queue"),
        count(config.hooks.len(), "teardown hook"),
        config.process.listen
    )];
    for queue in &config.queues {
        let by = match &queue.handler {
            Handler::Exec(command) => format!("exec {}", command.shown()),
            Handler::Http { url, .. } => format!("http {}", url.0.host_str().unwrap_or_default()),
        };
        let workers = count(queue.values.workers.get(), "worker");
        lines.push(format!("  queue '{}': {workers}, {by}", queue.name));
    }
    lines.join("\n")
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn complain(problems: &Problems) -> ExitCode {
    eprintln!("lameduck: {problems}");
    ExitCode::from(WRONG)
}

/// Prints a text. Errors are ignored: the reader may have closed the pipe, as in `lameduck config show | head`.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

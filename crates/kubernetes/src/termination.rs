//! The termination message, which `kubectl describe pod` shows as the reason why a container ended.
//!
//! The kubelet mounts a file at `terminationMessagePath` (`/dev/termination-log`). When the container has
//! ended, it keeps the file's content, up to 4,096 bytes, in the Pod's status. The drain report is written
//! there as JSON. If it is too long, some job ids are left out and counted instead; the JSON is never cut in
//! the middle.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use lameduck_lifecycle::{DrainReport, Ids};

/// Maximum length that the kubelet keeps, in bytes (`MaxContainerTerminationMessageLength`).
const LONGEST: usize = 4096;

/// The path at which the kubelet mounts the file by default.
const DEFAULT_PATH: &str = "/dev/termination-log";

/// Maximum length of a hook's error, and maximum number of hooks, in a shortened message.
const SHORT_ERROR: usize = 120;
const FEW_HOOKS: usize = 8;

/// Where the message is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TerminationLog {
    /// The file that the kubelet mounts by default, if it exists.
    Default,
    /// The file at this path, which is created if it does not exist.
    Path(PathBuf),
}

impl TerminationLog {
    /// Writes the report.
    pub(super) async fn write(&self, report: &DrainReport) -> std::io::Result<()> {
        let (path, create) = match self {
            Self::Default => (Path::new(DEFAULT_PATH), false),
            Self::Path(path) => (path.as_path(), true),
        };
        // Write in place: the kubelet reads this very file, a bind mount that can't be replaced.
        let opened = tokio::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .create(create)
            .open(path)
            .await;
        let mut file = match opened {
            Err(error) if !create && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        file.write_all(&message(report)).await?;
        file.flush().await
    }
}

/// Returns the report as JSON, in at most [`LONGEST`] bytes.
fn message(report: &DrainReport) -> Vec<u8> {
    let all = report.jobs.released.ids.len() + report.jobs.left.ids.len();
    let whole = render(report, all, false);
    if whole.len() <= LONGEST {
        return whole;
    }
    let brief =
        render(report, 0, true).len() <= LONGEST && render(report, 0, false).len() > LONGEST;
    // Search for the largest number of ids that fits; the length grows with their number.
    let (mut fits, mut too_many) = (0, all);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        match render(report, middle, brief).len() <= LONGEST {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    let message = render(report, fits, brief);
    if message.len() <= LONGEST {
        return message;
    }
    json!({"drain_id": report.drain_id, "outcome": report.outcome, "cause": report.cause})
        .to_string()
        .into_bytes()
}

/// Renders the report with at most `ids` ids, those of left jobs first because they are reported nowhere else.
fn render(report: &DrainReport, ids: usize, brief: bool) -> Vec<u8> {
    let mut short = report.clone();
    let left = short.jobs.left.ids.len().min(ids);
    short.jobs.left.ids.truncate(left);
    short.jobs.released.ids.truncate(ids - left);
    if brief {
        short.hooks.retain(|hook| hook.error.is_some());
        short.hooks.truncate(FEW_HOOKS);
        for hook in &mut short.hooks {
            shorten(&mut hook.name);
            hook.error.iter_mut().for_each(shorten);
        }
    }
    let mut value = serde_json::to_value(&short).unwrap_or_default();
    for (name, ids) in [
        ("released", &short.jobs.released),
        ("left", &short.jobs.left),
    ] {
        say_omitted(&mut value["jobs"][name], ids);
    }
    value.to_string().into_bytes()
}

fn say_omitted(value: &mut Value, ids: &Ids) {
    let omitted = ids.count - ids.ids.len() as u64;
    if omitted > 0 {
        value["ids_omitted"] = json!(omitted);
    }
}

fn shorten(text: &mut String) {
    if text.len() > SHORT_ERROR {
        let end = (0..=SHORT_ERROR)
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
}

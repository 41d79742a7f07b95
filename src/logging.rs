//! Logs: readable text on a terminal, JSON lines everywhere else, written by a thread of their own ([`terminal`]).
//! `LAMEDUCK_LOG` is a filter as `RUST_LOG` is, and a [`LogLimit`] limits the lines of libraries.

use std::{io::Write, sync::Arc};

use lameduck::DrainReport;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    log_limit::LogLimit,
    terminal::{self, Stderr},
};

/// Installs the subscriber.
pub fn install() {
    let wanted = std::env::var_os("LAMEDUCK_LOG").unwrap_or_default();
    let filter = match wanted.to_str().map(str::trim) {
        Some("") => Some(EnvFilter::new("info")),
        Some(wanted) => EnvFilter::try_new(wanted).ok(),
        None => None,
    };
    let is_understood = filter.is_some();
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would print them by a macro that panics if standard error is what has failed.
        .log_internal_errors(false)
        .with_writer(|| Stderr);
    if terminal::install() {
        let logs = logs.with_target(false).compact().finish();
        logs.with(LogLimit::default()).init();
    } else {
        let logs = logs.json().flatten_event(true).finish();
        logs.with(LogLimit::default()).init();
    }
    if !is_understood {
        tracing::warn!(
            "LAMEDUCK_LOG is not understood, and 'info' holds; write it as in debug, or info,lameduck_kubernetes=debug"
        );
    }
}

/// Writes the drain report as one line of JSON.
pub async fn report(report: Arc<DrainReport>) -> Result<(), std::io::Error> {
    let mut line = serde_json::json!({
        "timestamp": jiff::Timestamp::now(),
        "level": if report.is_clean() { "INFO" } else { "WARN" },
        "message": "drain report",
    });
    let fields = serde_json::to_value(&*report)?;
    if let (Some(line), serde_json::Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    // The line is written in one piece, so that nothing comes in between.
    Stderr.write_all(format!("{line}\n").as_bytes())
}

//! `lameduck run`: a program, with the drain in front of it.
//!
//! ```text
//!   clients ──▶ listen ──▶ proxy ── gate ──▶ upstream: the program      with --listen
//!               signals ─────────────────────▶ the program              without: it is supervised alone
//! ```

use std::{convert::Infallible, io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use lameduck::{
    Lifecycle,
    http::Listener,
    jobs::handler::exec,
    kubernetes::Kubernetes,
    lifecycle::{DrainSettings, ReadinessPolicy, ReportFile, Signals},
    prelude::*,
    proxy::{
        Address, Gate, Program, Proxy, Running, Tell, Upstream, free_port, pass_signals_on,
        signal_of_name, watch_health,
    },
};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::{
    cli,
    config::{Share, Time, Value},
    fail, listen, logging, terminal,
};

/// When the program hears of a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TellWhen {
    /// Last, when no request is in flight any more.
    Last,
    /// At T0, by its stop signal.
    AtStart,
    /// At T0, by this signal.
    Signal(Signal),
    /// At T0, by a POST request for this path.
    Request(String),
}

/// The settings of the drain, by the names that `serve` has for them.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Settings of the drain")]
pub struct DrainArgs {
    /// From SIGTERM to SIGKILL: terminationGracePeriodSeconds, or TimeoutStopSec [default: 30s].
    #[arg(long, env = "LAMEDUCK_GRACE", value_name = "DURATION", value_parser = Time::from_text)]
    pub grace: Option<Time>,

    /// When readiness fails in a drain: immediate, after-removal, auto [default: auto].
    #[arg(long, env = "LAMEDUCK_READINESS", value_name = "POLICY", value_parser = ReadinessPolicy::from_text)]
    pub readiness: Option<ReadinessPolicy>,

    /// From removal in the API to removal everywhere.
    #[arg(long, env = "LAMEDUCK_SETTLE", value_name = "DURATION", value_parser = Time::from_text)]
    pub settle: Option<Time>,

    /// Without a request on a new connection for this long, nobody routes here.
    #[arg(long, env = "LAMEDUCK_QUIET", value_name = "DURATION", value_parser = Time::from_text)]
    pub quiet: Option<Time>,

    /// After this long removal is assumed where it can't be observed.
    #[arg(long, env = "LAMEDUCK_FALLBACK_WAIT", value_name = "DURATION", value_parser = Time::from_text)]
    pub fallback_wait: Option<Time>,

    /// The share of the grace period in which idle connections may speak once more, 0 to 1.
    #[arg(long, env = "LAMEDUCK_LAME_DUCK_SHARE", value_name = "SHARE", value_parser = Share::from_text)]
    pub lame_duck_share: Option<Share>,

    /// What the program gets to come to an end at the least, from its stop signal to SIGKILL.
    #[arg(long, env = "LAMEDUCK_STOP_NOTICE", value_name = "DURATION", value_parser = Time::from_text)]
    pub stop_notice: Option<Time>,

    /// Wait at the end, inside the grace period, until everybody who scrapes has been there once more.
    #[arg(long, env = "LAMEDUCK_FINAL_SCRAPE")]
    pub final_scrape: bool,

    /// A file that the drain report is written to, as JSON.
    #[arg(long, env = "LAMEDUCK_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Runs a program to its end. The exit status is the program's own.
pub fn run(asked: cli::Run, signals: io::Result<Signals>) -> ExitCode {
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot take SIGTERM and SIGINT: {error}")),
    };
    logging::install();
    match begin(asked, signals) {
        Ok(status) => status,
        Err(error) => fail(format_args!("{error:#}")),
    }
}

fn begin(asked: cli::Run, signals: Signals) -> anyhow::Result<ExitCode> {
    exec::reap_orphans()
        .context("cannot watch over the processes that the program leaves behind")?;
    let begin_on: Vec<i32> = asked
        .begin_on
        .iter()
        .map(|signal| signal.as_raw())
        .collect();
    signals
        .take_also(&begin_on)
        .context("cannot take the signals of 'begin-on'")?;
    if !signals.begin() {
        tracing::info!("told to end before anything was begun; there is nothing to drain");
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let status = runtime.block_on(serve(asked, signals, &begin_on));
    runtime.shutdown_background();
    status
}

async fn serve(asked: cli::Run, signals: Signals, begin_on: &[i32]) -> anyhow::Result<ExitCode> {
    // Everything else that can fail comes before the program is started.
    let front = match &asked.listen {
        Some(listen) => Some((
            listen::bind("listen", listen).await?,
            upstream(asked.upstream.clone())?,
        )),
        None => None,
    };
    if front.is_none() && matches!(asked.tell, TellWhen::Request(_)) {
        bail!("'tell' names a request, and without 'listen' the program's address is not known");
    }
    let admin = listen::bind("admin", &asked.admin).await?;
    let front_address = front.as_ref().map(|(listener, _)| ("listen", listener));
    for (setting, listener) in front_address.into_iter().chain([("admin", &admin)]) {
        let address = listener.local_addr().unwrap_or_default();
        tracing::info!(address, setting, "listening");
    }
    let report = asked.drain.report.clone().map(ReportFile::prepare);
    let report = report.transpose().context("setting 'report'")?;

    let running = match program(&asked, front.as_ref().map(|(_, upstream)| upstream)).start() {
        Ok(running) => running,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(ExitCode::from(error.status()));
        }
    };
    pass_signals_on(&running, begin_on)
        .context("cannot take the signals that the program is to get")?;
    let kill = running.killer();
    signals.last_will(move || {
        kill();
        terminal::flush();
    });
    let ended = running.ended();

    let mut lifecycle = Lifecycle::builder()
        .settings(asked.drain.settings())
        .signals(signals)
        .admin(admin)
        .on_report("log line", logging::report);
    if asked.drain.final_scrape {
        lifecycle = lifecycle.final_scrape();
    }
    if let Some(file) = report {
        lifecycle = lifecycle.on_report("report file", |report| file.write(report));
    }
    let drained = behind(lifecycle, running, front, asked.health)
        .kubernetes(Kubernetes::in_cluster())
        .run()
        .await;
    if let Err(error) = drained {
        tracing::error!("{error}");
    }
    let status = ended.borrow().map(|ended| ended.status());
    Ok(status.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Puts the program into the lifecycle, and the proxy in front of it.
fn behind(
    lifecycle: Lifecycle,
    running: Running,
    front: Option<(Listener, Upstream)>,
    health: Option<String>,
) -> Lifecycle {
    let drain = lifecycle.drain().clone();
    let gate = Gate::new();
    let Some((listener, upstream)) = front else {
        return lifecycle.service("program", running.attend(drain, gate, None, None));
    };
    let (well, looks) = watch_health(upstream.clone(), health, &drain);
    let proxy = Proxy::new(upstream.clone(), gate.clone(), &drain);
    lifecycle
        .service(
            "program",
            running.attend(drain, gate, Some(upstream), Some(well)),
        )
        .background("health", async move { Err::<(), Infallible>(looks.await) })
        .http("proxy", listener, proxy)
}

fn program(asked: &cli::Run, upstream: Option<&Upstream>) -> Program {
    let tell = match &asked.tell {
        TellWhen::Last => Tell::Last,
        TellWhen::AtStart => Tell::Signal(asked.stop_signal),
        TellWhen::Signal(signal) => Tell::Signal(*signal),
        TellWhen::Request(path) => Tell::Request(path.clone()),
    };
    let program = Program::new(asked.command.clone())
        .without_variable(exec::SECRET)
        .stop_signal(asked.stop_signal)
        .signal_group(asked.signal_group)
        .tell(tell);
    match upstream {
        Some(upstream) if asked.upstream.is_none() => {
            program.variable("PORT", upstream.address().port().to_string())
        }
        _ => program,
    }
}

fn upstream(address: Option<Address>) -> anyhow::Result<Upstream> {
    let address = match address {
        Some(address) => address,
        None => {
            let port = free_port().context("no port is free for the program")?;
            Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)))
        }
    };
    Ok(Upstream::new(address))
}

/// Reads a signal by its name, as in a flag.
pub fn signal(text: &str) -> Result<Signal, String> {
    signal_of_name(text).map_err(|error| error.to_string())
}

/// Reads the path of a request to the program.
pub fn path(text: &str) -> Result<String, String> {
    let uri = text.parse::<http::Uri>();
    let whole = |uri: &http::Uri| uri.authority().is_none() && text.starts_with('/');
    match uri.as_ref().is_ok_and(whole) {
        true => Ok(text.to_owned()),
        false => Err(format!("'{text}' is not a path; write it as in /healthz")),
    }
}

// === impl TellWhen ===

impl TellWhen {
    /// Reads the value of a flag.
    pub fn from_text(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "last" => Ok(Self::Last),
            None if text == "at-start" => Ok(Self::AtStart),
            Some(("at-start", path_of)) if path_of.starts_with('/') => {
                path(path_of).map(Self::Request)
            }
            Some(("at-start", name)) => signal(name).map(Self::Signal),
            _ => Err(format!(
                "'{text}' is none of last, at-start, at-start=SIGNAL and at-start=/PATH"
            )),
        }
    }
}

// === impl DrainArgs ===

impl DrainArgs {
    fn settings(&self) -> DrainSettings {
        let mut settings = DrainSettings::default();
        let set = |setting: &mut Duration, given: Option<Time>| {
            if let Some(given) = given {
                *setting = given.0;
            }
        };
        set(&mut settings.grace, self.grace);
        set(&mut settings.settle, self.settle);
        set(&mut settings.quiet, self.quiet);
        set(&mut settings.fallback_wait, self.fallback_wait);
        set(&mut settings.stop_notice, self.stop_notice);
        settings.readiness = self.readiness.unwrap_or(settings.readiness);
        if let Some(share) = self.lame_duck_share {
            settings.lame_duck_share = share.0;
        }
        settings
    }
}

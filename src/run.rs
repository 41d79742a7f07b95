//! `lameduck run`: a program, with the drain in front of it.
//!
//! ```text
//!   clients ──▶ listen ──▶ proxy ── gate ──▶ upstream: the program      with --listen
//!               signals ─────────────────────▶ the program              without: it is supervised alone
//! ```

use std::{convert::Infallible, io, process::ExitCode};

use anyhow::{Context, bail};
use lameduck::{
    Lifecycle,
    http::Listener,
    jobs::handler::exec,
    kubernetes::Kubernetes,
    lifecycle::{ReportFile, Signals},
    prelude::*,
    proxy::{
        Address, Gate, Program, Proxy, Running, Tell, Upstream, free_port, pass_signals_on,
        signal_of_name, watch_health,
    },
};
use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::{cli, fail, listen, logging, terminal};

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
    if let Some((listener, _)) = &front {
        listen::announce("listen", listener);
    }
    listen::announce("admin", &admin);
    let settings = asked.drain.in_force();
    let report = settings.report.clone().map(ReportFile::prepare);
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
        .settings(settings.drain())
        .signals(signals)
        .admin(admin)
        .on_report("log line", logging::report);
    if settings.final_scrape {
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

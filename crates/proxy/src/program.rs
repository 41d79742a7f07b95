//! The program behind: started, told last, waited for, and killed at the hard deadline.
//!
//! ```text
//!   serving ──T0──▶ unaware ──nobody routes here, clients have left──▶ the gate closes ──nobody inside, or soft──▶
//!                      │ it may be told now, where it asks for that
//!   ──▶ stop signal ──the rest of the budget──▶ it ends │ hard deadline: its group is killed
//! ```
//!
//! Without traffic in front there is nothing to wait for, and the stop signal comes at T0.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{self, ErrorKind},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Request, header::HOST};
use lameduck_lifecycle::{BoxError, DeadlineSource, Drain, Kill, Moment, Phase};
use lameduck_process::{Child, EndWatch, Known, examine};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    process::Command,
    sync::watch,
    time::{Instant, timeout},
};

use crate::{body::ToProgram, gate::Gate, health::Health, signal, terminal, upstream::Upstream};

/// Time left for requests and reports once the program has gone: it can serve nobody any more, and the sooner
/// we end, the sooner our parent starts us again.
const WITHOUT_PROGRAM: Duration = Duration::from_secs(2);

/// Maximum time for the program to answer the request that announces T0.
const TELL_PATIENCE: Duration = Duration::from_secs(5);

/// The exit statuses of shells for a program that could not be started.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// A program that is to be started.
#[derive(Clone, Debug)]
pub struct Program {
    argv: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    removed: Vec<OsString>,
    stop_signal: Signal,
    whole_group: bool,
    tell: Tell,
}

/// The way in which a program is told of T0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tell {
    /// The program is not told: it only gets its stop signal, last of all.
    #[default]
    Last,
    /// With this signal. If it is the stop signal, no other one follows.
    Signal(Signal),
    /// With a POST request for this path, over its own HTTP.
    Request(String),
}

/// Reason why a program can't be started.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct CannotStart {
    why: String,
    status: u8,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(ExitStatus);

/// A program that was started.
pub struct Running {
    program: Program,
    child: Child,
    end: EndWatch,
    leader: Leader,
    ended: watch::Sender<Option<Ended>>,
}

/// The program's first process, which other code may signal.
#[derive(Clone, Debug)]
pub(crate) struct Leader(Arc<Mutex<Option<Pid>>>);

// === impl Program ===

impl Program {
    /// Creates a program from this command line: the program, then its arguments.
    pub fn new(argv: Vec<OsString>) -> Self {
        Self {
            argv,
            variables: Vec::new(),
            removed: Vec::new(),
            stop_signal: Signal::TERM,
            whole_group: false,
            tell: Tell::default(),
        }
    }

    /// Sets a variable of its environment.
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Removes a variable that it would inherit.
    pub fn without_variable(mut self, name: impl Into<OsString>) -> Self {
        self.removed.push(name.into());
        self
    }

    /// Sets the signal that tells it to stop; SIGTERM by default.
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// Signals all processes of its group to stop, and not only its first one. Servers that fork tell their
    /// workers themselves, and take a second signal for impatience.
    pub fn signal_group(mut self, yes: bool) -> Self {
        self.whole_group = yes;
        self
    }

    /// Sets the way in which it is told of T0.
    pub fn tell(mut self, tell: Tell) -> Self {
        self.tell = tell;
        self
    }

    /// Starts it, in a process group of its own, which gets the terminal if there is one. Must be called
    /// within a runtime.
    ///
    /// # Errors
    /// If it can't be started, with the reason as far as its files show it.
    pub fn start(self) -> Result<Running, CannotStart> {
        let (name, arguments) = match self.argv.split_first() {
            Some((name, arguments)) => (name.as_os_str(), arguments),
            None => (OsStr::new(""), [].as_slice()),
        };
        let mut command = Command::new(name);
        command.args(arguments).envs(self.variables.clone());
        for name in &self.removed {
            command.env_remove(name);
        }
        command.process_group(0);
        let child = lameduck_process::spawn(&mut command);
        let child = child.map_err(|error| CannotStart::new(name, &error))?;
        let pid = child.pid();
        terminal::hand_over(pid);
        tracing::info!(program = %name.display(), pid = pid.as_raw_nonzero(), "the program has been started");
        Ok(Running {
            end: EndWatch::new(pid),
            leader: Leader(Arc::new(Mutex::new(Some(pid)))),
            ended: watch::Sender::new(None),
            program: self,
            child,
        })
    }
}

// === impl CannotStart ===

impl CannotStart {
    fn new(name: &OsStr, error: &io::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        };
        let program = name.to_string_lossy();
        let why = match examine(Some(&program), Known::Refused) {
            Err(unfit) => format!("the program can't be started: {unfit}"),
            Ok(()) => format!("the program '{program}' can't be started: {error}"),
        };
        Self { why, status }
    }

    /// Returns the exit status that shells use: 127 if there is no such program, 126 if it can't be executed.
    pub fn status(&self) -> u8 {
        self.status
    }
}

// === impl Ended ===

impl Ended {
    /// Returns the exit status that passes this on: its own, or 128 plus the number of the signal that killed it.
    pub fn status(&self) -> u8 {
        let signal = self.0.signal().map(|signal| signal + 128);
        let status = self.0.code().or(signal).unwrap_or(1);
        u8::try_from(status).unwrap_or(u8::MAX)
    }

    /// Whether it ended by itself and with success.
    pub fn is_success(&self) -> bool {
        self.0.success()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // For example "exit status: 3", "signal: 9 (SIGKILL)".
        fmt::Display::fmt(&self.0, f)
    }
}

// === impl Running ===

impl Running {
    /// Returns its first process, to which signals are passed on.
    pub(crate) fn leader(&self) -> Leader {
        self.leader.clone()
    }

    /// Returns how it ended, once it has.
    pub fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.ended.subscribe()
    }

    /// Kills what is left of its group, for a process that is about to be ended by force. Callable from any thread.
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let leader = self.leader();
        move || leader.signal(Signal::KILL, true)
    }

    /// Sees it through: returns when it has ended and nothing of its group is left. A drain waits for that.
    ///
    /// If it ends before it was told to, nobody can be served any more. The gate closes, and a short drain
    /// begins.
    ///
    /// # Errors
    /// If it ended by itself, and not with success.
    pub async fn attend(
        mut self,
        drain: Drain,
        gate: Gate,
        upstream: Option<Upstream>,
        health: Option<Health>,
    ) -> Result<(), BoxError> {
        // It counts as a job that nobody else can take: the drain waits for its end.
        let held = drain.work("program").hold();
        let told = self.until_told(&drain, &gate, upstream, health).await;
        if told {
            tokio::select! {
                () = self.end.ended() => {}
                () = drain.reached(Moment::Cut) => {
                    tracing::warn!("the program did not end before the hard deadline; it is killed");
                }
            }
        }
        // Processes that the program left in its group are killed with it, while nobody else can have its process id.
        self.leader.signal(Signal::KILL, true);
        self.end.ended().await;
        self.leader.gone();
        let status = self.child.wait().await;
        let ended = Ended(status.map_err(|error| format!("its exit status was lost: {error}"))?);
        self.ended.send_replace(Some(ended));
        if told {
            tracing::info!(%ended, "the program has ended");
        } else {
            gate.close();
            tracing::error!(%ended, requests = gate.inside(), "the program ended by itself; nobody can be served any more");
            match ended.is_success() {
                true => drain.begin(),
                false => drain.fail(),
            }
            drain.observe_kill(Kill {
                at: Instant::now() + WITHOUT_PROGRAM,
                source: DeadlineSource::Settings,
            });
        }
        drop(held);
        match told || ended.is_success() {
            true => Ok(()),
            false => Err(format!("it ended by itself ({ended})").into()),
        }
    }

    /// Returns `true` when it has been told to stop, and `false` when it has ended before.
    async fn until_told(
        &self,
        drain: &Drain,
        gate: &Gate,
        upstream: Option<Upstream>,
        health: Option<Health>,
    ) -> bool {
        tokio::select! {
            () = self.end.ended() => return false,
            () = drain.reached(Moment::Began) => {}
        }
        let told = self.tell_of_t0(upstream);
        let mut phases = drain.phase_changes();
        let draining = async {
            let is_draining = |phases: &Vec<(Phase, Instant)>| {
                let now = phases.last();
                now.is_some_and(|(phase, _)| *phase >= Phase::Draining)
            };
            // This fails only if the drain is gone, and it returns a lock.
            drop(phases.wait_for(is_draining).await);
        };
        tokio::select! {
            () = self.end.ended() => return false,
            _ = futures_util::future::join(told, draining) => {}
            () = drain.reached(Moment::Stop) => {}
        }
        gate.close();
        tracing::info!(
            requests = gate.inside(),
            "the gate is closed; the program is told to stop when nobody is inside"
        );
        let hangs = async {
            match &health {
                Some(health) => health.failed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.end.ended() => return false,
            () = gate.emptied() => {}
            () = drain.reached(Moment::Stop) => {}
            () = hangs => {
                tracing::warn!(requests = gate.inside(), "the program is not well; its requests are not waited for");
            }
        }
        if self.program.tell != Tell::Signal(self.program.stop_signal) {
            tracing::info!(
                signal = signal::name(self.program.stop_signal),
                "the program is told to stop"
            );
            self.leader
                .signal(self.program.stop_signal, self.program.whole_group);
        }
        true
    }

    /// Tells the program that a drain has begun, if it wants to be told.
    async fn tell_of_t0(&self, upstream: Option<Upstream>) {
        match (&self.program.tell, upstream) {
            (Tell::Last, _) => {}
            (Tell::Signal(signal), _) => self.leader.signal(*signal, self.program.whole_group),
            (Tell::Request(path), Some(upstream)) => ask(upstream, path).await,
            (Tell::Request(path), None) => {
                tracing::error!(
                    path,
                    "the program can't be told of the drain: it has no upstream address"
                );
            }
        }
    }
}

/// Tells the program by a request. The drain waits for the program whatever it answers.
async fn ask(upstream: Upstream, path: &str) {
    let request = Request::post(path)
        .header(HOST, upstream.address().to_string())
        .body(ToProgram::Empty);
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            return tracing::error!(path, %error, "the program can't be told of the drain");
        }
    };
    match timeout(TELL_PATIENCE, upstream.send(request)).await {
        Ok(Ok(answer)) => {
            let status = answer.response.status().as_u16();
            tracing::info!(path, status, "the program was told of the drain");
        }
        Ok(Err(error)) => tracing::warn!(path, %error, "the program was not told of the drain"),
        Err(_) => tracing::warn!(
            path,
            "the program did not answer when it was told of the drain"
        ),
    }
}

// === impl Leader ===

impl Leader {
    /// Signals it, or all of its group, unless it is gone.
    pub(crate) fn signal(&self, signal: Signal, whole_group: bool) {
        // Under the lock it is not reaped: nobody else can have its process id or its group's.
        let pid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pid) = *pid else { return };
        let sent = match whole_group {
            true => kill_process_group(pid, signal),
            false => kill_process(pid, signal),
        };
        if let Err(error) = sent
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, signal = signal::name(signal), "the program could not be signalled");
        }
    }

    fn gone(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Returns an unused loopback port, for a program that takes its port from `PORT`.
///
/// # Errors
/// If the system has none.
pub fn free_port() -> io::Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}

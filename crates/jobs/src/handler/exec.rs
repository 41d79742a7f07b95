//! Runs a command for each job.
//!
//! ```text
//!   payload ──▶ stdin ┌─────────┐ stdout ──▶ the result, its first bytes (the rest is read and dropped)
//!   LAMEDUCK_… in the │ command │ stderr ──▶ the error, its last bytes
//!   environment       └─────────┘ exit status decides
//! ```
//!
//! | it ended | by itself | after it was told to stop |
//! | --- | --- | --- |
//! | exit 0 | done | released; done where [`zero_after_stop_is_done`](Exec::zero_after_stop_is_done) says so |
//! | exit 75 (`EX_TEMPFAIL`), another failure, a signal | failed | released |
//!
//! If a command can't be started, nothing was begun: the job is postponed by about one or ten seconds, and no attempt
//! is counted, whatever the reason. The only exceptions are the job's own fault: a content type or trace
//! context that no environment can hold. Such a job is dead at once. An exit status of 126 or 127 means that the
//! command was not started if its program turns out to lack its interpreter (`#!/usr/bin/env python3` without Python).
//!
//! | environment variable | value |
//! | --- | --- |
//! | `LAMEDUCK_JOB_ID`, `LAMEDUCK_QUEUE` | the job's id and queue, as its submitter knows them |
//! | `LAMEDUCK_CONTENT_TYPE` | the media type of stdin |
//! | `LAMEDUCK_ATTEMPT`, `LAMEDUCK_MAX_ATTEMPTS` | this attempt, starting at 1, and the one after which the job is dead |
//! | `LAMEDUCK_CLAIM` | of this run alone, to fence side effects. Must be kept: the command's processes are known by it |
//! | `LAMEDUCK_DEADLINE` | when SIGTERM comes, by the job's timeout: UTC, RFC 3339. A drain may bring it earlier |
//! | `TRACEPARENT` | the submitter's trace context, if there is one |
//!
//! The rest of the environment is the service's own, except for [`SECRET`].
//!
//! Standard input is not a pipe but an immutable file in memory that holds the payload: a command that goes on
//! after a SIGKILL of the service must not take the beginning of its payload for all of it.
//!
//! The command is the leader of a process group of its own. It is told to stop by SIGTERM to the group,
//! once; when its time is over, the group is killed. **The end of the leader is the end of the job**: processes
//! that it leaves behind in its group are killed, so that nothing of a finished job lives on. A shell that only
//! starts another program should therefore `exec` it: a shell that is killed by SIGTERM takes the program that it
//! was waiting for with it.
//!
//! A process that leaves the group (`setsid`, daemons) escapes all this; the job does not wait for it longer than
//! [`output_grace`](Exec::output_grace), even if it holds the output open. It may go on after the end of its job;
//! if this process adopts it, as PID 1 or as a subreaper, it is [reaped](reap_orphans) when it ends.
//!
//! `PR_SET_PDEATHSIG` is not used: it follows the *thread* that spawned, and a runtime's threads come and
//! go. Instead, [`kill_all_groups`] is called before this process ends. A SIGKILL from outside can't be
//! handled: in a container the kernel then kills what is left, because PID 1 is gone; elsewhere the next
//! process does so, by the list that [`keep_list_in`] keeps, including processes that left the group.

use std::{
    ffi::OsStr,
    io,
    os::unix::process::ExitStatusExt,
    pin::{Pin, pin},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use rustix::process::Signal;
use tokio::{
    process::Command,
    time::{Instant, timeout},
};

use super::{Context, Handler, Retry, Verdict};
use crate::job::Job;

mod group;
mod input;
mod output;
mod refusal;

use group::{Group, Groups, NotStarted};
pub use group::{keep_list_in, kill_all_groups};
pub use lameduck_process::{Child, Defect, Machine, Unfit, reap_orphans, spawn};
use lameduck_process::{Known, examine};
use output::{Head, Tail};

/// The environment variable that commands do not inherit: the database's URL holds a password, and a job's command may
/// show its environment to anybody.
pub const SECRET: &str = "LAMEDUCK_DATABASE";

/// Number of bytes of stdout that are kept as the result.
const RESULT_LIMIT: usize = 64 << 10;
/// Number of bytes of stderr that are kept as the error.
const ERROR_LIMIT: usize = 8 << 10;
/// How long to wait for the end of the output when the command has ended. It ends at once, unless
/// a process that left the group holds it open.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// Maximum time to examine a program that could not be started: the cause may be a disk that hangs.
const EXAMINATION: Duration = Duration::from_secs(1);

/// A handler that runs a command.
#[derive(Clone, Debug)]
pub struct Exec {
    argv: Vec<String>,
    result_limit: usize,
    error_limit: usize,
    output_grace: Duration,
    zero_after_stop_is_done: bool,
}

/// The signals that the command has been sent so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    ToStop,
    NoMore,
}

// === impl Exec ===

impl Exec {
    /// Makes a handler that runs this program, found by `PATH`, with these arguments and without a shell.
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            result_limit: RESULT_LIMIT,
            error_limit: ERROR_LIMIT,
            output_grace: OUTPUT_GRACE,
            zero_after_stop_is_done: false,
        }
    }

    /// Keeps the first `bytes` of stdout as the result (default: 64 KiB). The rest is read, so
    /// that the command does not block, and dropped.
    pub fn result_limit(mut self, bytes: usize) -> Self {
        self.result_limit = bytes;
        self
    }

    /// Keeps the last `bytes` of stderr as the error (default: 8 KiB).
    pub fn error_limit(mut self, bytes: usize) -> Self {
        self.error_limit = bytes;
        self
    }

    /// Sets how long to wait for the end of the output when the command has ended (default: 1 s).
    pub fn output_grace(mut self, grace: Duration) -> Self {
        self.output_grace = grace;
        self
    }

    /// Sets whether exit 0 after SIGTERM means that the job is done (default: no, it is released). Many
    /// programs exit with 0 even though they were merely told to stop.
    pub fn zero_after_stop_is_done(mut self, yes: bool) -> Self {
        self.zero_after_stop_is_done = yes;
        self
    }

    fn command(&self, job: &Job, context: &Context) -> io::Result<Command> {
        let (program, arguments) = match self.argv.split_first() {
            Some((program, arguments)) => (OsStr::new(program), arguments),
            None => (OsStr::new(""), [].as_slice()),
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("LAMEDUCK_JOB_ID", job.id.to_string())
            .env("LAMEDUCK_QUEUE", job.queue.as_str())
            .env("LAMEDUCK_ATTEMPT", job.attempt.to_string())
            .env("LAMEDUCK_MAX_ATTEMPTS", job.max_attempts.to_string())
            .env("LAMEDUCK_CONTENT_TYPE", &job.content_type)
            .env("LAMEDUCK_CLAIM", &context.claim)
            .env_remove(SECRET)
            .stdin(input::of(&job.payload)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let deadline = context.deadline().and_then(at_the_wall);
        // If the service itself has these variables, their values are not the job's.
        set_or_remove(&mut command, "LAMEDUCK_DEADLINE", deadline);
        set_or_remove(&mut command, "TRACEPARENT", job.traceparent.clone());
        Ok(command)
    }

    async fn attend(&self, mut group: Group, context: &Context) -> Verdict {
        let mut result = Head::new(self.result_limit);
        let mut error = Tail::new(self.error_limit);
        let (stdout, stderr) = group.pipes();
        let (told, status) = {
            let mut pipes = pin!(async {
                tokio::join!(result.read(stdout), error.read(stderr));
            });
            let (told, at_end) = until_ended(&group, context, pipes.as_mut()).await;
            let status = group.reap().await;
            if !at_end {
                let _ = timeout(self.output_grace, pipes).await;
            }
            (told, status)
        };
        match status {
            Ok(status) => match self.never_began(status, told).await {
                Some(verdict) => verdict,
                None => self.verdict(status, told, result, &error),
            },
            Err(lost) => failed(format!("the exit status of the command was lost: {lost}")),
        }
    }

    fn verdict(&self, status: ExitStatus, told: Told, result: Head, error: &Tail) -> Verdict {
        let counts = told == Told::Nothing || self.zero_after_stop_is_done;
        if status.success() && counts {
            return Verdict::Done {
                result: result.into_bytes(),
            };
        }
        if told != Told::Nothing {
            return Verdict::Released;
        }
        failed(match error.to_text() {
            text if text.is_empty() => how_it_ended(status),
            text => format!("{}: {text}", how_it_ended(status)),
        })
    }

    async fn not_started(&self, job: &Job, error: io::Error) -> Verdict {
        if let Some(fault) = refusal::fault_of_size(job, &error) {
            return never(fault);
        }
        let Some(program) = self.argv.first().cloned() else {
            return postponed(Unfit::NoCommand.to_string(), refusal::wait_for_program());
        };
        let wait = refusal::wait_after(&error);
        let said = match refusal::is_a_shortage(&error) {
            true => format!("no process could be had for the command '{program}' ({error})"),
            false => format!("the command '{program}' can't be started ({error})"),
        };
        let remedy = examined(move || refusal::remedy(&program, &error)).await;
        match remedy {
            Some(remedy) => postponed(format!("{said}; {remedy}"), wait),
            None => postponed(said, wait),
        }
    }

    /// Returns a verdict if only the interpreter ran, without finding what it was to run: the exit status is one that
    /// shells and `env` use for this, and an examination of the program confirms it.
    async fn never_began(&self, status: ExitStatus, told: Told) -> Option<Verdict> {
        if told != Told::Nothing || !matches!(status.code(), Some(126 | 127)) {
            return None;
        }
        let program = self.argv.first().cloned();
        let unfit = examined(move || examine(program.as_deref(), Known::Refused).err());
        let unfit = unfit.await.flatten()?;
        let error = format!(
            "{}, because it can't be started: {unfit}",
            how_it_ended(status)
        );
        Some(postponed(error, refusal::wait_for_program()))
    }

    /// Returns what this command lacks to be started, as far as can be seen without starting it.
    pub fn missing(&self) -> Option<String> {
        self.check().err().map(|unfit| unfit.to_string())
    }

    /// Checks whether this command can be started, without starting it. It reads files, and so may wait for a disk.
    ///
    /// # Errors
    /// Returns an error if something is missing. Programs that an emulator may be able to run are not judged.
    pub fn check(&self) -> Result<(), Unfit> {
        examine(self.argv.first().map(String::as_str), Known::Nothing)
    }
}

#[async_trait]
impl Handler for Exec {
    async fn run(&self, job: &Job, context: Context) -> Verdict {
        if context.stop.is_cancelled() || context.cut.is_cancelled() {
            return Verdict::Released;
        }
        if let Some(fault) = refusal::fault_of(job) {
            return never(fault);
        }
        let command = match self.command(job, &context) {
            Ok(command) => command,
            Err(error) => return self.not_started(job, error).await,
        };
        let spawned = tokio::select! {
            // In this order, so that a command that was started never counts as not started.
            biased;
            spawned = Group::spawn(command, &context.claim, Groups::of_this_process()) => spawned,
            // The disk hangs, and nothing was started yet.
            () = context.stop.cancelled() => return Verdict::Released,
            () = context.cut.cancelled() => return Verdict::Released,
        };
        match spawned {
            Ok(group) => {
                context.begun();
                self.attend(group, &context).await
            }
            Err(NotStarted::ProcessEnds) => Verdict::Released,
            Err(NotStarted::Failed(error)) => self.not_started(job, error).await,
        }
    }
}

/// Passes signals on to the command until it has ended. Returns what it was sent, and whether its
/// pipes are at their end.
async fn until_ended(
    group: &Group,
    context: &Context,
    mut pipes: Pin<&mut impl Future<Output = ()>>,
) -> (Told, bool) {
    let (mut told, mut at_end) = (Told::Nothing, false);
    loop {
        tokio::select! {
            // In this order, so that a command that has already ended does not count as signalled.
            biased;
            () = group.ended() => return (told, at_end),
            () = context.cut.cancelled(), if told < Told::NoMore => {
                group.signal(Signal::KILL);
                told = Told::NoMore;
            }
            () = context.stop.cancelled(), if told < Told::ToStop => {
                group.signal(Signal::TERM);
                told = Told::ToStop;
            }
            () = &mut pipes, if !at_end => at_end = true,
        }
    }
}

/// Returns the wall-clock time at that instant, to the millisecond.
fn at_the_wall(instant: Instant) -> Option<String> {
    let left = instant.saturating_duration_since(Instant::now());
    let at = Timestamp::now().checked_add(left).ok()?;
    let at = Timestamp::from_millisecond(at.as_millisecond()).ok()?;
    Some(at.to_string())
}

fn set_or_remove(command: &mut Command, name: &str, value: Option<String>) {
    match value {
        Some(value) => command.env(name, value),
        None => command.env_remove(name),
    };
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the command ended with exit status {code}"),
        (_, Some(9)) => {
            "the command was killed by signal 9 (SIGKILL), as the kernel does at the memory limit"
                .to_owned()
        }
        (_, Some(signal)) => format!("the command was killed by signal {signal}"),
        _ => format!("the command ended with {status}"),
    }
}

fn failed(error: String) -> Verdict {
    Verdict::Failed {
        error,
        retry: Retry::Backoff,
    }
}

fn never(error: String) -> Verdict {
    Verdict::Failed {
        error,
        retry: Retry::Never,
    }
}

fn postponed(error: String, wait: Duration) -> Verdict {
    Verdict::Postponed { error, wait }
}

/// Returns the result of examining files, or `None` if that takes too long.
async fn examined<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let look = tokio::task::spawn_blocking(look);
    timeout(EXAMINATION, look).await.ok()?.ok()
}

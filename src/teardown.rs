//! Teardown hooks from the configuration: unplug from a broker or a mesh, remove temporary files.
//!
//! | `run` | succeeds with exit status 0; its last output is in the error; killed with its group at its time limit |
//! | --- | --- |
//! | `url` | succeeds with an answer of 2xx; over plain HTTP |
//! | `remove` | succeeds when nothing is there any more, even if nothing was there before |
//!
//! As with all hooks, the last one in the file runs first, each has its time limit, and none stops another.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use lameduck::{
    Lifecycle,
    jobs::handler::exec::{self, Exec},
    lifecycle::{BoxError, Deadline},
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::{Instant, timeout, timeout_at},
};

use crate::config::{CommandLine, Hook, Target, Task, Value};

/// Maximum number of bytes of a command's output, or of an answer's body, in an error.
const SAID: usize = 2 << 10;

/// Time that a hook keeps for reporting what happened, before the lifecycle drops it.
const TO_TELL: Duration = Duration::from_millis(200);

/// How long to wait for the output once the command has ended: another process may hold it open.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);

/// Adds the hooks, in the order of the file.
pub fn install(lifecycle: Lifecycle, hooks: Vec<Hook>) -> Lifecycle {
    hooks.into_iter().fold(lifecycle, |lifecycle, hook| {
        let Hook {
            name,
            task,
            timeout,
        } = hook;
        lifecycle.teardown_within(&name, timeout.0, move |deadline| perform(task, deadline))
    })
}

async fn perform(task: Task, deadline: Deadline) -> Result<(), BoxError> {
    let remaining = deadline.remaining();
    let until = deadline.at() - TO_TELL.min(remaining / 4);
    match task {
        Task::Run(command) => run(&command, until).await,
        Task::Request { method, url } => request(method, &url, until).await,
        Task::Remove { path, never } => remove(&path, &never, until).await,
    }
}

/// The process group of a running command, until its leader is reaped. Dropping it kills the whole group.
struct Group(Option<Pid>);

/// The last bytes that a command has written, or that an answer's body had.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

async fn run(command: &CommandLine, until: Instant) -> Result<(), BoxError> {
    let since = Instant::now();
    let (program, arguments) = command.0.split_first().ok_or("the command is empty")?;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .process_group(0)
        .env_remove(exec::SECRET)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // `exec::spawn` keeps the reaper of orphans from taking the exit status.
    let mut child =
        exec::spawn(&mut process).map_err(|error| cannot_be_started(command, program, &error))?;
    let mut group = Group(Some(child.pid()));
    let said = Said::default();
    let (stdout, stderr) = child.pipes();
    let reading = tokio::spawn({
        let said = said.clone();
        async move {
            tokio::join!(said.read(stdout), said.read(stderr));
        }
    });
    let ended = timeout_at(until, child.wait()).await;
    if ended.is_ok() {
        // Its process id may belong to another process by now.
        group.0 = None;
    }
    drop(group);
    let _ = timeout(OUTPUT_GRACE, reading).await;
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("'{program}' ended with {status}{said}").into()),
        Ok(Err(error)) => Err(format!("the exit status of '{program}' was lost: {error}").into()),
        Err(_) => {
            let took = since.elapsed();
            Err(
                format!("'{program}' was killed, because it had not ended after {took:.1?}{said}")
                    .into(),
            )
        }
    }
}

/// Returns the system's error, and what is wrong with the program's file if that is known.
fn cannot_be_started(command: &CommandLine, program: &str, error: &io::Error) -> String {
    match Exec::new(command.0.clone()).missing() {
        Some(why) => format!("'{program}' can't be started: {error}; {why}"),
        None => format!("'{program}' can't be started: {error}"),
    }
}

async fn request(method: Method, url: &Target, until: Instant) -> Result<(), BoxError> {
    let since = Instant::now();
    let exchange = async {
        let request = Request::builder()
            .method(method)
            .uri(url.0.as_str())
            .body(Full::<Bytes>::default())?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (head, body) = client.request(request).await?.into_parts();
        if head.status.is_success() {
            return Ok(());
        }
        let said = Said::default();
        if let Ok(body) = Limited::new(body, SAID).collect().await {
            said.keep(&body.to_bytes());
        }
        Err(BoxError::from(format!("it answered {}{said}", head.status)))
    };
    let asked = timeout_at(until, exchange).await;
    let failed: BoxError = match asked {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => match error.source() {
            Some(source) => format!("{error}: {source}").into(),
            None => error,
        },
        Err(_) => format!("no answer in {:.1?}", since.elapsed()).into(),
    };
    Err(format!("{}: {failed}", url.shown()).into())
}

/// Removes a file or a folder, unless that would remove `never` as well.
async fn remove(path: &Path, never: &Path, until: Instant) -> Result<(), BoxError> {
    // A slash after a link would make it mean the link's target, which is never removed.
    let path: PathBuf = path.components().collect();
    let removed = timeout_at(until, async {
        let found = tokio::fs::symlink_metadata(&path).await?;
        if !found.is_dir() {
            return tokio::fs::remove_file(&path).await;
        }
        // This is checked again now, because links may have changed since the start.
        if let Ok(never) = tokio::fs::canonicalize(never).await
            && never.starts_with(tokio::fs::canonicalize(&path).await?)
        {
            let why = format!("the queue's data is in it ({})", never.display());
            return Err(io::Error::new(ErrorKind::ResourceBusy, why));
        }
        tokio::fs::remove_dir_all(&path).await
    });
    match removed.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) => Err(format!("{} can't be removed: {error}", path.display()).into()),
        Err(_) => Err(format!("{} could not be removed in time", path.display()).into()),
    }
}

// === impl Group ===

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // This fails at most because no process is left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

// === impl Said ===

impl Said {
    async fn read(&self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut piece = [0; 1024];
        while let Ok(length @ 1..) = pipe.read(&mut piece).await {
            self.keep(&piece[..length]);
        }
    }

    fn keep(&self, bytes: &[u8]) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(bytes);
        let beyond = said.len().saturating_sub(SAID);
        said.drain(..beyond);
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match String::from_utf8_lossy(&said).trim() {
            "" => Ok(()),
            said => write!(f, ": {said}"),
        }
    }
}

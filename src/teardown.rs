//! Teardown hooks from the configuration: unplug from a broker or a mesh, remove temporary files.
//!
//! | `run` | ends well with exit status 0; its last output is in the error; killed with its group at its bound |
//! | --- | --- |
//! | `url` | ends well with an answer of 2xx; over plain HTTP |
//! | `remove` | ends well when nothing is there any more, also where nothing was |
//!
//! As with all hooks, the last one of the file runs first, each within its bound, and none stops another.

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

/// Of the output of a command or the body of an answer, for the error.
const SAID: usize = 2 << 10;

/// What the hook itself keeps of its time, to say what happened before the lifecycle drops it.
const TO_TELL: Duration = Duration::from_millis(200);

/// How long the output is waited for once the command has ended: somebody may hold it open.
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

/// A running command's group, as long as its leader is not reaped. Dropped, all of it is killed.
struct Group(Option<Pid>);

/// The last bytes that a command has written so far.
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
    // By this, so that the reaper of orphans leaves its exit status to us.
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
        // Its id may be anybody's by now.
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

/// The system's reason, and the program's own defect where one is seen.
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

/// Removes what is there, unless that would take `never` with it.
async fn remove(path: &Path, never: &Path, until: Instant) -> Result<(), BoxError> {
    // A link with a slash behind it is what it points to, and that is never removed.
    let path: PathBuf = path.components().collect();
    let removed = timeout_at(until, async {
        let found = tokio::fs::symlink_metadata(&path).await?;
        if !found.is_dir() {
            return tokio::fs::remove_file(&path).await;
        }
        // Looked at again now: since the start a link may have come in between.
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
            // At worst nobody is left.
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

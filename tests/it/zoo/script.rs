//! Clients that are no Rust: programs under `tests/zoo/`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::stage::{Crowd, Seen};

/// A client that takes a URL, prints its tally as a line of JSON now and then, and ends, after a last line,
/// when its standard input is closed.
pub struct Script {
    program: PathBuf,
    file: PathBuf,
}

/// A script at work.
pub struct Running {
    child: Child,
    seen: Arc<Mutex<Seen>>,
    reader: JoinHandle<()>,
}

// === impl Script ===

impl Script {
    pub fn shell(file: &str) -> Self {
        Self::new("bash", file)
    }

    pub fn node(file: &str) -> Self {
        Self::new("node", file)
    }

    pub fn python(file: &str) -> Self {
        Self::new(project().join(".tools/zoo/venv/bin/python"), file)
    }

    fn new(program: impl Into<PathBuf>, file: &str) -> Self {
        Self {
            program: program.into(),
            file: project().join("tests/zoo").join(file),
        }
    }

    pub fn start(self, url: &str) -> Running {
        self.start_with(url, &[])
    }

    pub fn start_with(self, url: &str, arguments: &[&str]) -> Running {
        let child = Command::new(&self.program)
            .arg(&self.file)
            .arg(url)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let program = self.program.display();
        let mut child =
            child.unwrap_or_else(|error| panic!("{program}: {error}; see tests/zoo/prepare"));
        let seen = Arc::<Mutex<Seen>>::default();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Some(line) = lines.next_line().await.unwrap() {
                    *seen.lock().unwrap() = serde_json::from_str(&line).expect(&line);
                }
            }
        });
        Running {
            child,
            seen,
            reader,
        }
    }
}

// === impl Running ===

impl Crowd for Running {
    fn done(&self) -> u64 {
        self.seen.lock().unwrap().done
    }

    async fn stop(mut self) -> Seen {
        drop(self.child.stdin.take());
        let end = async {
            self.reader.await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(Duration::from_secs(30), end).await;
        let status = status.expect("it ends when its standard input is closed");
        assert!(status.success(), "the client: {status}");
        self.seen.lock().unwrap().clone()
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

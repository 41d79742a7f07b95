//! The servers that are compared: one router, three ways to serve it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{Router, body::Bytes, routing::post};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `lameduck::serve`, all its timers and counters on.
    Lameduck,
    /// `axum::serve`, as most people run it: without any timer.
    Axum,
    /// hyper-util's auto builder with a header timeout, in the loop that its documentation shows.
    Auto,
}

pub const ALL: [Kind; 3] = [Kind::Lameduck, Kind::Axum, Kind::Auto];

impl Kind {
    pub fn parse(name: &str) -> Self {
        *ALL.iter()
            .find(|kind| kind.name() == name)
            .expect("a server")
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Lameduck => "lameduck",
            Self::Axum => "axum",
            Self::Auto => "auto",
        }
    }
}

/// Serves until it is told to end, on so many threads; says on standard output where.
pub fn serve(kind: Kind, threads: usize) {
    let runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
        n => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(n)
            .enable_all()
            .build(),
    };
    runtime.expect("a runtime").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("bound"));
        match kind {
            Kind::Lameduck => {
                let report = lameduck::serve(listener, router()).await;
                eprintln!(
                    "{}",
                    serde_json::to_string(&*report.expect("a clean drain")).expect("JSON")
                );
            }
            Kind::Axum => axum::serve(listener, router()).await.expect("served"),
            Kind::Auto => auto_loop(listener).await,
        }
    });
}

fn router() -> Router {
    Router::new()
        .route("/echo", post(|body: Bytes| async { body }))
        .route(
            "/slow",
            post(|body: Bytes| async {
                sleep(Duration::from_secs(2)).await;
                body
            }),
        )
}

async fn auto_loop(listener: TcpListener) {
    let service = TowerToHyperService::new(router());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30));
            builder.http2().timer(TokioTimer::new());
            // A client that went away.
            let _ = builder
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// A server in a process of its own.
pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
}

impl Process {
    /// Starts one, behind the words of another command, if there are any.
    pub fn start(before: &[&str], kind: Kind, threads: usize) -> Self {
        let own = std::env::current_exe().expect("a path");
        let own = own.to_str().expect("UTF-8");
        let mut words = before.to_vec();
        let threads = threads.to_string();
        words.extend([own, "serve", kind.name(), &threads]);
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", words[0]));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line.trim().parse().expect("an address");
        Self { child, address }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid =
            rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("it lives");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! reqwest: one client, shared by all workers as it is meant to be, told not to retry.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use crate::stage::{Crowd, Seen};

const WORKERS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Workers, half of them busy, half mostly idle.
pub struct Reqwest {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

struct Shared {
    client: reqwest::Client,
    url: String,
    stop: AtomicBool,
    done: AtomicU64,
    seen: Mutex<Seen>,
}

// === impl Reqwest ===

impl Reqwest {
    pub fn start(address: SocketAddr, protocol: Protocol) -> Self {
        let builder = crate::clients::reqwest()
            .retry(reqwest::retry::never())
            .timeout(Duration::from_secs(20));
        let builder = match protocol {
            Protocol::Http1 => builder.http1_only(),
            Protocol::Http2 => builder.http2_prior_knowledge(),
        };
        let shared = Arc::new(Shared {
            client: builder.build().unwrap(),
            url: format!("http://{address}/echo"),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let shared = shared.clone();
            workers.spawn(async move { shared.work(worker).await });
        }
        Self { shared, workers }
    }
}

impl Crowd for Reqwest {
    fn done(&self) -> u64 {
        self.shared.done.load(SeqCst)
    }

    async fn stop(self) -> Seen {
        self.shared.stop.store(true, SeqCst);
        self.workers.join_all().await;
        Seen {
            done: self.shared.done.load(SeqCst),
            ..self.shared.seen.lock().unwrap().clone()
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn work(&self, worker: usize) {
        let mut n = 0;
        while !self.stop.load(SeqCst) {
            let body = format!("payload {worker} {n}");
            match self.post(&body).await {
                Ok(answer) if answer == body => _ = self.done.fetch_add(1, SeqCst),
                Ok(_) => self.failed("another answer than was sent".into()),
                Err(error) if was_refused(&error) => self.seen.lock().unwrap().refused += 1,
                Err(error) => {
                    self.failed(format!("{error:?}"));
                    sleep(Duration::from_millis(20)).await;
                }
            }
            n += 1;
            if worker % 2 == 1 {
                sleep(Duration::from_millis(fastrand::u64(100..900))).await;
            }
        }
    }

    async fn post(&self, body: &str) -> reqwest::Result<String> {
        let request = self.client.post(&self.url).body(body.to_owned());
        request.send().await?.error_for_status()?.text().await
    }

    fn failed(&self, error: String) {
        let mut seen = self.seen.lock().unwrap();
        seen.failed += 1;
        if seen.failures.len() < 20 {
            seen.failures.push(error);
        }
    }
}

/// GOAWAY without an error, and our stream is above its last stream id. By its default reqwest sends such a
/// request once more.
fn was_refused(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
        }
        source = error.source();
    }
    false
}

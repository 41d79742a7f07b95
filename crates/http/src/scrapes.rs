//! The final scrape.
//!
//! Prometheus scrapes every 15 to 60 s, but a drain takes 5, so nobody sees the figures of a process's last
//! seconds. If nothing else keeps them (a drain ledger does), the process can wait, after its last figure is
//! set and within its budget, until everybody who scrapes it has done so once more.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use lameduck_lifecycle::Lifecycle;

/// How long after its last scrape a scraper is still expected: no Prometheus is slower than that.
const FORGET: Duration = Duration::from_secs(150);

/// Maximum number of scrapers that are told apart; nobody waits for more.
const SCRAPERS: usize = 16;

/// Time from the body's end until the kernel has the last byte: one poll of the connection.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// The scrapers, and when each came last.
#[derive(Debug, Default)]
pub(super) struct Scrapes {
    seen: Mutex<HashMap<String, Instant>>,
    came: Notify,
}

/// A scrape that is being answered.
#[derive(Debug)]
pub(super) struct Scrape {
    scrapes: Arc<Scrapes>,
    scraper: String,
    at: Instant,
}

// === impl Scrape ===

impl Drop for Scrape {
    fn drop(&mut self) {
        let scraper = std::mem::take(&mut self.scraper);
        self.scrapes.note(scraper, self.at);
    }
}

// === impl Scrapes ===

impl Scrapes {
    /// Begins a scrape by this scraper. It counts once the returned value is dropped, when its answer is being sent.
    pub(super) fn begin(self: Arc<Self>, scraper: String) -> Scrape {
        Scrape {
            scrapes: self,
            scraper,
            at: Instant::now(),
        }
    }

    fn note(&self, scraper: String, at: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < SCRAPERS || seen.contains_key(&scraper) {
            seen.insert(scraper, at);
        }
        self.came.notify_one();
    }

    /// Waits until everybody has come once more.
    async fn once_more(&self, since: Instant) {
        loop {
            let came = self.came.notified();
            if self.missing(since) == 0 {
                return;
            }
            came.await;
        }
    }

    /// Returns how many of the scrapers that still come have not come since then.
    fn missing(&self, since: Instant) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lives = |at: &Instant| since.saturating_duration_since(*at) < FORGET;
        seen.values().filter(|at| lives(at) && **at < since).count()
    }
}

/// Implements [`ServeHttp::final_scrape`](crate::ServeHttp::final_scrape).
pub(super) fn final_scrape(lifecycle: Lifecycle) -> Lifecycle {
    let scrapes = lifecycle.drain().kept(Scrapes::default);
    lifecycle.on_report("final scrape", move |_| async move {
        let since = Instant::now();
        let scrapers = scrapes.missing(since);
        tracing::info!(scrapers, "waiting for the final scrape");
        scrapes.once_more(since).await;
        sleep(ON_ITS_WAY).await;
        Ok::<_, Infallible>(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everybody_who_still_comes_is_waited_for_and_nobody_else() {
        let scrapes = Scrapes::default();
        scrapes.note("gone for long".into(), Instant::now());
        tokio::time::advance(FORGET).await;
        scrapes.note("10.0.0.1".into(), Instant::now());
        scrapes.note("10.0.0.2".into(), Instant::now());
        tokio::time::advance(Duration::from_secs(5)).await;
        let since = Instant::now();
        assert_eq!(scrapes.missing(since), 2);

        let waiting = scrapes.once_more(since);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        scrapes.note("10.0.0.1".into(), Instant::now());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        scrapes.note("10.0.0.2".into(), Instant::now());
        waiting.await;
    }

    #[tokio::test]
    async fn where_nobody_scrapes_nobody_is_waited_for() {
        Scrapes::default().once_more(Instant::now()).await;
    }
}

//! A limit on the log lines of libraries: `h2`, `rustls` and others log what a peer sends, and so a stranger could
//! fill the log, and the disk behind it, as fast as the network allows.
//!
//! Each place in a library's code may log a fixed number of lines a minute. The lines that are left out are counted,
//! and their number is logged with the first line of a later minute. Our own lines are not limited here: the code
//! that logs them decides how often. Nor are lines that an operator asks for, as with `LAMEDUCK_LOG=h2=debug`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::layer::{Context, Layer};

/// Number of lines that one place may log in one [`WINDOW`].
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Prefix of the names of our own crates.
const OWN: &str = "lameduck";

/// A layer that drops lines that libraries log too often.
#[derive(Debug, Default)]
pub struct LogLimit {
    places: Mutex<HashMap<Identifier, Place>>,
}

/// A place in a library's code that logs something.
#[derive(Debug)]
struct Place {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// The decision about a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is written, after `left_out` lines that were not.
    Written {
        left_out: u64,
    },
    LeftOut,
}

// === impl LogLimit ===

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let line = event.metadata();
        if !is_limited(line) {
            return true;
        }
        let verdict = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let place = places.entry(line.callsite()).or_insert(Place::new(now));
            place.judge(now)
        };
        match verdict {
            Verdict::LeftOut => false,
            Verdict::Written { left_out } => {
                if left_out > 0 {
                    tracing::warn!(
                        library = line.target(),
                        left_out,
                        "a library had more to say than is written; the next line is one of those"
                    );
                }
                true
            }
        }
    }
}

fn is_limited(line: &Metadata<'_>) -> bool {
    let library = line.target().split("::").next();
    *line.level() <= Level::INFO && !library.is_some_and(|library| library.starts_with(OWN))
}

// === impl Place ===

impl Place {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            left_out: 0,
        }
    }

    fn judge(&mut self, now: Instant) -> Verdict {
        if now.saturating_duration_since(self.since) >= WINDOW {
            let left_out = self.left_out;
            *self = Self::new(now);
            self.lines = 1;
            return Verdict::Written { left_out };
        }
        if self.lines < LINES {
            self.lines += 1;
            return Verdict::Written { left_out: 0 };
        }
        self.left_out += 1;
        Verdict::LeftOut
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_place_has_so_many_lines_a_minute_and_what_was_left_out_is_told() {
        let begin = Instant::now();
        let mut place = Place::new(begin);

        for _ in 0..LINES {
            assert_eq!(place.judge(begin), Verdict::Written { left_out: 0 });
        }
        for _ in 0..1_000 {
            assert_eq!(place.judge(begin + WINDOW / 2), Verdict::LeftOut);
        }
        assert_eq!(
            place.judge(begin + WINDOW),
            Verdict::Written { left_out: 1_000 }
        );
        assert_eq!(
            place.judge(begin + WINDOW),
            Verdict::Written { left_out: 0 }
        );
    }

    /// Counts what is written.
    #[derive(Clone, Default)]
    struct Written(Arc<AtomicU32>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn libraries_are_limited_and_we_are_not() {
        let written = Written::default();
        let subscriber = tracing_subscriber::registry()
            .with(written.clone())
            .with(LogLimit::default());
        let lines = || written.0.swap(0, Relaxed);

        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100 {
                tracing::warn!(target: "h2::proto::ping_pong", "recv PING ack that we never sent");
            }
            assert_eq!(lines(), LINES);
            for _ in 0..100 {
                tracing::warn!(target: "h2::proto::streams", "another place");
            }
            assert_eq!(lines(), LINES);
            for _ in 0..100 {
                tracing::debug!(target: "h2::proto::ping_pong", "somebody wants to know");
            }
            assert_eq!(lines(), 100);
            for _ in 0..100 {
                tracing::warn!(target: "lameduck::http::server", "our own");
            }
            assert_eq!(lines(), 100);
        });
    }
}

//! Event delivery: to subscribers here at once, to other processes by NOTIFY.
//!
//! ```text
//!   a commit ──▶ subscribers in this process
//!            └─▶ crier ──▶ NOTIFY lameduck, all that came meanwhile in one ──▶ the others' listeners
//! ```
//!
//! That a queue has jobs is published at most once per interval (see [`wakes`](super::wakes)), whichever
//! process does so: each time all idle pools of the queue ask for them.
//!
//! A NOTIFY takes a lock of the whole server until its transaction ends. So it is not sent in transactions
//! that wait for a disk, but after them in a separate one that writes nothing. If the process dies in
//! between, only a hint is lost; everybody looks from time to time anyway.

use std::{
    future::poll_fn,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify as Notified, broadcast, mpsc},
    time::{Instant, sleep, sleep_until},
};
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    address::Address,
    convert::params,
    session::{Command, Failure, Sessions, Turn},
    wakes::{Waker, Wakes, When},
};
use lameduck_jobs::engine::{
    Event,
    common::{EVENTS, Effects},
};

/// Pause between two NOTIFYs of one process: each one wakes every process.
const GAP: Duration = Duration::from_millis(5);

/// Minimum time between two wakes of a queue's pools for what this process itself did.
const WAKE_HERE: Duration = Duration::from_millis(5);

/// Minimum time between two wakes of a queue's pools for what other processes did, and between two of those
/// that this process asks of them. A job that comes right after another one may wait this long, while all
/// workers here are busy and some elsewhere are idle.
const WAKE_ELSEWHERE: Duration = Duration::from_millis(50);

/// Indexes of [`News::wakes`], by the process that did something.
const WHAT_WE_DID: usize = 0;
const WHAT_OTHERS_DID: usize = 1;

/// Maximum bytes of one payload: PostgreSQL takes less than 8,000.
const LONGEST: usize = 7_900;

/// Pause between two attempts to listen, at first and at most; doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Publishes events.
#[derive(Clone)]
pub(super) struct News {
    /// Marks this process's own messages, so that it ignores them.
    origin: Uuid,
    here: broadcast::Sender<Event>,
    /// One for what this process did, and one for what others did.
    wakes: [Waker; 2],
    elsewhere: mpsc::Sender<Event>,
    hearing: Arc<Hearing>,
}

/// Events that are still to be sent to other processes.
pub(super) struct Unsaid {
    events: mpsc::Receiver<Event>,
    wakes: Wakes,
    hearing: Arc<Hearing>,
}

/// Whether this process hears the others. An answer to LISTEN proves nothing: through a PgBouncer there is
/// one, but no message ever comes. So the process sends itself a message, and waits for it.
#[derive(Default)]
struct Hearing {
    proven: AtomicBool,
    /// Notified when a proof is wanted.
    wanted: Notified,
}

struct Notify(Vec<String>);

// === impl News ===

impl News {
    /// Returns the publisher, and the queue of events for other processes, which is empty.
    pub fn new() -> (Self, Unsaid) {
        let (here, _) = broadcast::channel(EVENTS);
        let (elsewhere, events) = mpsc::channel(EVENTS);
        let hearing = Arc::<Hearing>::default();
        let news = Self {
            origin: Uuid::new_v4(),
            wakes: [WAKE_HERE, WAKE_ELSEWHERE].map(|gap| Waker::new(gap, here.clone())),
            here,
            elsewhere,
            hearing: hearing.clone(),
        };
        let unsaid = Unsaid {
            events,
            wakes: Wakes::every(WAKE_ELSEWHERE),
            hearing,
        };
        (news, unsaid)
    }

    /// Whether this process hears messages from the others.
    pub fn hears_others(&self) -> bool {
        self.hearing.proven.load(Ordering::Relaxed)
    }

    /// Subscribes to every event from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.here.subscribe()
    }

    /// Publishes what has become durable.
    pub fn publish(&self, effects: Effects) {
        for event in effects.into_events() {
            self.tell_here(event.clone(), WHAT_WE_DID);
            // If the queue is full, the event is dropped: it is only a hint.
            let _ = self.elsewhere.try_send(event);
        }
    }

    fn tell_here(&self, event: Event, whose: usize) {
        match event {
            Event::Runnable(queue) => self.wakes[whose].tell(queue),
            // It is fine if nobody listens.
            event => drop(self.here.send(event)),
        }
    }

    /// Sends events to the other processes, until the engine is gone.
    pub async fn cry(origin: Uuid, sessions: Weak<Sessions>, mut unsaid: Unsaid) {
        while let Some(events) = unsaid.next().await {
            let payloads = payloads(origin, &events);
            let Some(sessions) = sessions.upgrade() else {
                return;
            };
            if let Err(error) = sessions.call(Notify(payloads)).await {
                tracing::debug!(%error, "other processes were not told");
            }
            drop(sessions);
            sleep(GAP).await;
        }
    }

    /// Listens to the other processes, on a separate connection.
    pub async fn listen(self, address: Address, stop: CancellationToken) {
        let mut pause = RETRY.0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                heard = self.hear(&address) => match heard {
                    Ok(()) => pause = RETRY.0,
                    Err(error) => tracing::debug!(%error, "not listening to other processes for now"),
                },
            }
            self.hearing.proven.store(false, Ordering::Relaxed);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => pause = (pause * 2).min(RETRY.1),
            }
        }
    }

    /// Receives messages until the connection ends.
    async fn hear(&self, address: &Address) -> Result<(), tokio_postgres::Error> {
        let (client, mut connection) = address.connect().await?;
        let listening = client.batch_execute("LISTEN lameduck");
        tokio::pin!(listening);
        let mut listens = false;
        loop {
            tokio::select! {
                answer = &mut listening, if !listens => {
                    answer?;
                    listens = true;
                    self.hearing.wanted.notify_one();
                }
                message = poll_fn(|cx| connection.poll_message(cx)) => match message {
                    Some(Ok(AsyncMessage::Notification(said))) => self.repeat(said.payload()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) if !listens => return Err(error),
                    Some(Err(_)) | None => return Ok(()),
                },
            }
        }
    }

    /// Publishes to the subscribers here what another process sent.
    fn repeat(&self, payload: &str) {
        let mut lines = payload.lines();
        if lines.next() == Some(&self.origin.to_string()) {
            self.hearing.proven.store(true, Ordering::Relaxed);
            return;
        }
        for event in lines.filter_map(parse) {
            self.tell_here(event, WHAT_OTHERS_DID);
        }
    }

    /// Returns the id that marks this process's messages.
    pub fn origin(&self) -> Uuid {
        self.origin
    }
}

// === impl Unsaid ===

impl Unsaid {
    /// Returns the next events to send; none if only a proof of delivery is wanted. `None` at the end.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            let mut events = Vec::new();
            let later = self.wakes.next();
            let due = async {
                match later {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.hearing.wanted.notified() => return Some(events),
                some = self.events.recv_many(&mut events, EVENTS) => if some == 0 {
                    return None;
                },
                () = due => {}
            }
            let now = Instant::now();
            events.retain(|event| match event {
                Event::Runnable(queue) => self.wakes.tell(queue, now) == When::Now,
                _ => true,
            });
            let due = self.wakes.due(now).into_iter();
            events.extend(due.map(Event::Runnable));
            if !events.is_empty() {
                return Some(events);
            }
        }
    }
}

// === impl Notify ===

impl Command for Notify {
    type Answer = ();

    const LOOKS: bool = true;

    async fn run(&self, turn: &mut Turn) -> Result<(), Failure> {
        let notify = "SELECT pg_notify('lameduck', payload) FROM unnest($1) AS told (payload)";
        turn.query(notify, params![self.0 => TEXT_ARRAY])
            .await
            .map(drop)
    }
}

// === the payload: who says it, then an event a line ===

fn payloads(origin: Uuid, events: &[Event]) -> Vec<String> {
    // A message without events is meant for its own sender, and tells the others nothing.
    let mut told: Vec<String> = match events.is_empty() {
        true => vec![origin.to_string()],
        false => Vec::new(),
    };
    let mut lines: Vec<String> = events.iter().map(line).collect();
    lines.sort_unstable();
    lines.dedup();
    for line in lines {
        match told.last_mut() {
            Some(last) if last.len() + line.len() < LONGEST => {
                last.push('\n');
                last.push_str(&line);
            }
            _ => told.push(format!("{origin}\n{line}")),
        }
    }
    told
}

fn line(event: &Event) -> String {
    match event {
        Event::Runnable(queue) => format!("r {queue}"),
        Event::Changed(job) => format!("c {job}"),
        Event::Ended(job) => format!("e {job}"),
        Event::CancelRequested(job) => format!("x {job}"),
    }
}

/// Returns `None` for events that only a later version knows.
fn parse(line: &str) -> Option<Event> {
    let (kind, what) = line.split_once(' ')?;
    Some(match kind {
        "r" => Event::Runnable(what.parse().ok()?),
        "c" => Event::Changed(what.parse().ok()?),
        "e" => Event::Ended(what.parse().ok()?),
        "x" => Event::CancelRequested(what.parse().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lameduck_jobs::job::JobId;

    #[tokio::test]
    async fn what_is_told_is_what_is_heard() {
        let queue = "mail".parse().unwrap();
        let job = JobId::random();
        let events = [
            Event::Changed(job),
            Event::Ended(job),
            Event::Runnable(queue),
            Event::CancelRequested(job),
        ];
        let (there, _unsaid) = News::new();
        let mut heard = there.subscribe();

        for payload in payloads(Uuid::new_v4(), &events) {
            there.repeat(&payload);
        }

        for event in events {
            assert_eq!(heard.try_recv().unwrap(), event);
        }
        there.repeat(&payloads(there.origin(), &[Event::Ended(job)])[0]);
        assert!(heard.try_recv().is_err(), "nobody listens to himself");
    }

    #[test]
    fn much_is_told_in_several_pieces_and_twice_the_same_once() {
        let mut events: Vec<_> = (0..1_000)
            .map(|_| Event::Changed(JobId::random()))
            .collect();
        events.extend_from_within(..);

        let payloads = payloads(Uuid::new_v4(), &events);

        assert!(payloads.iter().all(|payload| payload.len() < 8_000));
        let lines: usize = payloads.iter().map(|p| p.lines().count() - 1).sum();
        assert_eq!(lines, 1_000);
    }
}

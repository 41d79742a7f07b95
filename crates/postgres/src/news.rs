//! Who has to hear of it: subscribers here at once, other processes by NOTIFY.
//!
//! ```text
//!   a commit ──▶ subscribers in this process
//!            └─▶ crier ──▶ NOTIFY lameduck, all that came meanwhile in one ──▶ the others' listeners
//! ```
//!
//! That a queue has jobs is told at most once per interval (see [`wakes`](super::wakes)), whoever tells it:
//! each time all idle pools of the queue ask for them.
//!
//! A NOTIFY takes a lock of the whole server until its transaction ends. So it is not sent in those that wait
//! for a disk, but after them in one of its own that writes nothing. What is lost when the process dies in
//! between is a hint; everybody looks from time to time anyway.

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

/// Between two NOTIFYs of one process: each one wakes every process.
const GAP: Duration = Duration::from_millis(5);

/// Between two wakes of a queue's pools for what this process itself did.
const WAKE_HERE: Duration = Duration::from_millis(5);

/// Between two wakes of a queue's pools for what other processes did, and between two of those that this process
/// asks of them. So long may a job wait that comes right after another one, while all workers here are busy and
/// some elsewhere are idle.
const WAKE_ELSEWHERE: Duration = Duration::from_millis(50);

/// Places in [`News::wakes`], by the process that did something.
const WHAT_WE_DID: usize = 0;
const WHAT_OTHERS_DID: usize = 1;

/// PostgreSQL takes less than 8,000 bytes.
const LONGEST: usize = 7_900;

/// Between two attempts to listen; doubled each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Tells what happens.
#[derive(Clone)]
pub(super) struct News {
    /// So that nobody listens to himself.
    origin: Uuid,
    here: broadcast::Sender<Event>,
    /// For what this process did, and for what others did.
    wakes: [Waker; 2],
    elsewhere: mpsc::Sender<Event>,
    hearing: Arc<Hearing>,
}

/// What is still to be told elsewhere.
pub(super) struct Unsaid {
    events: mpsc::Receiver<Event>,
    wakes: Wakes,
    hearing: Arc<Hearing>,
}

/// Whether this process hears what others tell. That LISTEN was answered proves nothing: through a PgBouncer it is,
/// and nothing ever comes. So the process tells itself something, and waits for it.
#[derive(Default)]
struct Hearing {
    proven: AtomicBool,
    /// A proof is wanted.
    wanted: Notified,
}

struct Notify(Vec<String>);

// === impl News ===

impl News {
    /// Nobody has been told anything yet.
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

    /// Whether what other processes tell is heard.
    pub fn hears_others(&self) -> bool {
        self.hearing.proven.load(Ordering::Relaxed)
    }

    /// Everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.here.subscribe()
    }

    /// Tells what has become durable.
    pub fn publish(&self, effects: Effects) {
        for event in effects.into_events() {
            self.tell_here(event.clone(), WHAT_WE_DID);
            // More is going on than can be told: fine.
            let _ = self.elsewhere.try_send(event);
        }
    }

    fn tell_here(&self, event: Event, whose: usize) {
        match event {
            Event::Runnable(queue) => self.wakes[whose].tell(queue),
            // Nobody listens: fine.
            event => drop(self.here.send(event)),
        }
    }

    /// Tells the others, until the engine is gone.
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

    /// Listens to the others, on a connection of its own.
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

    /// Returns when the connection has ended.
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

    /// Tells the subscribers here what another process told.
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

    /// Who this is.
    pub fn origin(&self) -> Uuid {
        self.origin
    }
}

// === impl Unsaid ===

impl Unsaid {
    /// What is to be told next; nothing where only a proof is wanted that it is heard. `None` at the end.
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
    // Without an event it is heard by whoever tells it, and means nothing to others.
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

/// `None` for what a later version may have to say.
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

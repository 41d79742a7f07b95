//! Who has to hear of it: subscribers here at once, other processes by NOTIFY.
//!
//! ```text
//!   a commit ──▶ subscribers in this process
//!            └─▶ crier ──▶ NOTIFY lameduck, all that came meanwhile in one ──▶ the others' listeners
//! ```
//!
//! A NOTIFY takes a lock of the whole server until its transaction ends. So it is not sent in those that wait
//! for a disk, but after them in one of its own that writes nothing. What is lost when the process dies in
//! between is a hint; everybody looks from time to time anyway.

use std::{future::poll_fn, sync::Weak, time::Duration};

use tokio::{
    sync::{broadcast, mpsc},
    time::sleep,
};
use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    address::Address,
    convert::params,
    session::{Command, Failure, Sessions, Turn},
};
use lameduck_jobs::engine::{
    Event,
    common::{EVENTS, Effects},
};

/// Between two NOTIFYs of one process: each one wakes every process.
const GAP: Duration = Duration::from_millis(5);

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
    elsewhere: mpsc::Sender<Event>,
}

/// What is still to be told elsewhere.
pub(super) struct Unsaid(mpsc::Receiver<Event>);

struct Notify(Vec<String>);

// === impl News ===

impl News {
    /// Nobody has been told anything yet.
    pub fn new() -> (Self, Unsaid) {
        let (here, _) = broadcast::channel(EVENTS);
        let (elsewhere, unsaid) = mpsc::channel(EVENTS);
        let news = Self {
            origin: Uuid::new_v4(),
            here,
            elsewhere,
        };
        (news, Unsaid(unsaid))
    }

    /// Everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.here.subscribe()
    }

    /// Tells what has become durable.
    pub fn publish(&self, effects: Effects) {
        for event in effects.into_events() {
            // Nobody listens, or more is going on than can be told: fine, both.
            let _ = self.here.send(event.clone());
            let _ = self.elsewhere.try_send(event);
        }
    }

    /// Tells the others, until the engine is gone.
    pub async fn cry(origin: Uuid, sessions: Weak<Sessions>, mut unsaid: Unsaid) {
        let mut events = Vec::new();
        while unsaid.0.recv_many(&mut events, EVENTS).await > 0 {
            let payloads = payloads(origin, &events);
            events.clear();
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
            return;
        }
        for event in lines.filter_map(parse) {
            let _ = self.here.send(event);
        }
    }

    /// Who this is.
    pub fn origin(&self) -> Uuid {
        self.origin
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
    let mut told: Vec<String> = Vec::new();
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

    #[test]
    fn what_is_told_is_what_is_heard() {
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

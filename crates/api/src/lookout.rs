//! Clients that wait for jobs, and the reading of those jobs for all of them together.
//!
//! ```text
//!   engine's events ───────────────┐
//!   a client that asks for its job ┼──▶ wanted jobs ──▶ one reading of many ──▶ everybody who watches one of them
//!   the sweep, for missed events ──┘
//! ```
//!
//! A thousand waiting clients cost the database nothing while nothing happens. Each change comes as an event about
//! one job, and that job is read once, together with others, however many clients wait for it. So the cost of
//! waiting depends on how much happens and not on how many clients wait.
//!
//! Events are hints, and some may be missed. So a sweep reads a few bytes of each watched job: every ten seconds,
//! or every second while the events of other processes do not arrive.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{
        Notify, OwnedSemaphorePermit, Semaphore,
        broadcast::{self, error::RecvError},
        watch,
    },
    time::{Instant, sleep, sleep_until},
};

use super::{Problem, show::gone};
use lameduck_jobs::{
    engine::{Details, Engine, Event, Glance},
    job::{JobId, State},
};

/// Approximate interval between two sweeps while events arrive from all processes.
const SWEEP: Duration = Duration::from_secs(10);

/// Interval between two checks whether a sweep is due, and so between two sweeps while other processes are not heard.
const TICK: Duration = Duration::from_secs(1);

/// Maximum number of jobs that one statement of a sweep looks at.
const GLANCES: usize = 1_000;

/// Maximum number of jobs that are read in one transaction. A result has 64 KiB, and may have more.
const BATCH: usize = 64;

/// Pause between two readings, so that changes in the meantime share the next one.
const GAP: Duration = Duration::from_millis(5);

/// The registry of watched jobs and their watchers.
pub(super) struct Lookout {
    engine: Arc<dyn Engine>,
    watched: Mutex<Watched>,
    room: Arc<Semaphore>,
    begin: Once,
    /// Notified when there are wanted jobs.
    work: Arc<Notify>,
}

#[derive(Default)]
struct Watched {
    jobs: HashMap<JobId, Entry>,
    wanted: VecDeque<JobId>,
    /// Number of readings that have begun.
    readings: u64,
    /// Whether there may have been changes without an event.
    missed: bool,
}

/// A job that is being watched.
struct Entry {
    found: watch::Sender<Found>,
    /// The job as it was last found, for comparison.
    glance: Option<Glance>,
    /// When a scheduled job becomes pending; there is no event for that.
    due: Option<Instant>,
    wanted: bool,
    /// Number of watchers that want every change, and not just the end.
    streams: usize,
}

/// The result of reading a job.
#[derive(Clone)]
struct Found {
    reading: u64,
    job: Result<Arc<Details>, Problem>,
}

/// The reason to watch a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Changes,
    TheEnd,
}

/// A watch on a job, until it is dropped.
pub(super) struct Watch {
    lookout: Arc<Lookout>,
    job: JobId,
    what: For,
    found: watch::Receiver<Found>,
    _room: OwnedSemaphorePermit,
}

// === impl Lookout ===

impl Lookout {
    /// Creates a lookout for at most `room` watches.
    pub(super) fn new(engine: Arc<dyn Engine>, room: usize) -> Arc<Self> {
        Arc::new(Self {
            engine,
            watched: Mutex::default(),
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
            begin: Once::new(),
            work: Arc::default(),
        })
    }

    /// Watches a job. No change after the first [`look`](Watch::look) is missed.
    pub(super) fn watch(self: &Arc<Self>, job: JobId, what: For) -> Result<Watch, Problem> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| {
            Problem::overloaded(
                "too many requests wait for jobs already; ask again, or without waiting (setting 'max-waiting')",
            )
        })?;
        // The first watch subscribes to the events, before it looks at its job.
        self.begin.call_once(|| {
            tokio::spawn(follow(Arc::downgrade(self), self.engine.events()));
            tokio::spawn(read_for_all(Arc::downgrade(self), self.work.clone()));
        });
        let mut watched = self.watched();
        let entry = watched.jobs.entry(job).or_insert_with(|| Entry::new(job));
        entry.streams += usize::from(what == For::Changes);
        let found = entry.found.subscribe();
        Ok(Watch {
            lookout: self.clone(),
            job,
            what,
            found,
            _room: room,
        })
    }

    /// Has the job read. Returns the number of the last reading that had begun before.
    fn want(&self, job: JobId) -> u64 {
        let mut watched = self.watched();
        watched.want(job);
        self.work.notify_one();
        watched.readings
    }

    fn told(&self, event: &Event) {
        let mut watched = self.watched();
        let concerned = match event {
            Event::Changed(job) | Event::CancelRequested(job) => {
                let entry = watched.jobs.get(job);
                entry.filter(|entry| entry.streams > 0).map(|_| *job)
            }
            Event::Ended(job) => Some(*job),
            Event::Runnable(_) => None,
        };
        if let Some(job) = concerned
            && watched.want(job)
        {
            self.work.notify_one();
        }
    }

    /// Looks at all watched jobs, and marks those that have changed as wanted.
    async fn sweep(&self) {
        let ids: Vec<JobId> = self.watched().jobs.keys().copied().collect();
        for ids in ids.chunks(GLANCES) {
            let glances = match self.engine.glance(ids).await {
                Ok(glances) => glances,
                Err(error) => {
                    tracing::debug!(%error, "the jobs that are waited for can't be looked at");
                    self.watched().missed = true;
                    return;
                }
            };
            let glances: HashMap<_, _> = glances.into_iter().map(|g| (g.id, g)).collect();
            let mut watched = self.watched();
            for id in ids {
                watched.compare(*id, glances.get(id));
            }
        }
    }

    /// Reads some of the wanted jobs. Returns whether there are more.
    async fn read_some(&self) -> bool {
        let (reading, ids) = self.watched().next_reading();
        if ids.is_empty() {
            return false;
        }
        match self.engine.details(&ids).await {
            Ok(answers) => {
                let mut watched = self.watched();
                for (id, answer) in ids.into_iter().zip(answers) {
                    let job = match answer {
                        Ok(Some(details)) => Ok(Arc::new(details)),
                        Ok(None) => Err(gone(id)),
                        Err(error) => Err(error.into()),
                    };
                    watched.found(id, Found { reading, job });
                }
            }
            Err(error) => {
                let problem = Problem::from(error);
                let mut watched = self.watched();
                for id in ids {
                    let job = Err(problem.clone());
                    watched.found(id, Found { reading, job });
                }
            }
        }
        !self.watched().wanted.is_empty()
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the engine's events, until the last request and the router are gone.
async fn follow(lookout: Weak<Lookout>, mut events: broadcast::Receiver<Event>) {
    loop {
        let event = events.recv().await;
        let Some(lookout) = lookout.upgrade() else {
            return;
        };
        match event {
            Ok(event) => lookout.told(&event),
            Err(RecvError::Lagged(_)) => lookout.watched().missed = true,
            Err(RecvError::Closed) => return,
        }
    }
}

/// Reads wanted jobs as they come, and sweeps when it is time.
async fn read_for_all(lookout: Weak<Lookout>, work: Arc<Notify>) {
    let mut tick = Instant::now() + jittered(TICK);
    let mut next_sweep = Instant::now() + jittered(SWEEP);
    let mut heard = true;
    loop {
        tokio::select! {
            () = work.notified() => {}
            () = sleep_until(tick) => {}
        }
        let Some(lookout) = lookout.upgrade() else {
            return;
        };
        let now = Instant::now();
        if now >= tick {
            tick = now + jittered(TICK);
            let missed = lookout.watched().tick();
            // Sweep once more when others are heard again: there were no events for what they did in the meantime.
            let hears = lookout.engine.hears_others();
            let deaf = !hears || !std::mem::replace(&mut heard, hears);
            if missed || deaf || now >= next_sweep {
                next_sweep = now + jittered(SWEEP);
                lookout.sweep().await;
            }
        }
        while lookout.read_some().await {
            sleep(GAP).await;
        }
        drop(lookout);
        sleep(GAP).await;
    }
}

/// Varies a time by up to a quarter, so that the replicas do not all ask at the same moment.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.75 + fastrand::f64() / 2.0)
}

// === impl Watched ===

impl Watched {
    /// Marks a job to be read with the next ones. Returns whether it was not marked before.
    fn want(&mut self, job: JobId) -> bool {
        let Some(entry) = self.jobs.get_mut(&job).filter(|entry| !entry.wanted) else {
            return false;
        };
        entry.wanted = true;
        self.wanted.push_back(job);
        true
    }

    /// Marks scheduled jobs whose time has come as wanted, because there is no event for that. Returns whether a
    /// sweep is due because events were missed.
    fn tick(&mut self) -> bool {
        let now = Instant::now();
        let due = |entry: &Entry| entry.streams > 0 && entry.due.is_some_and(|due| due <= now);
        let jobs = self.jobs.iter();
        let due: Vec<JobId> = jobs.filter(|(_, e)| due(e)).map(|(id, _)| *id).collect();
        for job in due {
            self.want(job);
        }
        std::mem::take(&mut self.missed)
    }

    /// Marks a job as wanted if it has changed since it was read, or if it is gone.
    fn compare(&mut self, job: JobId, now: Option<&Glance>) {
        let Some(entry) = self.jobs.get(&job) else {
            return;
        };
        let concerned = match now {
            Some(now) if entry.glance.as_ref() == Some(now) => false,
            Some(now) => entry.streams > 0 || now.state.has_ended(),
            None => true,
        };
        if concerned {
            self.want(job);
        }
    }

    fn next_reading(&mut self) -> (u64, Vec<JobId>) {
        self.readings += 1;
        let some = self.wanted.len().min(BATCH);
        let ids: Vec<JobId> = self.wanted.drain(..some).collect();
        for id in &ids {
            if let Some(entry) = self.jobs.get_mut(id) {
                entry.wanted = false;
            }
        }
        (self.readings, ids)
    }

    fn found(&mut self, job: JobId, found: Found) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            let details = found.job.as_ref().ok();
            entry.glance = details.map(|details| Glance::from(&details.record));
            entry.due = details.and_then(|details| due(details));
            entry.found.send_replace(found);
        }
    }
}

/// Returns when a scheduled job becomes pending, by the storage's clock: this machine's may differ.
fn due(details: &Details) -> Option<Instant> {
    let Details {
        record, read_at, ..
    } = details;
    let wait = record.run_at.duration_since(*read_at);
    match record.state {
        State::Scheduled => Instant::now().checked_add(wait.try_into().unwrap_or_default()),
        _ => None,
    }
}

// === impl Entry ===

impl Entry {
    fn new(job: JobId) -> Self {
        let found = Found {
            reading: 0,
            job: Err(gone(job)),
        };
        Self {
            found: watch::Sender::new(found),
            glance: None,
            due: None,
            wanted: false,
            streams: 0,
        }
    }
}

// === impl Watch ===

impl Watch {
    /// Returns the current job, from a reading that began after this call.
    pub(super) async fn look(&mut self) -> Result<Arc<Details>, Problem> {
        let before = self.lookout.want(self.job);
        let found = self.found.wait_for(|found| found.reading > before).await;
        // The sender lives as long as anybody watches.
        found.map_err(|_| gone(self.job))?.job.clone()
    }

    /// Waits until the job may have changed, and returns it.
    pub(super) async fn changed(&mut self) -> Result<Arc<Details>, Problem> {
        let changed = self.found.changed().await;
        changed.map_err(|_| gone(self.job))?;
        self.found.borrow_and_update().job.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.lookout.watched();
        let Some(entry) = watched.jobs.get_mut(&self.job) else {
            return;
        };
        entry.streams -= usize::from(self.what == For::Changes);
        // Our own receiver is still included in the count.
        if entry.found.receiver_count() <= 1 {
            watched.jobs.remove(&self.job);
        }
    }
}

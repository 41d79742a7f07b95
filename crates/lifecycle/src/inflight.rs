//! The load of a process, counted by guards while they live.
//!
//! Connections and requests are counted from their first byte to their last, and jobs from before their
//! reservation is sent until their outcome is durable. The drain waits for nothing else.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{drain::lock, observation::Load, phase::Moment, state::Held, timeline::Timeline};

/// Maximum number of ids kept for a report; beyond it only the count grows.
const IDS_KEPT: usize = 1_000;

/// Connections and requests of one server.
#[derive(Debug)]
pub struct Traffic {
    drain: Arc<Timeline>,
    server: String,
    listeners: AtomicUsize,
    // Counts of those that came before and after `Moment::Removed`, see `Age`.
    connections: [AtomicUsize; 2],
    requests: [AtomicUsize; 2],
    /// When a request last came over a new connection: nanoseconds since the drain's epoch, plus one; 0 for never.
    last_new: AtomicU64,
    totals: TrafficTotals,
}

/// Counters of one server, over the life of the process.
#[derive(Debug, Default)]
pub struct TrafficTotals {
    /// Requests begun.
    pub requests: AtomicU64,
    /// Requests begun since T0.
    pub requests_in_drain: AtomicU64,
    /// Requests on connections that came after the endpoints were gone.
    pub late_requests: AtomicU64,
    /// Connections that we closed because they were idle.
    pub idle_closed: AtomicU64,
    /// Connections cut at the hard deadline with a request on them, or after an upgrade.
    pub connections_cut: AtomicU64,
    /// Requests cut at the hard deadline.
    pub requests_cut: AtomicU64,
    cut_by: Mutex<BTreeMap<String, u64>>,
}

/// An open listener.
#[derive(Debug)]
#[must_use = "the listener counts as open while this lives"]
pub struct ListenerGuard(Arc<Traffic>);

/// An open connection.
#[derive(Debug)]
#[must_use = "the connection counts as open while this lives"]
pub struct ConnectionGuard {
    traffic: Arc<Traffic>,
    age: Age,
    /// Whether it came after T0 and has sent no request yet: its first one shows that somebody routes here.
    fresh: AtomicBool,
    /// Whether the drain waits for it.
    counted: AtomicBool,
}

/// A request, from its head to the end of its answer's body.
#[derive(Debug)]
#[must_use = "the request counts as in flight while this lives"]
pub struct RequestGuard {
    traffic: Arc<Traffic>,
    age: Age,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    InTime = 0,
    Late = 1,
}

/// Jobs of one worker pool.
#[derive(Debug)]
pub struct Work {
    drain: Arc<Timeline>,
    pool: String,
    pools: AtomicUsize,
    jobs: AtomicUsize,
    // Counts since the start, and since T0.
    finished: [AtomicU64; 2],
    failed: [AtomicU64; 2],
    /// The longest run, in milliseconds.
    longest: AtomicU64,
    /// The runs by their number, not by their job: after losing a job's lease, a process may run the job a second
    /// time beside the first run.
    held: Mutex<BTreeMap<u64, Run>>,
    runs: AtomicU64,
    released: Mutex<Ids>,
    left: Mutex<Ids>,
}

/// A run of a job.
#[derive(Debug)]
struct Run {
    job: String,
    since: Instant,
    /// Whether the job belongs to another process: the drain waits for the run, but does not report the job.
    disowned: bool,
}

/// The first ids of a set, and how many there were in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ids {
    /// The number of ids.
    pub count: u64,
    /// The first thousand of them.
    pub ids: Vec<String>,
}

/// A worker pool that may still hold jobs.
#[derive(Debug)]
#[must_use = "the pool counts as open while this lives"]
pub struct PoolGuard(Arc<Work>);

/// A job, from before its reservation until its outcome is durable.
#[derive(Debug)]
#[must_use = "the job counts as held while this lives"]
pub struct JobGuard {
    work: Arc<Work>,
    run: u64,
}

// === impl Traffic ===

impl Traffic {
    pub(super) fn new(drain: Arc<Timeline>, server: &str) -> Self {
        Self {
            drain,
            server: server.to_owned(),
            listeners: AtomicUsize::default(),
            connections: Default::default(),
            requests: Default::default(),
            last_new: AtomicU64::default(),
            totals: TrafficTotals::default(),
        }
    }

    /// Returns the server's name.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns the counters over the life of the process.
    pub fn totals(&self) -> &TrafficTotals {
        &self.totals
    }

    /// Counts an open listener.
    pub fn listener(self: &Arc<Self>) -> ListenerGuard {
        self.listeners.fetch_add(1, SeqCst);
        ListenerGuard(self.clone())
    }

    /// Counts an accepted connection.
    pub fn connection(self: &Arc<Self>) -> ConnectionGuard {
        let age = if self.drain.has(Moment::Removed) {
            Age::Late
        } else {
            Age::InTime
        };
        self.connections[age as usize].fetch_add(1, SeqCst);
        ConnectionGuard {
            traffic: self.clone(),
            age,
            fresh: AtomicBool::new(self.drain.has(Moment::Began)),
            counted: AtomicBool::new(true),
        }
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.iter().map(|n| n.load(SeqCst)).sum()
    }

    /// Returns the number of requests in flight.
    pub fn requests(&self) -> usize {
        self.requests.iter().map(|n| n.load(SeqCst)).sum()
    }

    pub(super) fn add_to(&self, load: &mut Load) {
        load.listeners += self.listeners.load(SeqCst);
        load.connections += self.connections[Age::InTime as usize].load(SeqCst);
        load.late_connections += self.connections[Age::Late as usize].load(SeqCst);
        load.requests += self.requests[Age::InTime as usize].load(SeqCst);
        load.late_requests += self.requests[Age::Late as usize].load(SeqCst);
        let last_new = match self.last_new.load(SeqCst) {
            0 => None,
            nanos => Some(self.drain.epoch() + Duration::from_nanos(nanos - 1)),
        };
        load.last_new = load.last_new.max(last_new);
    }

    fn routed_here(&self) {
        let nanos = Instant::now().saturating_duration_since(self.drain.epoch());
        let nanos = u64::try_from(nanos.as_nanos()).unwrap_or(u64::MAX - 1);
        self.last_new.fetch_max(nanos + 1, SeqCst);
    }

    fn left(&self, counter: &AtomicUsize) {
        if counter.fetch_sub(1, SeqCst) == 1 && self.drain.has(Moment::Began) {
            self.drain.emptied().notify_one();
        }
    }
}

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        self.0.left(&self.0.listeners);
    }
}

// === impl TrafficTotals ===

impl TrafficTotals {
    /// Counts a connection that was cut at the hard deadline, by a description of what it was doing.
    pub fn cut(&self, what: &str) {
        *lock(&self.cut_by).entry(what.to_owned()).or_default() += 1;
    }

    /// Returns the number of connections that were cut, by that description.
    pub fn cut_by(&self) -> BTreeMap<String, u64> {
        lock(&self.cut_by).clone()
    }
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    /// Stops counting a connection that carries a probe or a scrape and no traffic: no drain waits for it unless
    /// a later [`request`](Self::request) counts it again.
    pub fn disregard(&self) {
        if self.counted.swap(false, SeqCst) {
            self.traffic
                .left(&self.traffic.connections[self.age as usize]);
        }
    }

    /// Counts a request on this connection.
    pub fn request(&self) -> RequestGuard {
        let traffic = &self.traffic;
        if !self.counted.swap(true, SeqCst) {
            traffic.connections[self.age as usize].fetch_add(1, SeqCst);
        }
        traffic.requests[self.age as usize].fetch_add(1, SeqCst);
        traffic.totals.requests.fetch_add(1, SeqCst);
        if traffic.drain.has(Moment::Began) {
            traffic.totals.requests_in_drain.fetch_add(1, SeqCst);
            if self.fresh.swap(false, SeqCst) {
                traffic.routed_here();
            }
        }
        if self.is_late() && traffic.drain.is_observed() {
            traffic.totals.late_requests.fetch_add(1, SeqCst);
        }
        RequestGuard {
            traffic: traffic.clone(),
            age: self.age,
        }
    }

    /// Returns the traffic of the connection's server.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether it came after the endpoints were gone.
    pub fn is_late(&self) -> bool {
        self.age == Age::Late
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.disregard();
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let traffic = &self.traffic;
        traffic.left(&traffic.requests[self.age as usize]);
    }
}

// === impl Work ===

impl Work {
    pub(super) fn new(drain: Arc<Timeline>, pool: &str) -> Self {
        Self {
            drain,
            pool: pool.to_owned(),
            pools: AtomicUsize::default(),
            jobs: AtomicUsize::default(),
            finished: Default::default(),
            failed: Default::default(),
            longest: AtomicU64::default(),
            held: Mutex::default(),
            runs: AtomicU64::default(),
            released: Mutex::default(),
            left: Mutex::default(),
        }
    }

    /// Returns the pool's name.
    pub fn pool_name(&self) -> &str {
        &self.pool
    }

    /// Counts a pool that may hold jobs.
    pub fn pool(self: &Arc<Self>) -> PoolGuard {
        self.pools.fetch_add(1, SeqCst);
        PoolGuard(self.clone())
    }

    /// Counts a job, or a reservation that may bring one.
    pub fn hold(self: &Arc<Self>) -> JobGuard {
        self.jobs.fetch_add(1, SeqCst);
        JobGuard {
            work: self.clone(),
            run: self.runs.fetch_add(1, SeqCst),
        }
    }

    /// Returns the number of jobs held now.
    pub fn jobs(&self) -> usize {
        self.jobs.load(SeqCst)
    }

    /// Counts a job that has ended well and durably.
    pub fn finished(&self) {
        self.count(&self.finished);
    }

    /// Counts an attempt of a job that has failed durably: the job will be retried, or is dead.
    pub fn failed(&self) {
        self.count(&self.failed);
    }

    fn count(&self, [ever, in_drain]: &[AtomicU64; 2]) {
        ever.fetch_add(1, SeqCst);
        if self.drain.has(Moment::Began) {
            in_drain.fetch_add(1, SeqCst);
        }
    }

    /// Counts a job that its process has durably given back, no matter which run held it.
    pub fn released(&self, id: String) {
        lock(&self.released).push(id);
    }

    /// Forgets a job that this process no longer holds, even if runs of it go on here: none counts as left behind.
    pub fn no_longer_held(&self, id: &str) {
        lock(&self.held).retain(|_, run| run.job != id);
    }

    /// Notes how long a run took that has ended by itself.
    pub fn ran(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.longest.fetch_max(millis, SeqCst);
    }

    /// Returns the longest run that has ended by itself since the process began.
    pub fn longest_run(&self) -> Duration {
        Duration::from_millis(self.longest.load(SeqCst))
    }

    /// Returns the number of jobs that ended well, since the start and since T0.
    pub fn finished_counts(&self) -> (u64, u64) {
        let [ever, in_drain] = &self.finished;
        (ever.load(SeqCst), in_drain.load(SeqCst))
    }

    /// Returns the number of attempts that failed, since the start and since T0.
    pub fn failed_counts(&self) -> (u64, u64) {
        let [ever, in_drain] = &self.failed;
        (ever.load(SeqCst), in_drain.load(SeqCst))
    }

    /// Returns the jobs that were given back.
    pub fn released_ids(&self) -> Ids {
        lock(&self.released).clone()
    }

    /// Returns how many jobs were given back.
    pub fn released_count(&self) -> u64 {
        lock(&self.released).count
    }

    /// Returns at most `limit` jobs, those held the longest, in no particular order.
    pub(super) fn oldest(&self, limit: usize) -> Vec<Held> {
        let held = lock(&self.held);
        let mut oldest: Vec<_> = held.values().map(|run| (run.since, &run.job)).collect();
        if limit < oldest.len() {
            oldest.select_nth_unstable(limit);
            oldest.truncate(limit);
        }
        let oldest = oldest.into_iter().map(|(since, id)| Held {
            id: id.clone(),
            pool: self.pool.clone(),
            since,
        });
        oldest.collect()
    }

    /// Returns the jobs that could not be given back, and those whose outcome nobody has reported yet.
    pub fn left_ids(&self) -> Ids {
        let mut left = lock(&self.left).clone();
        for run in lock(&self.held).values().filter(|run| !run.disowned) {
            left.push(run.job.clone());
        }
        left
    }

    pub(super) fn add_to(&self, load: &mut Load) {
        load.jobs += self.jobs.load(SeqCst);
        load.pools += self.pools.load(SeqCst);
    }

    fn left(&self, counter: &AtomicUsize) {
        if counter.fetch_sub(1, SeqCst) == 1 && self.drain.has(Moment::Began) {
            self.drain.emptied().notify_one();
        }
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        self.0.left(&self.0.pools);
    }
}

// === impl JobGuard ===

impl JobGuard {
    /// Sets the id of the job that was reserved. A report that is written while it is still held names it.
    pub fn name(&mut self, id: String) {
        let run = Run {
            job: id,
            since: Instant::now(),
            disowned: false,
        };
        lock(&self.work.held).insert(self.run, run);
    }

    /// Notes that the job was durably given back.
    pub fn released(&self) {
        if let Some(id) = self.forget() {
            lock(&self.work.released).push(id);
        }
    }

    /// Notes that the job could not be given back; its lease will free it.
    pub fn left_behind(&self) {
        if let Some(id) = self.forget() {
            lock(&self.work.left).push(id);
        }
    }

    /// Notes that the job belongs to another process. The run still counts, but no report names it as left behind.
    pub fn disowned(&self) {
        if let Some(run) = lock(&self.work.held).get_mut(&self.run) {
            run.disowned = true;
        }
    }

    fn forget(&self) -> Option<String> {
        lock(&self.work.held).remove(&self.run).map(|run| run.job)
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        self.forget();
        self.work.left(&self.work.jobs);
    }
}

// === impl Ids ===

impl Ids {
    fn push(&mut self, id: String) {
        self.count += 1;
        if self.ids.len() < IDS_KEPT {
            self.ids.push(id);
        }
    }

    /// Adds another set.
    pub fn extend(&mut self, other: Self) {
        self.count += other.count;
        let room = IDS_KEPT.saturating_sub(self.ids.len());
        self.ids.extend(other.ids.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use crate::Lifecycle;

    #[test]
    fn a_run_that_ends_takes_nothing_from_another_one_of_the_same_job() {
        let drain = Lifecycle::builder().drain().clone();
        let work = drain.work("resize");
        let (mut old, mut new) = (work.hold(), work.hold());
        old.name("job".to_owned());
        new.name("job".to_owned());
        assert_eq!(drain.held(9).len(), 2);

        old.disowned();
        assert_eq!((drain.held(9).len(), work.left_ids().count), (2, 1));
        drop(old);

        assert_eq!(drain.held(9)[0].id, "job");
        assert_eq!(work.left_ids().ids, ["job"]);
        new.released();
        assert_eq!((work.left_ids().count, work.released_count()), (0, 1));
        new.left_behind();
        assert_eq!(work.left_ids().count, 0, "it is told of once");
        drop(new);
        assert_eq!(work.jobs(), 0);
    }

    #[test]
    fn a_job_that_its_process_gives_back_is_left_behind_by_none_of_its_runs() {
        let drain = Lifecycle::builder().drain().clone();
        let work = drain.work("resize");
        let (mut old, mut new, mut other) = (work.hold(), work.hold(), work.hold());
        old.name("job".to_owned());
        new.name("job".to_owned());
        other.name("other".to_owned());

        work.no_longer_held("job");

        assert_eq!(work.left_ids().ids, ["other"]);
    }
}

//! What workers export, and what they complain of.

use lameduck::jobs::{handler::Context, job::State};
use prometheus::proto::Metric;
use tokio::time::sleep;

use super::*;
use crate::kubernetes::stage::Log;

impl Program {
    /// The one series of a family with this outcome or state, or the only one.
    fn series(&self, family: &str, label: &str) -> Metric {
        let families = self.drain.registry().gather();
        let found = families.iter().find(|f| f.name() == family);
        let found = found.unwrap_or_else(|| panic!("there is no {family}"));
        let mut series = found.get_metric().iter().filter(|series| {
            let labels = series.get_label();
            label.is_empty() || labels.iter().any(|l| l.value() == label)
        });
        let one = series.next().cloned();
        one.unwrap_or_else(|| panic!("{family} has no series with '{label}'"))
    }

    fn counted(&self, family: &str, label: &str) -> f64 {
        self.series(family, label).get_counter().get_value()
    }

    fn shown(&self, family: &str, label: &str) -> f64 {
        self.series(family, label).get_gauge().get_value()
    }

    /// How often something was measured, and the sum of it.
    fn measured(&self, family: &str, label: &str) -> (u64, f64) {
        let series = self.series(family, label);
        let histogram = series.get_histogram();
        (histogram.get_sample_count(), histogram.get_sample_sum())
    }

    fn outcomes(&self) -> Vec<(String, f64)> {
        let families = self.drain.registry().gather();
        let family = families
            .iter()
            .find(|f| f.name() == "lameduck_job_outcomes_total");
        let series = family.unwrap().get_metric().iter();
        let named = series.map(|series| {
            let labels = series.get_label();
            let outcome = labels.iter().find(|l| l.name() == "outcome").unwrap();
            (outcome.value().to_owned(), series.get_counter().get_value())
        });
        named.filter(|(_, count)| *count > 0.0).collect()
    }
}

/// Looks again and again, because nobody tells of a look at the queue.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = timeout(BOUND, looking).await;
    assert!(seen.is_ok(), "it did not come to {what}");
}

/// What a scrape would get.
fn text(drain: &Drain) -> String {
    let families = drain.registry().gather();
    prometheus::TextEncoder::new()
        .encode_to_string(&families)
        .unwrap()
}

fn outcome(word: &str, count: f64) -> (String, f64) {
    (word.to_owned(), count)
}

// === what became of jobs ===

#[tokio::test]
async fn every_reservation_is_counted_under_one_word() {
    let by_payload = async |what: String, context: Context| match what.as_str() {
        "fails" => Err(Failure::retry("no")),
        "dies" => Err(Failure::dead("no use")),
        "waits" => Err(Failure::postponed("refused", Duration::from_secs(60))),
        "cancelled" => {
            context.stop.cancelled().await;
            Err(Failure::released())
        }
        _ => Ok(()),
    };
    let mut mail = pool(function(by_payload));
    mail.backoff.first = Duration::from_millis(1);
    let program = Program::start(vec![mail]);
    assert_eq!(program.outcomes(), [], "all are exported, and 0");

    for what in ["\"well\"", "\"fails\"", "\"dies\""] {
        let id = program.submit(a_job(what)).await;
        program.ended(id).await;
    }
    let waits = program.submit(a_job("\"waits\"")).await;
    program.seen(waits, |job| job.releases == 1).await;
    let id = program.submit(a_job("\"cancelled\"")).await;
    program.seen(id, |job| job.state == State::Running).await;
    program.engine.cancel(id).await.unwrap();
    program.ended(id).await;

    let busy = || program.shown("lameduck_workers_busy", "mail");
    until("nobody being busy", || busy() == 0.0).await;
    assert_eq!(
        program.outcomes(),
        [
            outcome("cancelled", 1.0),
            outcome("completed", 1.0),
            outcome("dead", 2.0),
            outcome("failed", 2.0),
            outcome("postponed", 1.0),
        ]
    );
    let (waited, _) = program.measured("lameduck_job_wait_seconds", "mail");
    assert_eq!(waited, 7, "as many as were reserved");
    let runs = |outcome| program.measured("lameduck_job_run_seconds", outcome).0;
    assert_eq!(["completed", "failed"].map(runs), [1, 4]);
}

#[tokio::test]
async fn who_ran_into_the_timeout_is_counted_and_so_is_how_long_the_run_was() {
    let obedient = async |_: u32, context: Context| {
        context.stop.cancelled().await;
        Err::<(), _>(Failure::released())
    };
    let mut mail = pool(function(obedient));
    mail.timeout = Duration::from_millis(20);
    let program = Program::start(vec![mail]);
    let mut job = a_job("1");
    job.max_attempts = 1;

    let id = program.submit(job).await;
    program.ended(id).await;

    let dead = || program.counted("lameduck_job_outcomes_total", "dead");
    until("a dead job", || dead() == 1.0).await;
    assert_eq!(program.counted("lameduck_job_timeouts_total", "mail"), 1.0);
    let (_, ran) = program.measured("lameduck_job_run_seconds", "failed");
    assert!((0.02..1.0).contains(&ran), "{ran}");
}

#[tokio::test]
async fn an_outcome_that_comes_too_late_is_counted_as_stale_and_as_nothing_else() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (at_begin, gate) = (begun.clone(), go.clone());
    let handler = move |_: u32, _: Context| {
        let (begun, go) = (at_begin.clone(), gate.clone());
        async move {
            begun.notify_one();
            go.notified().await;
            Ok("done")
        }
    };
    let mut mail = pool(function(handler));
    mail.workers = 1;
    let program = Program::start(vec![mail]);
    program.submit(a_job("1")).await;
    begun.notified().await;

    // As if the lease had run out meanwhile.
    program.engine.release_held(Duration::ZERO).await.unwrap();
    go.notify_one();

    let stale = || program.counted("lameduck_stale_outcomes_total", "mail");
    until("a stale outcome", || stale() == 1.0).await;
    assert_eq!(program.outcomes(), []);
    begun.notified().await;
    go.notify_one();
    let done = || program.outcomes() == [outcome("completed", 1.0)];
    until("the second run's end", done).await;
}

// === what the engine says ===

#[tokio::test]
async fn a_queue_is_shown_as_it_stands_and_one_that_nobody_works_on_too() {
    let handler = async |_: u32, context: Context| {
        context.stop.cancelled().await;
        Err::<(), _>(Failure::released())
    };
    let mut mail = pool(function(handler));
    mail.workers = 1;
    mail.demand_window = Duration::from_secs(1);
    let program = Program::start(vec![mail]);
    let jobs = |state| program.shown("lameduck_queue_jobs", state);
    let states = ["pending", "scheduled", "running", "deferred", "dead"];
    assert_eq!(states.map(jobs), [0.0; 5], "before anybody has looked");

    for payload in ["1", "2", "3"] {
        program.submit(a_job(payload)).await;
    }
    let mut later = a_job("4");
    later.run_at = Some(Duration::from_secs(3600).into());
    program.submit(later).await;
    let mut elsewhere = a_job("5");
    elsewhere.queue = "archive".parse().unwrap();
    program.submit(elsewhere).await;

    let shown = |line: &str| text(&program.drain).lines().any(|shown| shown == line);
    for line in [
        "lameduck_queue_jobs{queue=\"mail\",state=\"pending\"} 2",
        "lameduck_queue_jobs{queue=\"mail\",state=\"scheduled\"} 1",
        "lameduck_queue_jobs{queue=\"mail\",state=\"running\"} 1",
        "lameduck_queue_jobs{queue=\"archive\",state=\"pending\"} 1",
        "lameduck_workers{queue=\"mail\"} 1",
        "lameduck_workers_busy{queue=\"mail\"} 1",
    ] {
        until(line, || shown(line)).await;
    }
    let age = || program.shown("lameduck_queue_oldest_age_seconds", "mail");
    until("the oldest growing older", || age() > 0.02).await;
    program.engine.set_paused(&queue(), true).await.unwrap();
    let paused = || program.shown("lameduck_queue_paused", "mail");
    until("the pause", || paused() == 1.0).await;
}

// === capacity ===

/// The founding story on another scale: 100 jobs a second of 50 ms need 5 workers, and there are 2.
#[tokio::test]
async fn too_few_workers_are_seen_though_all_that_they_do_is_in_time_and_told_of_once() {
    let (log, _listening) = Log::record();
    let handler = async |_: u32, _: Context| {
        sleep(Duration::from_millis(50)).await;
        Ok::<_, Failure>(())
    };
    let mut mail = pool(function(handler));
    mail.workers = 2;
    mail.demand_window = Duration::from_secs(3);
    let program = Program::start(vec![mail]);
    let engine = program.engine.clone();
    let submitter = tokio::spawn(async move {
        let mut tenths = tokio::time::interval(Duration::from_millis(100));
        loop {
            tenths.tick().await;
            let jobs = (0..10).map(|_| a_job("1")).collect();
            engine.submit(jobs).await.unwrap();
        }
    });

    let told = || log.lines("queue mail:");
    until("a warning", || !told().is_empty()).await;
    let needed = program.shown("lameduck_workers_needed", "mail");
    assert_eq!(program.shown("lameduck_workers", "mail"), 2.0);
    // Five on a machine with nothing else to do; more on a loaded one, where each takes longer.
    assert!(needed > 3.5, "{needed}");
    // As long again as it took to be told of it.
    let reserved = || program.measured("lameduck_job_wait_seconds", "mail").0;
    let by_now = reserved();
    until("twice as many jobs", || reserved() > 2 * by_now).await;
    submitter.abort();

    let told = told();
    assert_eq!(told.len(), 1, "{told:#?}");
    for words in [
        " jobs/s × ",
        "busy workers, there are 2",
        "the backlog grows by",
        "'workers'",
    ] {
        assert!(told[0].contains(words), "{}", told[0]);
    }
}

#[tokio::test]
async fn a_run_that_no_drain_would_let_end_is_told_of_once_with_the_grace_period_that_it_needs() {
    let (log, _listening) = Log::record();
    let handler = async |_: u32, _: Context| {
        sleep(Duration::from_millis(100)).await;
        Ok::<_, Failure>(())
    };
    let mut mail = pool(function(handler));
    mail.demand_window = Duration::from_secs(1);
    let mut short = settings();
    short.grace = Duration::from_millis(100);
    let (_directory, engine) = an_engine();
    let program = Program::start_within(short, engine, vec![mail]);

    for _ in 0..3 {
        let id = program.submit(a_job("1")).await;
        program.ended(id).await;
        let needed = || program.shown("lameduck_job_grace_needed_seconds", "mail");
        until("a longer grace period", || needed() == 1.0).await;
    }

    let told = log.lines("a run took");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].contains("terminationGracePeriodSeconds"),
        "{}",
        told[0]
    );
}

// === the promise ===

#[tokio::test]
async fn no_reserve_is_sent_after_a_drain_has_begun_under_load() {
    let handler = async |_: u32, _: Context| Ok::<_, Failure>(());
    let program = Program::start(vec![pool(function(handler))]);
    let jobs = (0..20_000).map(|_| a_job("1")).collect();
    program.engine.submit(jobs).await.unwrap();
    let completed = || program.counted("lameduck_job_outcomes_total", "completed");
    until("work being done", || completed() > 50.0).await;
    let (drain, engine) = (program.drain.clone(), program.engine.clone());

    program.drain().await.unwrap();

    let never = "lameduck_reserves_after_drain_total{queue=\"mail\"} 0";
    let scraped = text(&drain);
    assert!(scraped.lines().any(|line| line == never), "{scraped}");
    let left = engine.queues().await.unwrap()[0].pending;
    assert!(left > 0, "the drain should have begun under load");
}

//! The shell around the conductor: it takes facts from signals, rooms, hooks and the clock, asks the
//! conductor, and does what it says. No decision is made here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{self, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    budget::{Budget, later},
    builder::{
        Addition, BoxError, Deadline, Error, Hook, Lifecycle, Preparation, Reporter, Service,
    },
    conductor::{Action, Conductor, Input, Shape},
    drain::Drain,
    observation::Cause,
    phase::Phase,
    report::{DrainReport, HookReport},
    settings::DrainSettings,
    signals::Signals,
    watchdog::WORDS,
};

/// The name of a part that ended without being asked to, and its error.
type Failure = (String, BoxError);

struct Shell {
    conductor: Conductor,
    drain: Drain,
    signals: Signals,
    inputs: mpsc::UnboundedReceiver<Input>,
    /// The settings for parts that are added later.
    settings: DrainSettings,
    preparing: JoinSet<Result<Addition, Failure>>,
    services: JoinSet<Result<(), Failure>>,
    background: JoinSet<Result<(), Failure>>,
    /// The names of services and background tasks, because one that panics can't report its own.
    names: HashMap<task::Id, String>,
    hooks: Vec<Option<Hook>>,
    hook_reports: mpsc::UnboundedSender<(usize, HookReport)>,
    hook_ends: mpsc::UnboundedReceiver<(usize, HookReport)>,
    reporters: Vec<Reporter>,
    /// Started hooks without a report yet, by index, with their names and start times. There is more than one
    /// when the report of an abandoned hook is late.
    running_hooks: BTreeMap<usize, (String, Instant)>,
    // The outcome, to be reported at the end.
    hooks_told: Vec<HookReport>,
    failure: Option<Failure>,
    not_started: Option<Failure>,
    report: Option<Arc<DrainReport>>,
    exit: bool,
}

/// Runs a lifecycle to its end.
pub(super) async fn run(mut lifecycle: Lifecycle) -> Result<Arc<DrainReport>, Error> {
    let signals = match lifecycle.signals.take() {
        Some(signals) => signals,
        None => Signals::install().map_err(Error::Signals)?,
    };
    let mut shell = Shell::new(lifecycle, signals);
    if shell.preparing.is_empty() {
        shell.handle(Input::Started);
    }
    while !shell.exit {
        let input = shell.next().await;
        shell.handle(input);
    }
    shell.result()
}

// === impl Shell ===

impl Shell {
    fn new(mut lifecycle: Lifecycle, signals: Signals) -> Self {
        lifecycle.shape.hooks = bounds(&lifecycle.hooks);
        let usable = usable(&lifecycle);
        signals.expect_grace(usable);
        let (hook_reports, hook_ends) = mpsc::unbounded_channel();
        let mut shell = Self {
            conductor: Conductor::new(lifecycle.settings.clone(), lifecycle.shape),
            drain: lifecycle.drain,
            signals,
            inputs: lifecycle.inputs,
            settings: lifecycle.settings,
            preparing: JoinSet::new(),
            services: JoinSet::new(),
            background: JoinSet::new(),
            names: HashMap::new(),
            hooks: lifecycle.hooks.into_iter().map(Some).collect(),
            hook_reports,
            hook_ends,
            reporters: lifecycle.reporters,
            running_hooks: BTreeMap::new(),
            hooks_told: Vec::new(),
            failure: None,
            not_started: None,
            report: None,
            exit: false,
        };
        for service in lifecycle.services {
            spawn(&mut shell.services, &mut shell.names, service);
        }
        for service in lifecycle.background {
            spawn(&mut shell.background, &mut shell.names, service);
        }
        shell.prepare(lifecycle.preparations);
        shell
    }

    fn prepare(&mut self, preparations: Vec<Preparation>) {
        for Preparation { name, future } in preparations {
            let preparing = async move { future.await.map_err(|error| (name, error)) };
            self.preparing.spawn(preparing);
        }
    }

    /// Adds parts to the running program.
    fn add(&mut self, add: Addition) {
        let Lifecycle {
            shape,
            preparations,
            services,
            background,
            hooks,
            reporters,
            ..
        } = add(Lifecycle::addition(
            self.drain.clone(),
            self.settings.clone(),
        ));
        self.conductor.extend(Shape {
            hooks: bounds(&hooks),
            ..shape
        });
        self.prepare(preparations);
        self.hooks.extend(hooks.into_iter().map(Some));
        self.reporters.extend(reporters);
        for service in services {
            spawn(&mut self.services, &mut self.names, service);
        }
        for service in background {
            spawn(&mut self.background, &mut self.names, service);
        }
    }

    /// Waits for the next fact.
    async fn next(&mut self) -> Input {
        let wake = self.conductor.wake_at();
        let draining = self.conductor.record().is_some();
        let tick = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(at) = self.signals.received.recv() => Input::Signal(at),
            Some(input) = self.inputs.recv() => input,
            Some((index, hook)) = self.hook_ends.recv() => {
                let ok = hook.error.is_none();
                self.running_hooks.remove(&index);
                self.hooks_told.push(hook);
                Input::HookEnded { index, ok }
            }
            Some(ended) = self.preparing.join_next() => self.prepared(ended),
            Some(ended) = self.services.join_next_with_id() => self.service_ended(ended),
            Some(ended) = self.background.join_next_with_id() => self.service_ended(ended),
            () = self.drain.emptied().notified(), if draining => Input::Tick,
            () = tick => Input::Tick,
        }
    }

    fn prepared(
        &mut self,
        ended: Result<Result<Addition, Failure>, tokio::task::JoinError>,
    ) -> Input {
        let failure = match ended {
            Ok(Ok(addition)) => {
                self.add(addition);
                return match self.preparing.is_empty() {
                    true => Input::Started,
                    false => Input::Tick,
                };
            }
            Ok(Err(failure)) => failure,
            Err(panic) => ("the start".to_owned(), panic.into()),
        };
        if self.conductor.record().is_some() {
            // The process was told to end anyway, and ends with its report.
            tracing::warn!(part = failure.0, error = %failure.1, "the start failed while it was given up");
        } else {
            self.not_started = Some(failure);
            self.exit = true;
        }
        Input::Tick
    }

    fn service_ended(
        &mut self,
        ended: Result<(task::Id, Result<(), Failure>), JoinError>,
    ) -> Input {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id);
        let failure = match ended {
            Ok((_, Ok(()))) => return Input::Tick,
            Ok((_, Err(failure))) => failure,
            Err(panic) => (name.unwrap_or_default(), panic.into()),
        };
        tracing::error!(part = failure.0, error = %failure.1, "a part of the program failed; draining");
        self.failure.get_or_insert(failure);
        Input::Shutdown(Cause::Failed)
    }

    fn handle(&mut self, input: Input) {
        let now = Instant::now();
        let mut load = self.drain.load();
        // A preparation may already hold something, and releases it as a pool releases its jobs.
        load.pools += self.preparing.len();
        let actions = self.conductor.handle(now, load, input);
        if let Some(record) = self.conductor.record() {
            self.drain.set_known(record);
        }
        let moved = !actions.is_empty();
        // Acts first and logs second: writing to a log that nobody reads may block.
        for action in &actions {
            self.act(now, *action);
        }
        for action in actions {
            self.tell(now, action);
        }
        // The announcement may have changed the load, or T0 may have made the load matter.
        if moved && !self.exit {
            self.handle(Input::Tick);
        }
    }

    fn act(&mut self, now: Instant, action: Action) {
        match action {
            Action::Enter(phase) => self.drain.enter(phase, now),
            Action::Raise(moment) => self.drain.raise(moment, now),
            Action::FailReadiness => self.drain.fail_readiness(),
            Action::Plan(budget) => self.plan(now, budget),
            Action::RunHook { index, until } => self.run_hook(index, until),
            Action::Report { until } => self.write_reports(now, until),
            Action::Exit => self.exit = true,
        }
    }

    fn tell(&self, now: Instant, action: Action) {
        let drain_id = self.drain.id();
        match action {
            // Nothing is logged after the report.
            Action::Enter(Phase::Stopped) | Action::RunHook { .. } | Action::Exit => {}
            Action::Enter(phase) => self.tell_phase(now, phase),
            Action::Raise(moment) => {
                tracing::debug!(drain_id, moment = moment.as_str(), "moment");
            }
            Action::FailReadiness => tracing::info!(drain_id, "readiness fails from now on"),
            Action::Plan(budget) => {
                let left = budget.deadline.saturating_duration_since(now);
                tracing::info!(
                    drain_id,
                    deadline_seconds = left.as_secs_f64(),
                    "the process ends before this deadline"
                );
            }
            Action::Report { .. } => {
                if let Some(report) = &self.report {
                    log(report);
                }
            }
        }
    }

    fn tell_phase(&self, now: Instant, phase: Phase) {
        match self.conductor.record() {
            Some(record) => tracing::info!(
                drain_id = self.drain.id(),
                phase = phase.as_str(),
                cause = record.cause.known(),
                seconds = (now - record.t0).as_secs_f64(),
                time_left = record
                    .budget
                    .deadline
                    .saturating_duration_since(now)
                    .as_secs_f64(),
                "phase"
            ),
            None => tracing::info!(phase = phase.as_str(), "phase"),
        }
    }

    fn plan(&mut self, now: Instant, budget: Budget) {
        self.drain.set_plan(budget);
        // The watchdog uses the operating system's clock, and the drain uses tokio's.
        // Its last words must end before SIGKILL, but it must not bark while there is still time to report.
        let before_kill = budget.kill.checked_sub(WORDS).unwrap_or(now);
        let bark = budget.deadline.min(before_kill.max(budget.report_end));
        let left = bark.saturating_duration_since(now);
        self.signals.watchdog.arm(std::time::Instant::now() + left);
    }

    fn run_hook(&mut self, index: usize, until: Instant) {
        let Some(hook) = self.hooks.get_mut(index).and_then(Option::take) else {
            return;
        };
        let ended = self.hook_reports.clone();
        let Hook { name, run, .. } = hook;
        self.running_hooks
            .insert(index, (name.clone(), Instant::now()));
        tokio::spawn(async move {
            let begin = Instant::now();
            // The call and its future run in a task of their own, because either may panic.
            let run = tokio::spawn(async move { run(Deadline::new(until)).await });
            let abort = run.abort_handle();
            let error = match timeout_at(until, run).await {
                Ok(Ok(Ok(()))) => None,
                Ok(Ok(Err(error))) => Some(error.to_string()),
                Ok(Err(panic)) => Some(panic.to_string()),
                Err(_) => {
                    abort.abort();
                    Some("did not end within its bound".to_owned())
                }
            };
            if let Some(error) = &error {
                tracing::error!(hook = name, error, "teardown hook failed");
            }
            let report = HookReport {
                name,
                seconds: begin.elapsed().as_secs_f64(),
                error,
            };
            let _ = ended.send((index, report));
        });
    }

    fn write_reports(&mut self, now: Instant, until: Instant) {
        self.tell_abandoned_hooks();
        let Some(record) = self.conductor.record() else {
            return;
        };
        let hooks = std::mem::take(&mut self.hooks_told);
        let failed = self.failure.is_some();
        let report = DrainReport::new(&self.drain, record, failed, hooks, now);
        let report = Arc::new(report);
        self.report = Some(report.clone());
        let drain = self.drain.clone();
        let reporters = std::mem::take(&mut self.reporters);
        tokio::spawn(async move {
            let mut running = JoinSet::new();
            let mut names = HashMap::new();
            for Reporter { name, run } in reporters {
                let report = report.clone();
                let named = name.clone();
                let task = running.spawn(async move {
                    match timeout_at(until, async move { run(report).await }).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            tracing::warn!(reporter = name, %error, "report not written")
                        }
                        Err(_) => tracing::warn!(reporter = name, "report not written in time"),
                    }
                });
                names.insert(task.id(), named);
            }
            while let Some(ended) = running.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(reporter = names.get(&error.id()), %error, "a reporter panicked");
                }
            }
            drain.say(Input::Reported);
        });
    }

    /// Records the hooks that never ran, or did not run to their end.
    fn tell_abandoned_hooks(&mut self) {
        while let Ok((index, hook)) = self.hook_ends.try_recv() {
            self.running_hooks.remove(&index);
            self.hooks_told.push(hook);
        }
        // The hook that was registered last ran first.
        for (name, begin) in std::mem::take(&mut self.running_hooks).into_values().rev() {
            self.hooks_told.push(HookReport {
                name,
                seconds: begin.elapsed().as_secs_f64(),
                error: Some("did not end within its bound".to_owned()),
            });
        }
        for hook in self.hooks.iter_mut().rev().filter_map(Option::take) {
            tracing::error!(hook = hook.name, "no time was left for this teardown hook");
            self.hooks_told.push(HookReport {
                name: hook.name,
                seconds: 0.0,
                error: Some("no time was left to run it".to_owned()),
            });
        }
    }

    fn result(mut self) -> Result<Arc<DrainReport>, Error> {
        self.background.abort_all();
        if let Some((name, source)) = self.not_started {
            return Err(Error::NotStarted { name, source });
        }
        let report = self
            .report
            .expect("a conductor exits only after its report");
        if let Some((name, source)) = self.failure {
            return Err(Error::Failed {
                name,
                source,
                report,
            });
        }
        if report.outcome == super::report::Outcome::Cut {
            return Err(Error::Cut { report });
        }
        let failed = report.hooks.iter().find_map(|hook| {
            let error = hook.error.clone()?;
            Some((hook.name.clone(), error))
        });
        match failed {
            Some((name, error)) => Err(Error::Teardown {
                name,
                error,
                report,
            }),
            None => Ok(report),
        }
    }
}

fn bounds(hooks: &[Hook]) -> Vec<Duration> {
    hooks.iter().map(|hook| hook.bound).collect()
}

fn spawn(
    set: &mut JoinSet<Result<(), Failure>>,
    names: &mut HashMap<task::Id, String>,
    service: Service,
) {
    let Service { name, future } = service;
    let named = name.clone();
    let task = set.spawn(async move { future.await.map_err(|error| (name, error)) });
    names.insert(task.id(), named);
}

/// Returns the time until the deadline according to the settings. The watchdog uses it until there is a plan.
fn usable(lifecycle: &Lifecycle) -> Duration {
    let now = Instant::now();
    let settings = &lifecycle.settings;
    Budget::new(now, later(now, settings.grace), settings).deadline - now
}

fn log(report: &DrainReport) {
    let DrainReport {
        drain_id,
        outcome,
        seconds,
        requests,
        jobs,
        ..
    } = report;
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                drain_id,
                outcome = outcome.as_str(),
                seconds,
                requests_served = requests.served,
                requests_late = requests.late,
                requests_cut = requests.cut,
                jobs_finished = jobs.finished,
                jobs_failed = jobs.failed,
                jobs_released = jobs.released.count,
                jobs_left = jobs.left.count,
                "drained"
            )
        };
    }
    if report.is_clean() {
        line!(info);
    } else {
        line!(warn);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::oneshot;

    use super::*;
    use crate::Moment;

    /// Returns a program in a cluster with a listener, and the sender of the thing that its start waits for.
    fn waiting() -> (Lifecycle, oneshot::Sender<&'static str>) {
        let (bring, brought) = oneshot::channel();
        let lifecycle = Lifecycle::builder().serves_traffic().is_observed();
        let drain = lifecycle.drain().clone();
        drain.starting("waiting for a database");
        let lifecycle = lifecycle.prepare("a database", async move {
            let hook = tokio::select! {
                hook = brought => Some(hook.map_err(|_| "it is not there")?),
                () = drain.reached(Moment::Began) => None,
            };
            Ok::<_, &str>(move |lifecycle: Lifecycle| match hook {
                Some(hook) => lifecycle.teardown(hook, async |_| Ok::<_, Infallible>(())),
                None => lifecycle,
            })
        });
        (lifecycle, bring)
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_serves_once_what_it_waits_for_is_there_with_the_parts_that_needed_it() {
        let (signals, trigger) = Signals::manual();
        let (lifecycle, bring) = waiting();
        let drain = lifecycle.drain().clone();
        let run = tokio::spawn(lifecycle.signals(signals).run());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let started = drain.readiness_checks()[0].failed.clone();
        assert_eq!(started.as_deref(), Some("waiting for a database"));

        bring.send("late").unwrap();

        let serving = |all: &Vec<(Phase, _)>| all.iter().any(|(phase, _)| *phase == Phase::Serving);
        drain.phase_changes().wait_for(serving).await.unwrap();
        assert!(drain.is_ready());
        trigger.fire();
        let report = run.await.unwrap().unwrap();
        assert_eq!(report.hooks[0].name, "late");
    }

    #[tokio::test(start_paused = true)]
    async fn a_preparation_may_bring_another_one() {
        let (signals, trigger) = Signals::manual();
        let lifecycle = Lifecycle::builder().prepare("first", async {
            Ok::<_, &str>(|lifecycle: Lifecycle| {
                lifecycle.prepare("second", async {
                    Ok::<_, &str>(|lifecycle: Lifecycle| {
                        lifecycle.teardown("late", async |_| Ok::<_, Infallible>(()))
                    })
                })
            })
        });
        let drain = lifecycle.drain().clone();
        let run = tokio::spawn(lifecycle.signals(signals).run());
        let serving = |all: &Vec<(Phase, _)>| all.iter().any(|(phase, _)| *phase == Phase::Serving);
        drain.phase_changes().wait_for(serving).await.unwrap();

        trigger.fire();

        let report = run.await.unwrap().unwrap();
        assert_eq!(report.hooks[0].name, "late");
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_during_the_start_waits_for_no_endpoint() {
        let (signals, trigger) = Signals::manual();
        let (lifecycle, _bring) = waiting();
        let drain = lifecycle.drain().clone();
        let run = tokio::spawn(lifecycle.signals(signals).run());

        trigger.fire();
        let report = run.await.unwrap().unwrap();

        assert!(report.is_clean() && report.seconds < 0.1, "{report:?}");
        let phases: Vec<Phase> = drain.phases().iter().map(|(phase, _)| *phase).collect();
        assert!(!phases.contains(&Phase::Serving) && !phases.contains(&Phase::LameDuck));
        assert!(!drain.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_fails_ends_the_program_with_what_was_missing() {
        let (signals, _trigger) = Signals::manual();
        let (lifecycle, bring) = waiting();
        drop(bring);

        let error = lifecycle.signals(signals).run().await.unwrap_err();

        assert_eq!(error.to_string(), "a database failed: it is not there");
        assert!(error.report().is_none());
    }
}

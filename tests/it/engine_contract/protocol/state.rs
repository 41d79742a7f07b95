//! What there is: jobs and processes' rows in the database, and what each process has in its memory.
//!
//! A claim is not a number here. What matters of the one that a run has is whether it is the job's, was the one
//! that settled it, or is neither: so a state stays small, however often a job was reserved.

/// Processes at most.
pub const MOST_PROCESSES: usize = 3;
/// Jobs at most.
pub const MOST_JOBS: usize = 3;
/// Runs of one job that one process has in its memory: the one under the claim that it lost, and the next.
pub const RUNS: usize = 2;
/// In so many crashes in a row it was there: it runs alone.
pub const SUSPECT: u32 = 2;
/// And so many, the last one alone, are its end.
pub const MAX_CRASHES: u32 = 3;
/// Failures, and it is dead.
pub const MAX_ATTEMPTS: u32 = 2;

#[derive(Clone, Copy, Debug)]
pub struct State {
    pub jobs: [Job; MOST_JOBS],
    pub processes: [Process; MOST_PROCESSES],
    /// Nobody reaches the database.
    pub away: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub phase: Phase,
    pub attempt: u32,
    pub releases: u32,
    pub crashes: u32,
    pub alone: bool,
    /// Whose it is while it runs.
    pub owner: Option<Owner>,
    /// Failures that were written, which is what attempts should be.
    pub failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has submitted it.
    Unknown,
    Waiting,
    /// It waits, and its time has not come.
    Later,
    Running,
    Completed,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub process: usize,
    /// It is under an id that this process has no longer, or whose row has left.
    pub gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub status: Status,
    /// Whether the row under its id lives: `left_at IS NULL`.
    pub row: bool,
    /// The row knows of the drain.
    pub marked: bool,
    /// It does.
    pub draining: bool,
    /// The row's beat has stood still for a whole lease, and the database could be reached all that while.
    pub quiet: bool,
    /// Of whom it has itself seen that.
    pub seen_still: [bool; MOST_PROCESSES],
    /// A reserve on its way to the database.
    pub sent: Option<Sent>,
    pub runs: [[Option<Run>; RUNS]; MOST_JOBS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Never started, ended or killed.
    Down,
    Up,
    /// Stopped (SIGSTOP), or cut off from everything.
    Frozen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub job: usize,
    /// Under an id that the process has no longer.
    pub old_id: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub stage: Stage,
    pub claim: Claim,
    pub suspect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reserved, and the answer was lost.
    Unheard,
    /// Reserved, and not begun.
    Reserved,
    /// Its handler is at work.
    Runs,
    /// Its outcome was written, and the answer was lost.
    Over(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the job's.
    Current,
    /// It was the last one that an outcome was written under.
    Settled,
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    Fail,
    Release,
}

/// What a state is told from others by.
pub type Key = [u64; MOST_PROCESSES + 1];

// === impl Phase ===

impl Phase {
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Dead)
    }
}

// === impl Process ===

impl Process {
    pub const ABSENT: Self = Self {
        status: Status::Down,
        row: false,
        marked: false,
        draining: false,
        quiet: false,
        seen_still: [false; MOST_PROCESSES],
        sent: None,
        runs: [[None; RUNS]; MOST_JOBS],
    };

    pub fn is_up(&self) -> bool {
        self.status == Status::Up
    }

    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().flatten().flatten()
    }

    /// Handlers at work under claims that are still good.
    pub fn works(&self) -> bool {
        let at_work = |run: &Run| run.stage == Stage::Runs && run.claim == Claim::Current;
        self.runs().any(at_work)
    }
}

// === impl Job ===

impl Job {
    pub const UNKNOWN: Self = Self {
        phase: Phase::Unknown,
        attempt: 0,
        releases: 0,
        crashes: 0,
        alone: false,
        owner: None,
        failures: 0,
    };

    pub fn belongs_to(&self, process: usize) -> bool {
        self.owner.is_some_and(|o| o.process == process && !o.gone)
    }
}

// === impl Run ===

impl Run {
    /// All that is left of a run whose claim is not the job's any more: an outcome that may still come.
    pub const STALE: Self = Self {
        stage: Stage::Over(Outcome::Complete),
        claim: Claim::Stale,
        suspect: false,
    };
}

// === impl State ===

impl State {
    pub const INITIAL: Self = Self {
        jobs: [Job::UNKNOWN; MOST_JOBS],
        processes: [Process::ABSENT; MOST_PROCESSES],
        away: false,
    };

    /// The claims of a job are good no more.
    pub fn void(&mut self, job: usize, which: Claim) {
        for process in &mut self.processes {
            for run in process.runs[job].iter_mut().flatten() {
                if run.claim == which {
                    *run = Run::STALE;
                }
            }
        }
    }

    /// Puts the runs of each job in an order, so that the same ones look the same. Two that are stale have the
    /// future of one.
    pub fn tidy(&mut self) {
        for process in &mut self.processes {
            for [first, second] in &mut process.runs {
                if run_number(*first) < run_number(*second) {
                    std::mem::swap(first, second);
                }
                if first == second {
                    *second = None;
                }
            }
        }
    }

    /// All that matters of it. Releases only count, and of crashes it only matters how they compare with the most.
    /// The jobs and processes come in this order.
    pub fn pack(&self, jobs: &[usize], processes: &[usize]) -> Key {
        let mut key = Key::default();
        let mut all = u64::from(self.away);
        for &job in jobs {
            let owner_is = |process| position(processes, process);
            all = all << 16 | self.jobs[job].number(owner_is);
        }
        key[0] = all;
        for (place, &process) in processes.iter().enumerate() {
            key[place + 1] = self.processes[process].number(jobs, processes);
        }
        key
    }

    /// With its jobs and processes in this order.
    pub fn renamed(&self, jobs: &[usize], processes: &[usize]) -> Self {
        let mut renamed = Self {
            away: self.away,
            ..Self::INITIAL
        };
        for (place, &job) in jobs.iter().enumerate() {
            renamed.jobs[place] = self.jobs[job];
            if let Some(owner) = &mut renamed.jobs[place].owner {
                owner.process = position(processes, owner.process);
            }
        }
        for (place, &process) in processes.iter().enumerate() {
            renamed.processes[place] = self.processes[process].renamed(jobs, processes);
        }
        renamed
    }
}

fn position(order: &[usize], wanted: usize) -> usize {
    let found = order.iter().position(|it| *it == wanted);
    found.expect("an order of all")
}

impl Job {
    fn number(&self, owner_is: impl Fn(usize) -> usize) -> u64 {
        let owner = match self.owner {
            None => 0,
            Some(owner) => 1 + owner_is(owner.process) as u64 * 2 + u64::from(owner.gone),
        };
        let numbers = [
            (self.phase as u64, 3),
            (u64::from(self.attempt), 3),
            (u64::from(self.failures), 3),
            (u64::from(self.crashes.min(MAX_CRASHES)), 2),
            (u64::from(self.alone), 1),
            (owner, 3),
        ];
        numbers.iter().fold(0, |all, (n, bits)| all << bits | n)
    }
}

impl Process {
    fn number(&self, jobs: &[usize], processes: &[usize]) -> u64 {
        let sent = match self.sent {
            None => 0,
            Some(sent) => 1 + position(jobs, sent.job) as u64 * 2 + u64::from(sent.old_id),
        };
        let mut number = self.status as u64;
        for flag in [self.row, self.marked, self.draining, self.quiet] {
            number = number << 1 | u64::from(flag);
        }
        for &other in processes {
            number = number << 1 | u64::from(self.seen_still[other]);
        }
        number = number << 3 | sent;
        for &job in jobs {
            for run in self.runs[job] {
                number = number << 6 | run_number(run);
            }
        }
        number
    }

    fn renamed(&self, jobs: &[usize], processes: &[usize]) -> Self {
        let mut renamed = Self {
            seen_still: [false; MOST_PROCESSES],
            runs: [[None; RUNS]; MOST_JOBS],
            ..*self
        };
        for (place, &process) in processes.iter().enumerate() {
            renamed.seen_still[place] = self.seen_still[process];
        }
        for (place, &job) in jobs.iter().enumerate() {
            renamed.runs[place] = self.runs[job];
        }
        if let Some(sent) = &mut renamed.sent {
            sent.job = position(jobs, sent.job);
        }
        renamed
    }
}

/// 0 for none, below 64.
fn run_number(run: Option<Run>) -> u64 {
    let Some(run) = run else { return 0 };
    let stage = match run.stage {
        Stage::Unheard => 0,
        Stage::Reserved => 1,
        Stage::Runs => 2,
        Stage::Over(outcome) => 3 + outcome as u64,
    };
    1 + (run.claim as u64 * 6 + stage) * 2 + u64::from(run.suspect)
}

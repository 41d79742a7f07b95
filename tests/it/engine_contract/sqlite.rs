//! The contract on SQLite, and what is SQLite's own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Condvar, mpsc},
};

use futures_util::{FutureExt, future::join_all};
use lameduck::jobs::{
    engine::sqlite::{SqliteEngine, SqliteOptions},
    leftovers::RunningList,
};
use rustix::process::Pid;
use tempfile::TempDir;

use super::*;

mod time;

super::contract!(SqliteStore);

pub(super) struct SqliteStore {
    directory: TempDir,
    clock: TestClock,
    limits: Limits,
    boots: u32,
    opened: Mutex<Option<Arc<SqliteEngine>>>,
}

impl Store for SqliteStore {
    async fn with(limits: Limits) -> Self {
        Self {
            directory: a_directory(),
            clock: TestClock::new(),
            limits,
            boots: 1,
            opened: Mutex::new(None),
        }
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    async fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let options = SqliteOptions {
            clock: self.clock.as_clock(),
            ledger_rows: self.limits.ledger_rows,
            max_waiting: self.limits.max_waiting,
            max_bytes: self.limits.max_bytes,
            min_free: self.limits.min_free,
            max_crashes: self.limits.max_crashes,
            boot_id: Some(format!("boot-{}", self.boots)),
            ..SqliteOptions::default()
        };
        let engine = Arc::new(SqliteEngine::open(self.directory.path(), options)?);
        *self.opened.lock().unwrap() = Some(engine.clone());
        Ok(engine)
    }

    async fn close(&mut self, engine: Arc<dyn Engine>) {
        let opened = self.opened.get_mut().unwrap().take().unwrap();
        assert_eq!(opened.process(), engine.process());
        opened.close().await;
    }

    /// Goes on with what is on the disk while the engine still lives: nothing was closed, nothing folded in.
    async fn kill(&mut self, engine: Arc<dyn Engine>) {
        let after = a_directory();
        for file in ["lameduck.db", "lameduck.db-wal"] {
            // Not by this process: closing one of its descriptors on the file would drop SQLite's locks.
            let copied = Command::new("cp")
                .args([self.directory.path().join(file), after.path().join(file)])
                .status();
            assert!(copied.unwrap().success());
        }
        self.close(engine).await;
        self.directory = after;
    }

    fn reboot(&mut self) {
        self.boots += 1;
    }
}

/// In memory where that is possible: what the contract promises needs no disk.
fn a_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn open(directory: &Path) -> Result<SqliteEngine, EngineError> {
    SqliteEngine::open(directory, SqliteOptions::default())
}

/// A clock that holds the writer before a batch, so that a test can say what waits behind it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn shut(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }

    fn as_clock(&self) -> Clock {
        let gate = self.clone();
        Arc::new(move || {
            let (shut, changed) = &*gate.0;
            drop(changed.wait_while(shut.lock().unwrap(), |shut| *shut));
            Timestamp::now()
        })
    }
}

/// An engine on that clock.
fn open_behind(directory: &Path, gate: &Gate) -> SqliteEngine {
    let options = SqliteOptions {
        clock: gate.as_clock(),
        ..SqliteOptions::default()
    };
    SqliteEngine::open(directory, options).unwrap()
}

/// Submits each job by itself, all of them before the writer gets to the second.
async fn submit_together(
    engine: &SqliteEngine,
    gate: &Gate,
    jobs: Vec<NewJob>,
) -> Vec<Result<JobId, EngineError>> {
    gate.shut();
    let mut waiting: Vec<_> = jobs
        .into_iter()
        .map(|job| engine.submit(vec![job]))
        .collect();
    for submission in &mut waiting {
        assert!(submission.now_or_never().is_none());
    }
    gate.open();
    let answers = join_all(waiting).await;
    answers
        .into_iter()
        .map(|answer| answer.map(|jobs| jobs[0].as_ref().unwrap().id))
        .collect()
}

#[tokio::test]
async fn whatever_waits_shares_one_commit() {
    let (directory, gate) = (a_directory(), Gate::default());
    let engine = open_behind(directory.path(), &gate);

    let jobs = (0..100).map(|n| a_job(&n.to_string())).collect();
    let ids = submit_together(&engine, &gate, jobs).await;

    // At most two: for what the writer took up before it was held, and for all the rest.
    assert!(engine.commits() <= 2, "{} commits", engine.commits());
    assert_eq!(engine.commands(), 100);
    for id in ids {
        assert_eq!(state(&engine, id.unwrap()).await, State::Pending);
    }
}

#[tokio::test]
async fn a_command_that_fails_costs_its_neighbours_nothing() {
    // ABORT fails the command; ROLLBACK takes the whole transaction with it, as a full disk does.
    for how in ["ABORT", "ROLLBACK"] {
        let (directory, gate) = (a_directory(), Gate::default());
        let engine = open_behind(directory.path(), &gate);
        let database = rusqlite::Connection::open(directory.path().join("lameduck.db")).unwrap();
        let trigger = format!(
            "CREATE TRIGGER poison BEFORE INSERT ON jobs WHEN NEW.content_type = 'poison'
             BEGIN SELECT RAISE({how}, 'poisoned'); END"
        );
        database.execute_batch(&trigger).unwrap();
        let mut jobs: Vec<_> = (0..20).map(|n| a_job(&n.to_string())).collect();
        jobs[10].content_type = "poison".to_owned();

        let answers = submit_together(&engine, &gate, jobs).await;

        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_err(), n == 10, "{how}: {n} got {answer:?}");
        }
        let error = answers[10].as_ref().unwrap_err().to_string();
        assert!(error.contains("poisoned"), "{error}");
        assert_eq!(engine.queues().await.unwrap()[0].pending, 19);
    }
}

#[tokio::test]
async fn a_caller_that_went_away_leaves_no_job_running() {
    let (directory, gate) = (a_directory(), Gate::default());
    let engine = open_behind(directory.path(), &gate);
    let id = submit(&engine, a_job("x")).await;
    gate.shut();
    let mails = mail();
    let mut reservation = engine.reserve(&mails, Order::Priority, 1);
    assert!((&mut reservation).now_or_never().is_none());

    drop(reservation);
    gate.open();

    // Whether the writer had taken it up already or not: by process id it is found.
    engine.release_held(Duration::ZERO).await.unwrap();
    assert_eq!(state(&engine, id).await, State::Pending);
}

#[tokio::test]
async fn stale_outcomes_are_counted() {
    let directory = a_directory();
    let engine = open(directory.path()).unwrap();
    submit(&engine, a_job("x")).await;
    let old = reserve_one(&engine).await;
    engine.release_held(Duration::ZERO).await.unwrap();
    assert_eq!(engine.stale_settlements(), 0);

    settle(&engine, old.claim.settle(completed(""))).await;

    assert_eq!(engine.stale_settlements(), 1);
}

#[tokio::test]
async fn dropping_the_engine_frees_the_directory_and_leaves_one_file() {
    let directory = a_directory();
    let engine = open(directory.path()).unwrap();
    let id = submit(&engine, a_job("x")).await;

    drop(engine);

    assert!(!directory.path().join("lameduck.db-wal").exists());
    let engine = open(directory.path()).unwrap();
    assert_eq!(state(&engine, id).await, State::Pending);
}

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_lives() {
    let mut store = SqliteStore::start().await;
    let first = store.open().await.unwrap();

    let second = store.open().await;

    assert!(matches!(second.err(), Some(EngineError::InUse { .. })));
    // The first notices nothing, and what comes after it is welcome.
    submit(&*first, a_job("x")).await;
    store.close(first).await;
    store.open().await.unwrap();
}

// === what a dead predecessor left running ===

/// Runs for ever under a claim, in a group of its own; not longer than its test.
struct Sleeper(Child);

impl Sleeper {
    fn under(claim: &str) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").env("LAMEDUCK_CLAIM", claim);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.process_group(0).spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed()).unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_gets_the_directory_ends_what_is_in_the_list_of_its_predecessor() {
    let directory = a_directory();
    let first = open(directory.path()).unwrap();
    let list = RunningList::of(directory.path()).unwrap().unwrap();
    let mut orphan = Sleeper::under("contract-orphan");
    let mut other = Sleeper::under("contract-other");
    let mut listed = list.note("contract-orphan").unwrap();
    listed.started(orphan.pid()).unwrap();
    // As SIGKILL does: nobody takes it out of the list.
    std::mem::forget(listed);

    let refused = open(directory.path());
    let lived = orphan.is_alive();
    drop(first);
    let second = open(directory.path());

    assert!(matches!(refused, Err(EngineError::InUse { .. })));
    assert!(lived, "its owner was alive");
    second.unwrap();
    assert!(!orphan.is_alive(), "it is ended before a job is free");
    assert!(other.is_alive(), "it is not in the list");
}

// === files ===

#[tokio::test]
async fn what_is_made_is_nobody_elses_to_read() {
    let parent = a_directory();
    let directory = parent.path().join("a/b");

    let engine = open(&directory).unwrap();
    submit(&engine, a_job("secret")).await;

    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(directory.clone()), 0o700);
    assert_eq!(mode(directory.join("lameduck.db")), 0o600);
    assert_eq!(mode(directory.join("lameduck.db-wal")), 0o600);
}

fn refused(directory: &Path) -> String {
    let error = open(directory).expect_err("it should be refused");
    assert!(matches!(error, EngineError::Unusable { .. }), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains(&directory.display().to_string()),
        "{message}"
    );
    message
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let parent = a_directory();
    let path = parent.path().join("data");
    fs::write(&path, "").unwrap();

    let message = refused(&path);

    assert!(message.contains("name another directory"), "{message}");
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    // Nobody can write here, root included.
    let message = refused(Path::new("/proc/lameduck-cannot-be-made"));

    assert!(
        message.contains("preparing the data directory"),
        "{message}"
    );
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let directory = a_directory();
    fs::write(
        directory.path().join("lameduck.db"),
        "not a database ".repeat(500),
    )
    .unwrap();

    let message = refused(directory.path());

    assert!(message.contains("is not a database"), "{message}");
}

#[test]
fn a_damaged_database_is_refused() {
    let directory = a_directory();
    drop(open(directory.path()).unwrap());
    let file = directory.path().join("lameduck.db");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100..4096].fill(0xff);
    fs::write(&file, bytes).unwrap();

    let message = refused(directory.path());

    assert!(message.contains("is damaged"), "{message}");
    assert!(message.contains("restore a backup"), "{message}");
}

#[test]
fn the_database_of_another_program_is_refused_and_left_alone() {
    let directory = a_directory();
    let file = directory.path().join("lameduck.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    let before = fs::read(&file).unwrap();

    let message = refused(directory.path());

    assert!(message.contains("another program"), "{message}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_newer_schema_is_refused() {
    let directory = a_directory();
    drop(open(directory.path()).unwrap());
    let file = directory.path().join("lameduck.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    database.pragma_update(None, "user_version", 1000).unwrap();
    drop(database);

    let message = refused(directory.path());

    assert!(message.contains("newer version (schema 1000"), "{message}");
}

// === a real SIGKILL ===

const CHILD: &str = "engine_contract::sqlite::the_process_that_gets_killed";
const CHILD_DIRECTORY: &str = "LAMEDUCK_TEST_DIRECTORY";

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let mut ended = Vec::new();
    let mut read = |line: String| match line.split_once(' ') {
        Some(("submitted", id)) => acknowledged.push(id.parse::<JobId>().unwrap()),
        Some(("completed", id)) => ended.push(id.parse::<JobId>().unwrap()),
        _ => {}
    };
    for line in said.by_ref().take(500) {
        read(line.unwrap());
    }

    let in_use = open(directory.path());
    assert!(matches!(in_use, Err(EngineError::InUse { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    // Everything that it managed to say was durable before.
    said.map_while(Result::ok)
        .filter(|line| line.len() == "submitted ".len() + 36)
        .for_each(read);

    let engine = open(directory.path()).unwrap();
    assert!(!acknowledged.is_empty() && !ended.is_empty());
    for id in acknowledged {
        assert_ne!(state(&engine, id).await, State::Running);
    }
    for id in ended {
        assert_eq!(state(&engine, id).await, State::Completed);
    }
}

/// Not a test: submits and completes jobs until it is killed, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "what_was_acknowledged_survives_sigkill runs it as a process of its own"]
async fn the_process_that_gets_killed() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let engine = Arc::new(open(Path::new(&directory)).unwrap());
    let (say, said) = mpsc::channel::<String>();
    for _ in 0..20 {
        let (engine, say) = (engine.clone(), say.clone());
        tokio::spawn(async move {
            loop {
                let id = submit(&*engine, a_job("x")).await;
                say.send(format!("submitted {id}\n")).unwrap();
                for reserved in reserve(&*engine, 1).await {
                    let id = reserved.job.id;
                    settle(&*engine, reserved.claim.settle(completed(""))).await;
                    say.send(format!("completed {id}\n")).unwrap();
                }
            }
        });
    }
    for line in said {
        // One write for a line, so that none is cut in two; an error means that nobody listens any more.
        if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

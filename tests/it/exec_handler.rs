//! The exec handler with real processes: what it promises about their ends.

use std::{fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use lameduck::jobs::{
    handler::{Context, Handler, Retry, Verdict, exec::Exec},
    job::{Job, JobId},
};
use tempfile::TempDir;

/// Long enough that nobody waits for its end: whoever is still there when the test ends was left over.
const FOR_EVER: &str = "sleep 1000";

fn job(payload: impl Into<Bytes>) -> Job {
    Job {
        id: JobId::random(),
        queue: "mail".parse().unwrap(),
        attempt: 2,
        max_attempts: 5,
        payload: payload.into(),
        content_type: "text/plain".to_owned(),
        timeout: None,
        traceparent: None,
        run_at: Timestamp::now(),
        suspect: false,
    }
}

fn context() -> Context {
    Context::new("the-claim")
}

fn sh(script: &str) -> Exec {
    Exec::new(["sh", "-c", script].map(str::to_owned).to_vec())
}

async fn run(exec: &Exec) -> Verdict {
    exec.run(&job(""), context()).await
}

fn done(verdict: Verdict) -> String {
    match verdict {
        Verdict::Done { result } => String::from_utf8(result.to_vec()).unwrap(),
        other => panic!("it should be done: {other:?}"),
    }
}

fn error(verdict: Verdict) -> String {
    match verdict {
        Verdict::Failed { error, retry } => {
            assert_eq!(retry, Retry::Backoff);
            error
        }
        other => panic!("it should have failed: {other:?}"),
    }
}

/// Returns when the process is dead; a zombie is.
async fn until_dead(pid: &str) {
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    while let Ok(stat) = fs::read_to_string(&stat) {
        if stat.contains(") Z ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A command that runs, says so by a file, and goes on when its test has done something.
struct Running {
    directory: TempDir,
    context: Context,
    task: tokio::task::JoinHandle<Verdict>,
}

impl Running {
    /// Runs `script`, which writes into `$DIR/ready` once the test may go on.
    async fn start(script: &str, exec: impl FnOnce(Exec) -> Exec) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = format!("DIR={}\n{script}", directory.path().display());
        let (exec, context) = (exec(sh(&script)), context());
        let task = tokio::spawn({
            let context = context.clone();
            async move { exec.run(&job(""), context).await }
        });
        let this = Self {
            directory,
            context,
            task,
        };
        this.read("ready").await;
        this
    }

    /// Waits until the file has a whole line.
    async fn read(&self, file: &str) -> String {
        loop {
            let text = fs::read_to_string(self.directory.path().join(file)).unwrap_or_default();
            if text.ends_with('\n') {
                return text;
            }
            assert!(
                !self.task.is_finished(),
                "the command ended before it wrote {file}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn verdict(self) -> Verdict {
        self.task.await.unwrap()
    }
}

/// What becomes of a command that does `at_term` when it is told to stop.
async fn told_to_stop(at_term: &str, exec: impl FnOnce(Exec) -> Exec) -> Verdict {
    let script = format!("trap '{at_term}' TERM; {FOR_EVER} & echo > $DIR/ready; wait");
    let running = Running::start(&script, exec).await;
    running.context.stop.cancel();
    running.verdict().await
}

// === what goes in and comes out ===

#[tokio::test]
async fn the_payload_goes_in_and_the_output_is_the_result() {
    let job = job("hello, ");
    let exec = sh(
        "cat; echo $LAMEDUCK_JOB_ID $LAMEDUCK_QUEUE $LAMEDUCK_ATTEMPT $LAMEDUCK_CONTENT_TYPE $LAMEDUCK_CLAIM \
         ${PATH:+and the rest}",
    );

    let said = done(exec.run(&job, context()).await);

    let id = job.id;
    assert_eq!(
        said,
        format!("hello, {id} mail 2 text/plain the-claim and the rest\n")
    );
}

#[tokio::test]
async fn a_command_knows_how_many_attempts_it_has_and_by_when_it_is_told_to_stop() {
    let exec =
        sh("echo $LAMEDUCK_MAX_ATTEMPTS ${LAMEDUCK_DEADLINE:-never} ${TRACEPARENT:-no trace}");
    let mut job = job("");

    assert_eq!(done(exec.run(&job, context()).await), "5 never no trace\n");

    job.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let mut context = context();
    let now = Timestamp::now();
    context.timeout_at = Some(tokio::time::Instant::now() + Duration::from_secs(60));
    let said = done(exec.run(&job, context).await);
    let words: Vec<_> = said.split_whitespace().collect();
    let deadline: Timestamp = words[1].parse().unwrap();
    // Told to the millisecond.
    let away = deadline.duration_since(now).as_millis();
    assert!((59_999..65_000).contains(&away), "{said}");
    assert!(words[1].ends_with('Z'), "{said}");
    assert_eq!(Some(words[2]), job.traceparent.as_deref());
}

#[tokio::test]
async fn a_failure_tells_its_status_and_what_the_command_said_last() {
    assert_eq!(
        error(run(&sh("echo no such user >&2; exit 3")).await),
        "the command ended with exit status 3: no such user"
    );
    assert_eq!(
        error(run(&sh("exit 75")).await),
        "the command ended with exit status 75"
    );
    assert_eq!(
        error(run(&sh("kill -15 $$")).await),
        "the command was killed by signal 15"
    );
    let killed = error(run(&sh("kill -9 $$")).await);
    assert!(killed.contains("memory limit"), "{killed}");
}

#[tokio::test]
async fn nobody_has_to_read_the_payload() {
    let payload = vec![b'x'; 1 << 20];
    for script in ["exit 0", "exec <&-; echo closed; exit 0"] {
        done(sh(script).run(&job(payload.clone()), context()).await);
    }
}

#[tokio::test]
async fn a_long_output_is_read_to_its_end_and_kept_in_part() {
    let exec = sh(
        "head -c 10000000 /dev/zero | tr '\\0' o; head -c 10000000 /dev/zero | tr '\\0' e >&2; echo end >&2
         test ! -s /dev/stdin",
    );

    let result = done(run(&exec).await);

    assert_eq!(result, "o".repeat(64 << 10));
    let failing = sh("head -c 10000000 /dev/zero | tr '\\0' e >&2; echo end >&2; exit 1");
    let error = error(run(&failing.error_limit(10)).await);
    assert_eq!(error, "the command ended with exit status 1: …eeeeeeend");
}

// === told to stop, and cut ===

#[tokio::test]
async fn after_sigterm_an_end_is_a_release_and_no_failure() {
    for at_term in ["exit 75", "exit 1", "exit 0", "trap - TERM; kill -TERM $$"] {
        let verdict = told_to_stop(at_term, |exec| exec).await;
        assert_eq!(verdict, Verdict::Released, "{at_term}");
    }
}

#[tokio::test]
async fn exit_0_after_sigterm_is_done_only_where_the_operator_says_so() {
    let done_at_zero = |exec: Exec| exec.zero_after_stop_is_done(true);

    assert_eq!(
        done(told_to_stop("echo ready; exit 0", done_at_zero).await),
        "ready\n"
    );
    assert_eq!(
        told_to_stop("exit 1", done_at_zero).await,
        Verdict::Released
    );
}

#[tokio::test]
async fn a_command_that_minds_no_sigterm_is_told_once_and_then_cut() {
    let script = format!(
        "trap 'echo told >> $DIR/leader' TERM
         {FOR_EVER} & echo $! > $DIR/child
         (trap '' TERM; exec {FOR_EVER}) & echo > $DIR/ready
         while true; do wait; done"
    );
    let running = Running::start(&script, |exec| exec).await;

    running.context.stop.cancel();
    running.read("leader").await;
    // Its group was told, too.
    until_dead(&running.read("child").await).await;
    assert!(!running.task.is_finished());
    running.context.cut.cancel();

    assert_eq!(running.task.await.unwrap(), Verdict::Released);
    let told = fs::read_to_string(running.directory.path().join("leader")).unwrap();
    assert_eq!(told, "told\n");
}

#[tokio::test]
async fn a_cut_kills_the_whole_group() {
    let script = format!(
        "trap '' TERM; {FOR_EVER} & echo $! > $DIR/child; sh -c 'echo $$ > '$DIR'/grandchild; {FOR_EVER}' &
         echo > $DIR/ready; wait"
    );
    let running = Running::start(&script, |exec| exec).await;
    let (child, grandchild) = (
        running.read("child").await,
        running.read("grandchild").await,
    );

    running.context.cut.cancel();

    assert_eq!(running.verdict().await, Verdict::Released);
    until_dead(&child).await;
    until_dead(&grandchild).await;
}

#[tokio::test]
async fn nothing_is_started_when_it_is_time_to_stop() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("started");
    let exec = sh(&format!("echo > {}", file.display()));
    let context = context();
    context.stop.cancel();

    assert_eq!(exec.run(&job(""), context).await, Verdict::Released);

    assert!(!file.exists());
}

#[tokio::test]
async fn a_run_that_is_dropped_is_killed() {
    let script = format!("{FOR_EVER} & echo $! > $DIR/child; echo > $DIR/ready; wait");
    let running = Running::start(&script, |exec| exec).await;
    let child = running.read("child").await;

    running.task.abort();

    assert!(running.task.await.unwrap_err().is_cancelled());
    until_dead(&child).await;
}

// === what is left behind ===

#[tokio::test]
async fn what_a_finished_command_left_running_is_killed() {
    // It holds stdout and stdin open, and minds no SIGTERM.
    let exec = sh(&format!("trap '' TERM; {FOR_EVER} & echo $!")).output_grace(Duration::MAX);

    let left = done(run(&exec).await);

    until_dead(&left).await;
}

#[tokio::test]
async fn who_leaves_the_group_escapes_but_does_not_hold_up_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("escaped");
    let file = file.display();
    // It stays until the other is in a group of its own.
    let exec = sh(&format!(
        "setsid sh -c 'echo $$ > {file}; exec {FOR_EVER}' & until test -s {file}; do :; done; cat {file}"
    ));

    let escaped = done(run(&exec.output_grace(Duration::from_millis(50))).await);

    let pid = rustix::process::Pid::from_raw(escaped.trim().parse().unwrap()).unwrap();
    assert!(
        rustix::process::test_kill_process(pid).is_ok(),
        "it escapes, as documented"
    );
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until_dead(&escaped).await;
}

#[tokio::test]
async fn what_is_ours_to_reap_is_reaped() {
    // As PID 1 we would adopt what a command leaves behind; a subreaper does so too.
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).unwrap();

    let left = done(run(&sh(&format!("{FOR_EVER} & echo $!"))).await);

    // Not even a zombie.
    let process = PathBuf::from(format!("/proc/{}", left.trim()));
    while process.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rustix::process::set_child_subreaper(None).unwrap();
}

#[tokio::test]
async fn orphans_of_commands_are_reaped_and_nobody_elses_child() {
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).unwrap();
    // Somebody else's, who asks for it late.
    let mut other = std::process::Command::new("sh")
        .args(["-c", "exit 7"])
        .spawn()
        .unwrap();

    let left = done(
        run(&sh(
            "setsid -f sh -c 'echo $$'; (timeout 9 sh -c 'echo $$') & wait",
        ))
        .await,
    );

    for pid in left.split_whitespace() {
        let process = PathBuf::from(format!("/proc/{pid}"));
        while process.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(other.wait().unwrap().code(), Some(7));
    rustix::process::set_child_subreaper(None).unwrap();
}

#[tokio::test]
async fn the_whole_payload_is_there_before_the_command_begins() {
    // A pipe would say 0, and end early for a command that outlives its service.
    let exec = sh("stat -Lc %s /dev/stdin; wc -c; echo x >&0 || echo sealed");
    let payload = vec![b'x'; 900_000];

    let said = done(exec.run(&job(payload), context()).await);

    assert_eq!(said, "900000\n900000\nsealed\n");
}

#[tokio::test]
async fn a_program_that_can_not_be_started_costs_no_attempt_and_is_missed_beforehand() {
    for (program, remedy) in [
        ("/nowhere/at-all", "is it in the image, and on PATH?"),
        ("no-such-command", "is it in the image, and on PATH?"),
        ("/etc/passwd", "is it executable for user"),
    ] {
        let verdict = run(&Exec::new(vec![program.to_owned()])).await;

        let Verdict::Postponed { error, wait } = verdict else {
            panic!("{verdict:?}");
        };
        assert!(error.contains(program) && error.contains(remedy), "{error}");
        assert!(wait >= Duration::from_secs(5), "{wait:?}");
    }
    let missing = |program: &str| Exec::new(vec![program.to_owned()]).missing();
    assert!(missing("/nowhere/at-all").is_some());
    assert!(
        missing("no-such-command")
            .unwrap()
            .contains("'no-such-command'")
    );
    assert_eq!((missing("sh"), missing("/bin/sh")), (None, None));

    let none = postponed(run(&Exec::new(vec![])).await);
    assert!(none.contains("no command is configured"), "{none}");
}

/// Why a job was postponed.
fn postponed(verdict: Verdict) -> String {
    match verdict {
        Verdict::Postponed { error, .. } => error,
        other => panic!("it should have been postponed: {other:?}"),
    }
}

/// An executable file that no fork of this process can hold open for writing.
fn program(directory: &TempDir, content: &[u8]) -> String {
    let (from, to) = (
        directory.path().join("content"),
        directory.path().join("program"),
    );
    fs::write(&from, content).unwrap();
    let installed = std::process::Command::new("install")
        .arg("-m755")
        .args([&from, &to])
        .status();
    assert!(installed.unwrap().success());
    to.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn whatever_stops_a_command_from_being_started_costs_no_attempt_and_is_named() {
    let mut foreign = vec![0; 64];
    foreign[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    foreign[16] = 2;
    // s390x, which nobody emulates here.
    foreign[18] = 22;
    for (content, words) in [
        (foreign.as_slice(), "is built for s390x"),
        (b"echo hello\n", "a script without a '#!' line"),
        (b"", "is empty"),
        (
            b"#!/opt/none/python3\n",
            "needs the interpreter '/opt/none/python3'",
        ),
        (b"#!/bin/sh\r\n", "CR LF"),
        (
            b"#!/etc/passwd\n",
            "'/etc/passwd' by its '#!' line, which has no permission",
        ),
        // These start an interpreter, which does not find what it is to run.
        (
            b"#!/usr/bin/env no-such-python\n",
            "needs the interpreter 'no-such-python'",
        ),
        (b"#!/usr/bin/env sh\r\n", "CR LF"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let program = program(&directory, content);
        let exec = Exec::new(vec![program.clone()]);

        let said = postponed(run(&exec).await);

        assert!(said.contains(words), "{words}: {said}");
        assert!(said.contains(&program), "{said}");
        let missing = exec.missing().unwrap();
        assert!(missing.contains(words), "{words}: {missing}");
    }
}

#[tokio::test]
async fn a_program_that_is_being_written_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let program = program(&directory, &fs::read("/bin/true").unwrap());
    let writer = fs::OpenOptions::new().append(true).open(&program).unwrap();
    let exec = Exec::new(vec![program]);

    let verdict = run(&exec).await;

    let Verdict::Postponed { error, wait } = verdict else {
        panic!("{verdict:?}");
    };
    assert!(error.contains("somebody is writing to it"), "{error}");
    assert!(wait < Duration::from_secs(2), "{wait:?}");
    drop(writer);
    // A fork of another test may hold it a moment longer.
    while !matches!(run(&exec).await, Verdict::Done { .. }) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn links_in_a_circle_and_directories_cost_no_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    for (path, words) in [
        (link.as_path(), "Too many levels of symbolic links"),
        (directory.path(), "is a directory"),
    ] {
        let path = path.to_str().unwrap().to_owned();
        let said = postponed(run(&Exec::new(vec![path])).await);
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test]
async fn exit_127_of_a_program_that_is_there_is_its_failure() {
    assert_eq!(
        error(run(&sh("exit 127")).await),
        "the command ended with exit status 127"
    );
    let said = error(run(&sh("no-such-command")).await);
    assert!(said.contains("exit status 127"), "{said}");
}

#[tokio::test]
async fn what_the_submitter_chose_and_no_environment_can_hold_is_the_jobs_own_fault() {
    let (mut long, mut nul, mut trace) = (job(""), job(""), job(""));
    long.content_type = "x".repeat(200_000);
    nul.content_type = "text/plain\0".to_owned();
    trace.traceparent = Some("0".repeat(200_000));
    for (job, words) in [
        (long, "200000 bytes, do not fit"),
        (nul, "content type contains a NUL"),
        (trace, "do not fit"),
    ] {
        let verdict = sh("true").run(&job, context()).await;

        let Verdict::Failed { error, retry } = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(retry, Retry::Never);
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn arguments_that_are_too_long_are_the_operators() {
    let exec = Exec::new(vec!["true".to_owned(), "x".repeat(200_000)]);

    let said = postponed(run(&exec).await);

    assert!(said.contains("a quarter of the stack's limit"), "{said}");
}

#[tokio::test]
async fn the_services_secrets_are_not_its_commands() {
    // The tests' own environment is nobody else's: nothing is set here, only looked for.
    let listed = done(run(&sh("env | cut -d= -f1")).await);

    assert!(listed.lines().any(|name| name == "PATH"));
    assert!(!listed.lines().any(|name| name == "LAMEDUCK_DATABASE"));
}

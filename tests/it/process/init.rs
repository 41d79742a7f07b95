//! The program as PID 1 of a namespace of process ids, as it is in a container: it reaps whatever it adopts, as `tini`
//! does, and takes nobody's exit status.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::harness::{Exit, Place, Process, output, pid, until, write};

/// Leaves the group in every way there is, and ends at once.
const LEAVES_ORPHANS: &str = r#"
setsid -f true
setsid sh -c 'sh -c "sleep 0.05" &'
setsid -f sh -c 'sleep 0.2; setsid -f true'
timeout 10 sh -c 'sleep 0.05 &'
(sleep 0.05 &)
"#;

/// A process in a namespace of its own, in which it is PID 1.
struct Init {
    outer: Process,
    /// As it is called out here.
    inner: Pid,
}

impl Init {
    async fn start(command: Command) -> Self {
        let outer = Process::start(in_a_namespace(&[], &command)).await;
        let inner = only_child(outer.pid()).await;
        Self { outer, inner }
    }

    async fn terminate(self) -> Exit {
        let since = Instant::now();
        kill_process(self.inner, Signal::TERM).unwrap();
        self.outer.exit(since).await
    }
}

/// The same command as PID 1, behind `before`.
fn in_a_namespace(before: &[&str], command: &Command) -> Command {
    let command = command.as_std();
    let mut wrapped = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        wrapped.args(["--user", "--map-root-user"]);
    }
    wrapped
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        .args(before)
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped
}

async fn only_child(of: Pid) -> Pid {
    let of = of.as_raw_nonzero();
    until("a child", async || {
        let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    })
    .await
}

/// The children of this process: process id, and whether it is a zombie.
fn children(of: Pid) -> Vec<(i32, bool)> {
    let of = of.as_raw_nonzero().to_string();
    let child = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        (fields.next()? == of).then_some((pid, state == "Z"))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(child).collect()
}

async fn until_without_children(of: Pid) {
    until("neither orphans nor zombies", async || {
        children(of).is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_handlers_leave_behind_is_reaped() {
    let place = Place::new(LEAVES_ORPHANS);
    let init = Init::start(place.command_with_handler(&["--workers", "8"])).await;

    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(init.outer.submit(&n.to_string()).await);
    }
    for id in &ids {
        let job = init.outer.completed(id).await;
        assert_eq!(job["attempt"], 1, "{job}");
    }

    until_without_children(init.inner).await;
    init.terminate().await.assert_clean();
}

#[tokio::test]
async fn an_orphan_goes_on_after_its_job_and_is_reaped_when_it_ends() {
    let place = Place::new(
        r#"setsid -f sh -c 'until [ -e "$PLACE/go" ]; do sleep 0.02; done' > /dev/null 2>&1"#,
    );
    let init = Init::start(place.command_with_handler(&[])).await;
    let id = init.outer.submit("a daemon").await;
    init.outer.completed(&id).await;

    // The end of its job is not its own.
    let orphans = children(init.inner);
    assert!(matches!(orphans[..], [(_, false)]), "{orphans:?}");
    place.touch("go");

    until_without_children(init.inner).await;
    init.terminate().await.assert_clean();
}

#[tokio::test]
async fn orphans_that_are_left_when_the_drain_ends_end_with_it() {
    let place = Place::new("setsid -f sleep 1000 > /dev/null 2>&1");
    let init = Init::start(place.command_with_handler(&[])).await;
    let id = init.outer.submit("a daemon").await;
    init.outer.completed(&id).await;

    init.terminate().await.assert_clean();

    until("an empty namespace", async || {
        place.living().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_limit_on_processes_is_not_used_up_by_what_has_ended() {
    if !rustix::process::geteuid().is_root() {
        return; // The limit holds for users other than root, and only root becomes one.
    }
    let place = Place::new("setsid -f true");
    fs::set_permissions(place.path("."), fs::Permissions::from_mode(0o777)).unwrap();
    // A user with no other process; a zombie counts as one.
    let limited = [
        "setpriv",
        "--reuid=54321",
        "--regid=54321",
        "--clear-groups",
        "prlimit",
        "--nproc=64",
    ];
    let command = place.command_with_handler(&["--workers", "4"]);
    let process = Process::start(in_a_namespace(&limited, &command)).await;
    let inner = only_child(process.pid()).await;

    // Many times more than the limit lets be.
    for _ in 0..10 {
        let mut ids = Vec::new();
        for n in 0..20 {
            ids.push(process.submit(&n.to_string()).await);
        }
        for id in &ids {
            let job = process.completed(id).await;
            assert_eq!(job["attempt"], 1, "{job}");
        }
    }

    until_without_children(inner).await;
    let since = Instant::now();
    kill_process(inner, Signal::TERM).unwrap();
    process.exit(since).await.assert_clean();
}

#[tokio::test]
async fn the_exit_status_of_a_hook_is_its_own() {
    let place = Place::new(LEAVES_ORPHANS);
    let hooks: String = (0..8)
        .map(|n| {
            format!(
                "[[teardown-hook]]\nname = 'hook-{n}'\nrun = \"sh -c 'setsid -f true; sleep 0.0{n}; exit {n}'\"\n"
            )
        })
        .collect();
    write(&place.path("lameduck.toml"), &hooks);
    let config = place.path("lameduck.toml");
    let init =
        Init::start(place.command_with_handler(&["--config", config.to_str().unwrap()])).await;
    // Their orphans end while the hooks run.
    for n in 0..8 {
        init.outer.submit(&n.to_string()).await;
    }

    let exit = init.terminate().await;

    let hooks = exit.report()["hooks"].as_array().unwrap().clone();
    assert_eq!(hooks.len(), 8, "{hooks:?}");
    for hook in hooks {
        let name = hook["name"].as_str().unwrap();
        let error = hook["error"].as_str();
        match name.strip_prefix("hook-").unwrap() {
            "0" => assert_eq!(error, None, "{hook}"),
            n => {
                let expected = format!("ended with exit status: {n}");
                assert!(error.unwrap().contains(&expected), "{hook}");
            }
        }
    }
}

/// What `kubectl exec` and exec probes leave behind.
async fn orphans_from_outside(of: Pid) {
    let target = of.as_raw_nonzero().to_string();
    let mut exec = Command::new("nsenter");
    exec.args(["--target", &target, "--pid", "--mount", "sh", "-c"]);
    exec.arg(format!("for n in $(seq 50); do\n{LEAVES_ORPHANS}\ndone"));
    exec.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (status, said) = output(exec).await;
    assert_eq!(status, Some(0), "{said}");
}

#[tokio::test]
async fn what_others_in_the_container_leave_behind_is_reaped_as_tini_does() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root enters another's namespace.
    }
    let mut sleep = Command::new("tini");
    sleep.args(["--", "sleep", "1000"]).env_clear();
    sleep.env("PATH", std::env::var_os("PATH").unwrap());
    let mut unshare = in_a_namespace(&[], &sleep);
    let mut unshare = unshare
        .spawn()
        .expect("tini is among the packages in .ci/packages");
    let tini = only_child(pid(&unshare)).await;
    // Its own one.
    only_child(tini).await;
    orphans_from_outside(tini).await;
    until("tini to have one child alone", async || {
        matches!(children(tini)[..], [(_, false)]).then_some(())
    })
    .await;
    unshare.kill().await.unwrap();

    let place = Place::new("true");
    let init = Init::start(place.command_with_handler(&[])).await;
    orphans_from_outside(init.inner).await;
    until_without_children(init.inner).await;
    init.terminate().await.assert_clean();
}

#[tokio::test]
async fn without_a_proc_of_its_own_it_reaps_when_nothing_runs() {
    let place = Place::new(LEAVES_ORPHANS);
    // `/proc` shows another namespace, whose numbers mean others here.
    let command = place.command_with_handler(&["--workers", "4"]);
    let mut command = in_a_namespace(&[], &command).into_std();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = std::process::Command::new("unshare");
    command
        .args(arguments.iter().filter(|word| *word != "--mount-proc"))
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    let process = Process::start(command).await;
    let inner = only_child(process.pid()).await;

    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(process.submit(&n.to_string()).await);
    }
    for id in &ids {
        process.completed(id).await;
    }

    until_without_children(inner).await;
    let since = Instant::now();
    kill_process(inner, Signal::TERM).unwrap();
    process.exit(since).await.assert_clean();
}

#[tokio::test]
async fn elsewhere_it_is_a_subreaper() {
    let place = Place::new("setsid -f sleep 1000 > /dev/null 2>&1");
    let process = place.start(&[]).await;
    let id = process.submit("a daemon").await;
    process.completed(&id).await;

    let adopted = until("an adopted orphan", async || {
        let adopted = children(process.pid());
        adopted.first().map(|(pid, _)| *pid)
    })
    .await;
    kill_process(Pid::from_raw(adopted).unwrap(), Signal::KILL).unwrap();

    until_without_children(process.pid()).await;
    let exit = process.terminate().await;
    exit.assert_clean();
    assert!(exit.took < Duration::from_secs(20), "{:?}", exit.took);
}

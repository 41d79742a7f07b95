//! What commands leave behind: ended by the next start where their process was killed, otherwise nobody's hurdle.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, test_kill_process};

use super::harness::{Place, until};

/// Says so where one of its own kind lives beside it; leaves somebody in a session of his own; and runs until the
/// test lets it end.
const LEAVES_SOMEBODY: &str = r#"
for other in $(cat "$PLACE/pids" 2>/dev/null); do
  grep -q '^State:.[^ZX]' "/proc/$other/status" 2>/dev/null && note beside
done
echo $$ >> "$PLACE/pids"
setsid sh -c 'echo $$ >> "$PLACE/pids"; echo > "$PLACE/escaped"; exec sleep 1000' > /dev/null 2>&1 &
until [ -e "$PLACE/escaped" ]; do sleep 0.02; done
note ready
until [ -e "$PLACE/go" ]; do sleep 0.02; done
"#;

/// Forks twice, and keeps all three pipes open.
const DAEMONISES: &str = r#"
setsid sh -c 'sh -c "echo \$\$ > $PLACE/daemon; exec sleep 1000" &'
until [ -s "$PLACE/daemon" ]; do sleep 0.02; done
"#;

#[tokio::test]
async fn what_a_killed_process_left_running_is_ended_before_its_job_runs_again() {
    let place = Place::new(LEAVES_SOMEBODY);
    let first = place.start(&[]).await;
    let id = first.submit("once at a time").await;
    place.noted("ready", 1).await;

    first.kill().await;

    let orphans = place.living();
    assert!(orphans.len() >= 2, "they should live on: {orphans:?}");
    let second = place.start(&[]).await;
    let said =
        "ended what the process before this one left running, so that its jobs can run again";
    let said = second.log().line(said, |_| true).await;
    assert_eq!(said["commands"], 1, "{said}");
    place.noted("ready", 2).await;
    let living = place.living();
    assert!(
        orphans.iter().all(|orphan| !living.contains(orphan)),
        "{orphans:?} {living:?}"
    );
    place.touch("go");
    second.completed(&id).await;
    second.terminate().await.assert_clean();
    let outside: Vec<_> = place.outside().into_iter().map(|line| line.what).collect();
    assert_eq!(outside, ["begin", "ready", "begin", "ready", "end"]);
    assert_eq!(listed(&place), 0);
}

#[tokio::test]
async fn a_daemon_that_a_command_left_behind_holds_up_nothing_and_is_left_alone() {
    let place = Place::new(DAEMONISES);
    let since = Instant::now();
    let first = place.start(&[]).await;
    let id = first.submit("a daemon").await;
    first.completed(&id).await;
    first.terminate().await.assert_clean();

    let second = place.start(&[]).await;
    second.kill().await;
    let third = place.start(&[]).await;

    assert!(
        is_there(&daemon(&place)),
        "its job had ended: it is no leftover"
    );
    third.terminate().await.assert_clean();
    assert!(
        since.elapsed() < Duration::from_secs(15),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn the_list_holds_who_runs_and_nobody_else() {
    let place = Place::new(r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#);
    let process = place.start(&[]).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(process.submit(&n.to_string()).await);
    }
    place.noted("begin", 3).await;

    assert_eq!(listed(&place), 3);

    place.touch("go");
    for id in &ids {
        process.completed(id).await;
    }
    until("an empty list", async || {
        (listed(&place) == 0).then_some(())
    })
    .await;
}

fn listed(place: &Place) -> usize {
    fs::read_dir(place.path("data/running")).unwrap().count()
}

fn daemon(place: &Place) -> Pid {
    let pid = fs::read_to_string(place.path("daemon")).unwrap();
    Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
}

fn is_there(pid: &Pid) -> bool {
    test_kill_process(*pid).is_ok()
}

//! Disks that fill up, can't be written or hold something else than they did; clocks that go back.
//!
//! What was acknowledged must be there when the disk is well again, and until then the message must say which
//! file it is and what to do.

use std::{
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use super::harness::{Place, Process, output, until};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

/// A file system of its own under the data directory; gone with this.
struct Volume(PathBuf);

/// Whatever else lies on the volume.
struct Ballast(PathBuf);

// === impl Volume ===

impl Volume {
    /// `None` where mounting is not allowed.
    fn mount(place: &Place, size: &str) -> Option<Self> {
        let path = place.path("data");
        fs::create_dir(&path).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &options, "lameduck"], &path);
        if !mounted {
            println!("SKIPPED: a full disk takes a file system of its own, and root to mount it");
        }
        mounted.then_some(Self(path))
    }

    fn set_read_only(&self) {
        assert!(run("mount", &["-o", "remount,ro"], &self.0));
    }

    /// Leaves this much.
    fn fill(&self, left: u64) -> Ballast {
        let ballast = self.0.join("ballast");
        let mut file = File::create(&ballast).unwrap();
        let piece = vec![1; 4096];
        while self.free() > left && file.write_all(&piece).is_ok() {}
        Ballast(ballast)
    }

    fn free(&self) -> u64 {
        let volume = rustix::fs::statvfs(&self.0).unwrap();
        volume.f_bavail * volume.f_frsize
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily, since after a test that failed somebody may still be at work there.
        run("umount", &["--lazy"], &self.0);
    }
}

// === impl Ballast ===

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) -> bool {
    let mut command = Command::new(program);
    let output = command.args(arguments).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

/// Overwrites a part of the database.
fn damage(place: &Place, offset: u64, length: usize) {
    let mut file = OpenOptions::new()
        .write(true)
        .open(place.path("data/lameduck.db"))
        .unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(&vec![0xa5; length]).unwrap();
}

async fn submit_many(process: &Process, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(process.submit(&n.to_string()).await);
    }
    ids
}

/// The program does not start, and says why.
async fn refused(place: &Place, words: &[&str]) {
    let (status, said) = output(place.command_with_handler(&[])).await;
    assert_eq!(status, Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is missing: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_jobs_first_and_keeps_every_outcome() {
    let place = Place::new(GATED);
    let Some(volume) = Volume::mount(&place, "80m") else {
        return;
    };
    let process = place.start(&["--workers", "8"]).await;
    let ids = submit_many(&process, 60).await;
    place.noted("begin", 8).await;

    // Little is left: no more jobs, but outcomes.
    let ballast = volume.fill(8 << 20);
    let refusal = process.post("one more", &[]).await.problem(503);
    assert!(refusal.contains("bytes left"), "{refusal}");

    // Nothing is left: outcomes wait.
    drop(ballast);
    let ballast = volume.fill(0);
    place.touch("go");
    place.noted("end", 8).await;
    let said = process
        .log()
        .line("the queue could not be written", |line| {
            let error = line["error"].as_str().unwrap();
            error.contains("lameduck.db") && error.contains("free some space or enlarge the volume")
        });
    said.await;
    assert_eq!(process.admin("/livez").await.status, 200);

    // Room again, and nobody has to be told.
    drop(ballast);
    for id in &ids {
        let job = process.completed(id).await;
        assert_eq!(job["attempt"], 1, "{job}");
    }
    let more = process.submit("one more").await;
    process.completed(&more).await;
    process.terminate().await.assert_clean();
    for (id, lines) in place.outside_by_job() {
        let begun = lines.iter().filter(|line| line.what == "begin").count();
        assert_eq!(begun, 1, "{id} ran again: {lines:#?}");
    }
}

#[tokio::test]
async fn on_a_full_disk_it_does_not_start_and_says_so_and_once_there_is_room_goes_on() {
    let place = Place::new(GATED);
    let Some(volume) = Volume::mount(&place, "80m") else {
        return;
    };
    // Drained and not killed: the log of a killed process would still have room in its file.
    let process = place.start(&["--grace", "1s"]).await;
    let ids = submit_many(&process, 30).await;
    process.terminate().await;
    place.kill_living().await;
    let ballast = volume.fill(0);

    refused(
        &place,
        &["lameduck.db", "free some space or enlarge the volume"],
    )
    .await;

    drop(ballast);
    place.touch("go");
    let process = place.start(&[]).await;
    for id in &ids {
        process.completed(id).await;
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_before_a_drain_leaves_the_jobs_to_the_next_start() {
    let place = Place::new(GATED);
    let Some(volume) = Volume::mount(&place, "80m") else {
        return;
    };
    let process = place.start(&["--workers", "4", "--grace", "4s"]).await;
    let ids = submit_many(&process, 20).await;
    place.noted("begin", 4).await;
    let ballast = volume.fill(0);

    let exit = process.terminate().await;

    assert!(exit.took.as_secs() < 4, "{:?}", exit.took);
    drop(ballast);
    place.kill_living().await;
    place.touch("go");
    let process = place.start(&[]).await;
    for id in &ids {
        process.completed(id).await;
    }
}

#[tokio::test]
async fn a_read_only_volume_is_refused() {
    let place = Place::new("");
    let Some(volume) = Volume::mount(&place, "80m") else {
        return;
    };
    volume.set_read_only();

    refused(&place, &["data", "read-only", "mount a writable volume"]).await;
}

#[tokio::test]
async fn a_destroyed_header_is_refused_and_the_file_left_as_it_is() {
    let place = Place::new("");
    let process = place.start(&[]).await;
    submit_many(&process, 5).await;
    process.terminate().await;
    damage(&place, 0, 100);
    let before = fs::read(place.path("data/lameduck.db")).unwrap();

    refused(
        &place,
        &["lameduck.db", "is not a database", "move it away"],
    )
    .await;

    assert_eq!(fs::read(place.path("data/lameduck.db")).unwrap(), before);
}

#[tokio::test]
async fn a_volume_with_less_room_than_is_kept_free_is_told_of_at_the_start_and_counted() {
    let place = Place::new("");
    let process = place.start(&["--min-free-disk", "100000TiB"]).await;
    let log = process.log().clone();

    let said = "jobs are refused";
    log.any("every job is refused as it is").await;
    for _ in 0..3 {
        process.post("x", &[]).await.problem(503);
    }
    let line = log.any(said).await;

    assert_eq!(line["reason"], "storage_full", "{line}");
    let refused = r#"lameduck_jobs_refused_total{reason="storage_full"}"#;
    assert_eq!(process.metric(refused).await, Some(3.0));
    let exit = process.terminate().await;
    assert_eq!(
        exit.text().matches("jobs are refused: ").count(),
        1,
        "{}",
        exit.text()
    );
}

#[tokio::test]
async fn a_database_that_is_damaged_in_the_middle_is_refused() {
    let place = Place::new("");
    let process = place.start(&[]).await;
    for id in submit_many(&process, 200).await {
        process.completed(&id).await;
    }
    process.terminate().await;
    let length = fs::metadata(place.path("data/lameduck.db")).unwrap().len();
    damage(&place, length / 8, usize::try_from(length / 2).unwrap());

    refused(&place, &["lameduck.db", "is damaged", "restore a backup"]).await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_loses_nothing_and_holds_up_no_job() {
    let libfaketime = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1",
        std::env::consts::ARCH
    );
    if !Path::new(&libfaketime).exists() {
        println!("SKIPPED: it takes Debian's package faketime");
        return;
    }
    let place = Place::new(GATED);
    let process = place.start(&["--workers", "2"]).await;
    let ids = submit_many(&process, 6).await;
    place.noted("begin", 2).await;
    process.kill().await;
    place.kill_living().await;
    place.touch("go");

    let mut command = place.command_with_handler(&[]);
    // Shorter than completed jobs are kept, or these would outlive that when the clock comes back.
    command
        .env("LD_PRELOAD", libfaketime)
        .env("FAKETIME", "-30m");
    let process = Process::start(command).await;

    // What comes now, what had begun and what waited: all of it runs now.
    let new = process.submit("new").await;
    process.completed(&new).await;
    for id in &ids {
        process.completed(id).await;
    }
    process.terminate().await.assert_clean();
    let process = place.start(&[]).await;
    for id in &ids {
        process.completed(id).await;
    }
}

#[tokio::test]
async fn a_backlog_of_ten_thousand_is_no_matter_at_a_start() {
    let place = Place::new(GATED);
    let process = place.start(&["--workers", "1"]).await;
    let first = process.submit("0").await;
    process.kill().await;
    place.kill_living().await;
    multiply(&place, 10_000);

    let since = Instant::now();
    let process = place.start(&["--workers", "1"]).await;
    println!("started in {:?} in front of 10,000 jobs", since.elapsed());

    until("the whole backlog in numbers", async || {
        let queue = process.get("/v1/queues").await.json()["queues"][0].clone();
        let known = queue["pending"].as_u64()? + queue["running"].as_u64()?;
        (known == 10_000).then_some(())
    })
    .await;
    assert_eq!(process.get(&format!("/v1/jobs/{first}")).await.status, 200);
    assert!(since.elapsed().as_secs() < 10);
}

/// As many of the one job that is there, past the program.
fn multiply(place: &Place, times: i64) {
    let database = rusqlite::Connection::open(place.path("data/lameduck.db")).unwrap();
    database
        .execute_batch(&format!(
            "BEGIN;
             CREATE TEMP TABLE one AS SELECT * FROM jobs;
             CREATE TEMP TABLE n AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {times} - 1)
                 SELECT n FROM n;
             INSERT INTO jobs (id, queue, state, priority, run_at, max_attempts, submitted_at, content_type)
                 SELECT randomblob(16), queue, 0, priority, run_at + n, max_attempts, submitted_at, content_type
                 FROM one, n;
             INSERT INTO payloads SELECT seq, x'30' FROM jobs WHERE seq NOT IN (SELECT seq FROM payloads);
             COMMIT"
        ))
        .unwrap();
}

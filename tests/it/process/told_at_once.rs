//! A SIGTERM that comes before there is anything to drain: it is taken, said, and no failure.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::fd::AsFd,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Signal, kill_process},
};
use tokio::process::{Child, Command};

use super::harness::{Log, Place, output, pid, until};

const NOTHING_TO_DRAIN: &str = "told to end before anything was begun; there is nothing to drain";

/// Waits until the program takes signals.
async fn takes_signals(child: &Child) {
    let tasks = format!("/proc/{}/task", pid(child).as_raw_nonzero());
    until("a thread that takes signals", async || {
        let threads = fs::read_dir(&tasks).ok()?.flatten();
        let mut names = threads.filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
        // The kernel keeps 15 characters of a name.
        names
            .any(|name| name.starts_with("lameduck-signal"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn while_the_configuration_is_read() {
    let place = Place::new("true");
    let fifo = place.path("lameduck.toml");
    let mut mkfifo = Command::new("mkfifo");
    mkfifo.arg(&fifo).stderr(Stdio::piped());
    assert_eq!(output(mkfifo).await.0, Some(0));
    // Nobody ever writes into it.
    let mut command = place.command_with_handler(&["--config", fifo.to_str().unwrap()]);
    let mut child = command.spawn().unwrap();
    let log = Log::follow(child.stderr.take().unwrap());
    takes_signals(&child).await;

    let since = Instant::now();
    kill_process(pid(&child), Signal::TERM).unwrap();

    log.line(NOTHING_TO_DRAIN, |_| true).await;
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn before_the_arguments_are_parsed() {
    let place = Place::new("true");
    // What is wrong with them can't be said: nobody reads the pipe, and it is full.
    let (_reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(writer.as_fd()).unwrap();
    fcntl_setfl(writer.as_fd(), flags | OFlags::NONBLOCK).unwrap();
    while match writer.write(&[b'x'; 4096]) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    } {}
    fcntl_setfl(writer.as_fd(), flags).unwrap();
    let mut command = place.command_with_handler(&["--no-such-setting"]);
    let mut child = command.stderr(writer).spawn().unwrap();
    takes_signals(&child).await;

    kill_process(pid(&child), Signal::TERM).unwrap();

    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    assert_eq!(status.expect("it should end").unwrap().code(), Some(0));
}

#[tokio::test]
async fn at_whatever_moment_of_the_start() {
    for n in 0..8 {
        let place = Place::new("true");
        let mut child = place.command_with_handler(&[]).spawn().unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        takes_signals(&child).await;
        tokio::time::sleep(Duration::from_millis(4 * n)).await;

        kill_process(pid(&child), Signal::TERM).unwrap();

        let status = child.wait().await.unwrap();
        let said = log.whole().await;
        assert_eq!(status.code(), Some(0), "{said:?}");
        let messages = said.iter().filter_map(|line| line["message"].as_str());
        let reported = messages
            .filter(|said| *said == NOTHING_TO_DRAIN || *said == "drain report")
            .count();
        assert_eq!(reported, 1, "{said:#?}");
    }
}

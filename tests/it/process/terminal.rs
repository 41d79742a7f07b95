//! A drain with somebody at a terminal who watches it, and with one who has stopped it.

use std::{
    fs::File,
    io::Read,
    net::SocketAddr,
    num::NonZero,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Action, Winsize, tcflow, tcsetwinsize},
};
use tokio::{process::Child, sync::watch, time::timeout};

use super::harness::{JOBS, Place, call, pid};

/// Runs until the test lets it end.
const GATED: &str = r#"until [ -e "$PLACE/go" ]; do sleep 0.02; done"#;

const BOUND: Duration = Duration::from_secs(30);

const COLUMNS: NonZero<u16> = NonZero::new(200).unwrap();
const ROWS: NonZero<u16> = NonZero::new(50).unwrap();

/// A terminal, and what was ever written to it.
struct Terminal {
    /// The program's end, so that it can be stopped as Ctrl-S does.
    line: File,
    written: watch::Receiver<Vec<u8>>,
}

impl Terminal {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let line = open(&name, flags, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: ROWS.get(),
            ws_col: COLUMNS.get(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&line, size).unwrap();
        let (sender, written) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            let mut master = File::from(master);
            let mut piece = [0; 4096];
            // An error is its end: nobody has the other side any more.
            while let Ok(read @ 1..) = master.read(&mut piece) {
                sender.send_modify(|written| written.extend_from_slice(&piece[..read]));
            }
        });
        Self {
            line: line.into(),
            written,
        }
    }

    /// The program with its standard error here.
    fn start(&self, place: &Place) -> Child {
        let mut command = place.command_with_handler(&[]);
        let line = self.line.try_clone().unwrap();
        command
            .stderr(Stdio::from(line))
            .env("TERM", "xterm")
            .env("NO_COLOR", "1");
        command.spawn().unwrap()
    }

    /// What somebody sees who looks at it now.
    fn screen(&self) -> String {
        let mut screen = vt100::Parser::new(ROWS, COLUMNS, 0);
        screen.process(&self.written.borrow());
        screen.screen().contents()
    }

    /// Waits until the screen shows this.
    async fn shows(&self, what: impl Fn(&str) -> bool) -> String {
        let mut written = self.written.clone();
        let seen = timeout(BOUND, async {
            loop {
                written.borrow_and_update();
                let screen = self.screen();
                if what(&screen) {
                    return screen;
                }
                written.changed().await.unwrap();
            }
        });
        match seen.await {
            Ok(screen) => screen,
            Err(_) => panic!("it never came to be seen:\n{}", self.screen()),
        }
    }

    /// Where the API listens, by the log.
    async fn api(&self) -> SocketAddr {
        let address = |screen: &str| {
            let line = screen.lines().find(|l| l.contains("setting=\"listen\""))?;
            let address = line.split("address=").nth(1)?.split(' ').next()?;
            address.trim_matches('"').parse().ok()
        };
        let screen = self
            .shows(|screen| screen.contains("phase=\"serving\""))
            .await;
        address(&screen).unwrap()
    }
}

/// Submits a job and waits until it runs; its id.
async fn run_a_job(place: &Place, api: SocketAddr) -> String {
    let answer = call(api, "POST", JOBS, &[], "gated").await.unwrap();
    place.noted("begin", 1).await;
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn terminate(child: &Child) {
    kill_process(pid(child), Signal::TERM).unwrap();
}

#[tokio::test]
async fn a_drain_shows_what_it_waits_for_and_wipes_it_away_at_its_report() {
    let place = Place::new(GATED);
    let terminal = Terminal::new();
    let mut child = terminal.start(&place);
    let api = terminal.api().await;
    let job = run_a_job(&place, api).await;

    terminate(&child);

    let screen = terminal
        .shows(|screen| screen.contains("1 jobs in flight") && screen.contains("  1 s"))
        .await;
    let named = format!("default {job}  ");
    for part in ["draining", " s of 29.0 s (signal)", &named] {
        assert!(screen.contains(part), "'{part}' is not shown:\n{screen}");
    }
    assert_eq!(screen.matches(&job).count(), 1, "drawn in place:\n{screen}");

    place.touch("go");
    let status = timeout(BOUND, child.wait()).await.unwrap().unwrap();
    let screen = terminal
        .shows(|screen| screen.contains("\"drain report\""))
        .await;
    assert_eq!(status.code(), Some(0), "{screen}");
    assert!(!screen.contains("jobs in flight"), "{screen}");
    assert!(!screen.contains('█') && !screen.contains('░'), "{screen}");
    for phase in ["serving", "lame_duck", "draining", "teardown", "reporting"] {
        let line = format!("phase=\"{phase}\"");
        assert_eq!(screen.matches(&line).count(), 1, "{phase}:\n{screen}");
    }
}

/// Ctrl-S, or a window whose content somebody selects with the mouse.
#[tokio::test]
async fn a_terminal_that_takes_nothing_any_more_holds_up_no_drain() {
    let place = Place::new(GATED);
    let terminal = Terminal::new();
    let mut child = terminal.start(&place);
    let api = terminal.api().await;
    let job = run_a_job(&place, api).await;
    tcflow(&terminal.line, Action::OOff).unwrap();

    let since = Instant::now();
    terminate(&child);
    // The drain goes on with a screen that stands still.
    let path = format!("/v1/jobs/{job}?wait=20s");
    let waited = call(api, "GET", &path, &[], "").await.unwrap().json();
    place.touch("go");
    let status = timeout(BOUND, child.wait()).await.unwrap().unwrap();
    let took = since.elapsed();

    assert_eq!(waited["state"], "running");
    assert_eq!(status.code(), Some(0), "{}", terminal.screen());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!terminal.screen().contains("drain report"));
    let next = place.start(&[]).await;
    assert_eq!(next.completed(&job).await["releases"], 0);
}

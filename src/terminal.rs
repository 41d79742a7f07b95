//! Standard error: one thread writes everything that goes there.
//!
//! ```text
//!   log lines ──▶ bounded channel ──▶ thread ──▶ stderr: lines, and on a terminal the progress of a drain below them
//! ```
//!
//! A terminal may stop accepting output: Ctrl-S, a selection with the mouse, a connection that is gone. So may a pipe
//! whose reader is stuck. Then only this thread hangs: no request, no probe and no drain waits for the reader of
//! its log lines. Lines that do not fit into the channel meanwhile are lost, and counted.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use lameduck::Drain;

use crate::progress::Progress;

/// Maximum number of lines that wait to be written; any more are lost, and counted.
const LINES: usize = 4096;

/// How long to wait until the last lines are written. A working reader takes them within milliseconds.
const LAST_LINES: Duration = Duration::from_millis(500);

static TERMINAL: OnceLock<Terminal> = OnceLock::new();

/// A writer to standard error that goes through the thread.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

#[derive(Debug)]
struct Terminal {
    said: SyncSender<Said>,
    lost: AtomicU64,
    /// Whether standard error is a terminal; otherwise lines are JSON.
    is_terminal: bool,
}

enum Said {
    Text(Vec<u8>),
    Drain(Drain),
    /// A request for an answer once everything before it is written.
    Flush(SyncSender<()>),
}

/// Starts the thread. Returns whether standard error is a terminal.
pub fn install() -> bool {
    let is_terminal = io::stderr().is_terminal();
    let (said, heard) = mpsc::sync_channel(LINES);
    let spawned = thread::Builder::new()
        .name("stderr".to_owned())
        .spawn(move || write(&heard));
    if spawned.is_ok() {
        let lost = AtomicU64::default();
        let _ = TERMINAL.set(Terminal {
            said,
            lost,
            is_terminal,
        });
    }
    is_terminal
}

/// Shows the progress of a drain on the terminal, until its report.
pub fn show(drain: Drain) {
    if let Some(terminal) = TERMINAL.get().filter(|it| it.is_terminal) {
        terminal.say(Said::Drain(drain));
    }
}

/// Waits until everything is written, but not for a reader that accepts nothing any more.
pub fn flush() {
    let Some(terminal) = TERMINAL.get() else {
        return;
    };
    let (done, written) = mpsc::sync_channel(1);
    if terminal.say(Said::Flush(done)) {
        let _ = written.recv_timeout(LAST_LINES);
    }
}

// === impl Stderr ===

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match TERMINAL.get() {
            Some(terminal) => {
                if !terminal.say(Said::Text(text.to_owned())) {
                    terminal.lost.fetch_add(1, Relaxed);
                }
                Ok(text.len())
            }
            None => io::stderr().write(text),
        }
    }

    /// Writes a text in one piece, also without the thread, so that nothing comes in between.
    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match TERMINAL.get() {
            Some(_) => self.write(text).map(drop),
            None => io::stderr().write_all(text),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Terminal ===

impl Terminal {
    fn say(&self, said: Said) -> bool {
        self.said.try_send(said).is_ok()
    }

    fn tell(&self, lost: u64) -> String {
        let message = "lines were lost: nobody took them from standard error";
        if self.is_terminal {
            return format!("{lost} {message}\n");
        }
        let line = serde_json::json!({
            "timestamp": jiff::Timestamp::now(), "level": "WARN", "message": message, "lost": lost,
        });
        format!("{line}\n")
    }
}

/// The body of the thread, which ends with the process.
fn write(heard: &Receiver<Said>) {
    let mut progress: Option<Progress> = None;
    loop {
        let said = match &progress {
            Some(progress) => heard.recv_timeout(progress.next()),
            None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // This comes before a line is written, so that lines after the report have no progress below them.
        progress = progress.filter(Progress::goes_on);
        match said {
            Ok(Said::Text(text)) => match &progress {
                Some(progress) => progress.above(|| write_lines(&text)),
                None => write_lines(&text),
            },
            Ok(Said::Drain(drain)) => progress = Some(Progress::new(drain)),
            Ok(Said::Flush(done)) => {
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if let Some(progress) = &mut progress {
            progress.draw();
        }
    }
}

fn write_lines(text: &[u8]) {
    let mut stderr = io::stderr();
    if let Some(terminal) = TERMINAL.get() {
        let lost = terminal.lost.swap(0, Relaxed);
        if lost > 0 {
            let _ = stderr.write_all(terminal.tell(lost).as_bytes());
        }
    }
    // If this fails, there is nowhere to report it.
    let _ = stderr.write_all(text);
}

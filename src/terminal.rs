//! A terminal that somebody sits at: whatever is said there goes through one thread.
//!
//! ```text
//!   log lines ──▶ bounded channel ──▶ thread ──▶ stderr: lines, and below them the progress of a drain
//! ```
//!
//! A terminal may stop taking anything: Ctrl-S, a selection with the mouse, a connection that is gone. Then this
//! thread hangs, and nobody else: no drain waits for its eyewitness. In a log there is no such thread, and each
//! line is written where it is said.

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

/// Lines that may wait for the terminal; what comes then is lost, and counted.
const LINES: usize = 1024;

/// How long the last lines are waited for. A terminal that takes anything takes them in a millisecond.
const LAST_LINES: Duration = Duration::from_millis(200);

static TERMINAL: OnceLock<Terminal> = OnceLock::new();

/// Says something on standard error, by the terminal's thread where that is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

#[derive(Debug)]
struct Terminal {
    said: SyncSender<Said>,
    lost: AtomicU64,
}

enum Said {
    Text(Vec<u8>),
    Drain(Drain),
    /// Everything that was said before is to be written before this is answered.
    Flush(SyncSender<()>),
}

/// Starts the thread if standard error is a terminal; says whether it is.
pub fn install() -> bool {
    if !io::stderr().is_terminal() {
        return false;
    }
    let (said, heard) = mpsc::sync_channel(LINES);
    let spawned = thread::Builder::new()
        .name("terminal".to_owned())
        .spawn(move || write(&heard));
    if spawned.is_ok() {
        let lost = AtomicU64::default();
        let _ = TERMINAL.set(Terminal { said, lost });
    }
    true
}

/// From now on the terminal shows the progress of this drain, until its report.
pub fn show(drain: Drain) {
    if let Some(terminal) = TERMINAL.get() {
        terminal.say(Said::Drain(drain));
    }
}

/// Waits until everything is on the terminal, but not for one that takes nothing any more.
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

    /// Without a terminal, too, in one piece: nothing of another thread's comes in between.
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
}

/// The thread. It ends with the process.
fn write(heard: &Receiver<Said>) {
    let mut progress: Option<Progress> = None;
    loop {
        let said = match &progress {
            Some(progress) => heard.recv_timeout(progress.next()),
            None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        // Before a line is written: those that follow the report stand alone.
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
    let lost = TERMINAL
        .get()
        .map_or(0, |terminal| terminal.lost.swap(0, Relaxed));
    if lost > 0 {
        let _ = writeln!(
            stderr,
            "{lost} lines were lost: the terminal did not take them"
        );
    }
    // Where a terminal is gone there is nobody to tell.
    let _ = stderr.write_all(text);
}

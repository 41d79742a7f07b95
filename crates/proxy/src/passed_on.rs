//! Signals that are not for us: they are passed on to the program.

use std::{fs, io, thread};

use rustix::process::Signal;
use signal_hook::{
    consts::signal::{
        SIGALRM, SIGCONT, SIGHUP, SIGIO, SIGPROF, SIGQUIT, SIGTSTP, SIGURG, SIGUSR1, SIGUSR2,
        SIGVTALRM, SIGWINCH,
    },
    iterator::Signals,
};

use crate::program::Running;

/// The signals that are passed on. Those that begin a drain are not among them, nor those about this process
/// alone (SIGCHLD, SIGPIPE, SIGTTIN, SIGTTOU, faults), nor those that can't be caught.
const PASSED_ON: [i32; 12] = [
    SIGALRM, SIGCONT, SIGHUP, SIGIO, SIGPROF, SIGQUIT, SIGTSTP, SIGURG, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGWINCH,
];

/// Passes signals on to a program's first process from now on, except those in `kept`, which other code handles.
/// Signals that this process was started to ignore (`nohup`) stay ignored, and the program inherits that.
///
/// # Errors
/// If the system refuses a thread or a handler.
pub fn pass_signals_on(running: &Running, kept: &[i32]) -> io::Result<()> {
    let ignored = ignored();
    let passed_on = PASSED_ON.into_iter().filter(|signal| {
        let is_ignored = ignored & (1 << (signal - 1)) != 0;
        !is_ignored && !kept.contains(signal)
    });
    let mut signals = Signals::new(passed_on)?;
    let leader = running.leader();
    thread::Builder::new()
        .name("lameduck-pass-on".to_owned())
        .spawn(move || {
            for number in &mut signals {
                if let Some(signal) = Signal::from_named_raw(number) {
                    tracing::debug!(
                        signal = crate::signal::name(signal),
                        "a signal is passed on to the program"
                    );
                    leader.signal(signal, false);
                }
            }
        })?;
    Ok(())
}

/// Returns the signals that this process ignores, a bit each: proc_pid_status(5). None if there is no `/proc`.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

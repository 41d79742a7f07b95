//! The terminal, if there is one: its foreground group gets its keys, and Ctrl-C.

use std::io::{self, IsTerminal};

use rustix::{
    process::{Pid, Signal, getpgrp, kill_process_group},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// Puts a group into the foreground of the terminal on standard input, if this process is there now: so that
/// the program has the terminal as if it had been started without us, as `tini` does it.
pub(crate) fn hand_over(group: Pid) {
    let terminal = io::stdin();
    if !terminal.is_terminal() || tcgetpgrp(&terminal).ok() != Some(getpgrp()) {
        return;
    }
    if let Err(error) = tcsetpgrp(&terminal, group) {
        tracing::warn!(%error, "the program does not get the terminal");
        return;
    }
    // It may have read from the terminal too early, and have been stopped for that.
    let _ = kill_process_group(group, Signal::CONT);
}

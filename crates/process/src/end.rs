//! Detects the end of a child without reaping it.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::{io::Errno, process::Pid};
use tokio::io::{Interest, unix::AsyncFd};

use crate::children::look_at;

/// Time between two looks if the kernel can't tell (no pidfd: before Linux 5.3, or forbidden).
const LOOK: Duration = Duration::from_millis(20);

/// Detects when a child has ended, and leaves it unreaped: until it is reaped nobody else gets its process
/// id, and its group can be signalled.
#[derive(Debug)]
pub struct EndWatch {
    pid: Pid,
    pidfd: Option<AsyncFd<OwnedFd>>,
}

// === impl EndWatch ===

impl EndWatch {
    /// Watches a child of this process. Must be called within a runtime.
    pub fn new(pid: Pid) -> Self {
        let pidfd = pidfd(pid);
        Self { pid, pidfd }
    }

    /// Watches a child by looking from time to time, for when the kernel can't tell.
    pub fn by_looking(pid: Pid) -> Self {
        Self { pid, pidfd: None }
    }

    /// Returns when the child has ended.
    pub async fn ended(&self) {
        while !self.has_ended() {
            match &self.pidfd {
                Some(pidfd) => match pidfd.readable().await {
                    Ok(_) if self.has_ended() => return,
                    Ok(mut spurious) => spurious.clear_ready(),
                    Err(_) => tokio::time::sleep(LOOK).await,
                },
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Whether the child has ended.
    pub fn has_ended(&self) -> bool {
        match look_at(self.pid) {
            Ok(ended) => ended,
            Err(error) => error != Errno::INTR,
        }
    }
}

/// Returns a descriptor that is readable when the process has ended.
fn pidfd(pid: Pid) -> Option<AsyncFd<OwnedFd>> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, pidfd_open};
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        #[allow(
            deprecated,
            reason = "its successor is an unsafe fn, because a descriptor could be closed behind its back; an OwnedFd \
                      that nobody else gets to see is what it asks for"
        )]
        AsyncFd::with_interest(pidfd, Interest::READABLE).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (pid, Interest::READABLE);
        None
    }
}

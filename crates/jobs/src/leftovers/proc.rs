//! What `/proc` says of processes: as much as it takes to know one again.
//!
//! Where there is no `/proc` (outside of Linux) nobody is seen.

use std::fs;

use rustix::process::Pid;

/// The variable by which a command and all that it starts carry their claim.
const CLAIM: &[u8] = b"LAMEDUCK_CLAIM=";

/// A process at the instant of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) pid: Pid,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// In ticks since boot. With the process id it is nobody else's: an id comes back only after all others.
    pub(crate) start: u64,
    /// It has ended, and waits for its parent to hear of it.
    pub(crate) ended: bool,
}

// === impl Seen ===

impl Seen {
    /// One process, if it is there.
    pub(crate) fn look(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(file(pid, "stat")).ok()?;
        Self::parse(pid, &stat)
    }

    /// Everybody that we may see.
    pub(crate) fn all() -> Vec<Self> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Pid::from_raw)
            .filter_map(Self::look)
            .collect()
    }

    fn parse(pid: Pid, stat: &str) -> Option<Self> {
        // proc_pid_stat(5): the name, which may contain anything, ends at the last parenthesis. The field
        // behind it is the third.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let start = fields.nth(15)?.parse().ok()?;
        Some(Self {
            pid,
            parent,
            group,
            session,
            start,
            ended: matches!(state, "Z" | "X"),
        })
    }

    /// The claim that it was started with, itself or by inheritance. `None` where it has none, wiped its
    /// environment, or is not ours to look at.
    pub(super) fn claim(&self) -> Option<String> {
        let environment = fs::read(file(self.pid, "environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let claim = variables.find_map(|variable| variable.strip_prefix(CLAIM))?;
        String::from_utf8(claim.to_vec()).ok()
    }
}

/// Tells one boot of the machine from the next.
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Names the namespace that our process ids are numbers in.
pub(super) fn pid_namespace() -> Option<String> {
    let name = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(name.to_str()?.to_owned())
}

fn file(pid: Pid, name: &str) -> String {
    format!("/proc/{}/{name}", pid.as_raw_nonzero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_confuses_nobody() {
        let pid = Pid::from_raw(17).unwrap();
        let stat = "17 (a) Z 1) R) S 1 15 14 0 -1 4194560 91 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";

        let seen = Seen::parse(pid, stat).unwrap();

        let is = Seen {
            pid,
            parent: 1,
            group: 15,
            session: 14,
            start: 123_456,
            ended: false,
        };
        assert_eq!(seen, is);
    }
}

//! Facts about processes from `/proc`: as many as it takes to recognise one again.
//!
//! Without a `/proc` (outside of Linux) no process is seen.

use std::fs;

use rustix::process::Pid;

/// A process at the instant of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its process id.
    pub pid: Pid,
    /// The process id of its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Its start, in ticks since boot. Unique together with the process id, which comes back only after all others.
    pub start: u64,
    /// Whether it has ended and has not been reaped by its parent.
    pub ended: bool,
}

// === impl Seen ===

impl Seen {
    /// Returns a process, if it is there.
    pub fn look(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(file(pid, "stat")).ok()?;
        Self::parse(pid, &stat)
    }

    /// Returns all processes that we may see.
    pub fn all() -> Vec<Self> {
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
        // after it is the third.
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

    /// Returns the value of a variable in the environment that it was started with. `None` if it has none of
    /// that name, wiped its environment, or is not ours to look at.
    pub fn variable(&self, name: &str) -> Option<String> {
        let environment = fs::read(file(self.pid, "environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let value = variables.find_map(|variable| {
            let value = variable.strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"=")
        })?;
        String::from_utf8(value.to_vec()).ok()
    }
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

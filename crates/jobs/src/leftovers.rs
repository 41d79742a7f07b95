//! The list of running commands, and the killing of those that outlived their process.
//!
//! SIGKILL can't be handled: the commands of a killed process live on (unless it was PID 1 of its
//! container, and took them along). Its jobs must not run again beside them. So every command is in a list
//! while it runs, as a file in `running/` of the data directory, and the next process to own that
//! directory kills the ones that are left before it frees a job.
//!
//! ```text
//!   claim, boot, namespace ──▶ spawn ──▶ + group, start time ──▶ … runs … ──▶ reaped ──▶ removed
//! ```
//!
//! No process is killed on suspicion. A record is void in another boot and in another namespace of process ids.
//! In its own, these processes belong to it, and no others do:
//!
//! | process | identified by |
//! | --- | --- |
//! | the leader | process id and start time |
//! | its group | the leader, or a member that carries the claim in its environment |
//! | a process that left the group (`setsid`) | the claim in its environment |
//!
//! A process that left the group *and* wiped its environment is not found. Processes that an already ended
//! command left behind are not leftovers: the record is gone, and the job does not run again.
//!
//! The record is written before the spawn, so that there is no command without one. Until its start time is
//! recorded, a command is identified by its claim, which is in its environment from its exec on; and until its
//! exec it holds a copy of the directory's lock, so that there is no next process yet. That leaves the
//! microseconds in which the kernel has closed that copy and not yet laid out the environment: if a
//! record names no leader, the search is repeated for a twentieth of a second.
//!
//! Nothing is synced: written data survives a SIGKILL, and after a power cut it is void anyway.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use lameduck_process::Seen;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod background;
mod end;
#[cfg(test)]
mod tests;

pub(crate) use background::{BackgroundList, Entry};
use end::Leftovers;

/// The environment variable in which a command and all processes that it starts carry their claim.
const CLAIM: &str = "LAMEDUCK_CLAIM";

/// The list's folder in the data directory.
const FOLDER: &str = "running";

/// The list of running commands, for the next process.
#[derive(Clone, Debug)]
pub struct RunningList {
    folder: PathBuf,
    here: Here,
}

/// A command in the list. Dropping this removes it from the list.
#[derive(Debug)]
#[must_use = "a command that is not in the list is not ended by the next process"]
pub struct Listed {
    path: PathBuf,
    /// The file, open until the command has started; running commands should not cost a descriptor each.
    file: Option<File>,
    record: Record,
}

/// The result of ending the commands in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Number of runs of which a process was still alive and has ended.
    pub ended: usize,
    /// Number of runs of which a process is alive nonetheless. They stay in the list.
    pub alive: usize,
}

/// The boot and the namespace in which process ids and start times are valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Here {
    boot: String,
    /// The namespace. Its number may be used again after it is gone; the start time still tells the processes apart.
    namespace: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    claim: String,
    #[serde(flatten)]
    here: Here,
    /// The leader. It is the last field, so that writing it changes nothing before it.
    leader: Option<Leader>,
}

/// The leader of a group; its process id is the group's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    group: i32,
    start: u64,
}

// === impl RunningList ===

impl RunningList {
    /// The list of this data directory. `None` if the system can't tell processes apart (no `/proc`).
    ///
    /// # Errors
    /// Returns an error if its folder can't be created.
    pub fn of(data: &Path) -> io::Result<Option<Self>> {
        let Some(here) = Here::look() else {
            return Ok(None);
        };
        let folder = data.join(FOLDER);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        Ok(Some(Self { folder, here }))
    }

    /// Records that a command with this claim in its environment is about to be started.
    ///
    /// # Errors
    /// Returns an error if the file can't be written.
    pub fn note(&self, claim: &str) -> io::Result<Listed> {
        let record = Record {
            claim: claim.to_owned(),
            here: self.here.clone(),
            leader: None,
        };
        let path = self.folder.join(Uuid::new_v4().to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let mut listed = Listed {
            path,
            file: None,
            record,
        };
        listed.write(&file)?;
        listed.file = Some(file);
        Ok(listed)
    }
}

// === impl Listed ===

impl Listed {
    /// Records that the command leads this group. Must not be called once the leader may have been reaped.
    ///
    /// # Errors
    /// Returns an error if the file can't be written. The command is then identified by its claim alone.
    pub fn started(&mut self, group: Pid) -> io::Result<()> {
        self.led_by(Leader::look(group))
    }

    fn led_by(&mut self, leader: Option<Leader>) -> io::Result<()> {
        self.record.leader = leader;
        self.file.take().map_or(Ok(()), |file| self.write(&file))
    }

    /// Overwrites the record, never with a shorter one: at no instant is there less to read than before.
    fn write(&self, file: &File) -> io::Result<()> {
        let record = serde_json::to_vec(&self.record)?;
        file.write_all_at(&record, 0)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Kills the processes of a dead predecessor's commands, waits for their end, and empties the list. Only for the
/// owner of the data directory, before it frees a job or starts anything. Blocks for about two seconds at most.
pub fn end(data: &Path) -> Ended {
    let Some(here) = Here::look() else {
        return Ended::default();
    };
    let mut leftovers = Leftovers::read(&data.join(FOLDER), &here);
    if leftovers.is_empty() {
        return Ended::default();
    }
    let alive = leftovers.end();
    leftovers.strike_out(&alive)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "cannot remove a command from the list of those that run");
    }
}

/// Logs that a command runs without being in the list.
pub(crate) fn not_listed(error: &io::Error) {
    tracing::warn!(
        %error,
        "a command can't be put into the list of those that run; after a SIGKILL of this process it would run on \
         beside its job's next run"
    );
}

// === impl Leader ===

impl Leader {
    /// Looks up the leader of this group. Must not be called once it may have been reaped.
    pub(crate) fn look(group: Pid) -> Option<Self> {
        Seen::look(group).map(|seen| Self {
            group: group.as_raw_nonzero().get(),
            start: seen.start,
        })
    }
}

// === impl Here ===

impl Here {
    fn look() -> Option<Self> {
        Some(Self {
            boot: boot_id()?,
            namespace: pid_namespace()?,
        })
    }
}

/// Returns an id that distinguishes one boot of the machine from the next.
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Returns the name of the namespace to which our process ids belong.
fn pid_namespace() -> Option<String> {
    let name = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(name.to_str()?.to_owned())
}

//! The list of the commands that run, and the end of those that outlived their process.
//!
//! SIGKILL can't be answered: the commands of a killed process live on (unless it was PID 1 of its
//! container, and took them along). Its jobs must not run again beside them. So every command is in a list
//! while it runs, a file each in `running/` of the data directory, and the next process to own that
//! directory ends who is left before it frees a job.
//!
//! ```text
//!   claim, boot, namespace ──▶ spawn ──▶ + group, start time ──▶ … runs … ──▶ reaped ──▶ removed
//! ```
//!
//! Nobody is killed on suspicion. A record is void in another boot and in another namespace of process ids.
//! In its own, these are its processes, and nobody else is:
//!
//! | who | known by |
//! | --- | --- |
//! | the leader | process id and start time |
//! | its group | the leader, or a member that carries the claim in its environment |
//! | who left the group (`setsid`) | the claim in its environment |
//!
//! Whoever left the group *and* wiped its environment is not found. What a command left behind that had
//! ended before is no leftover: its record is gone, and its job does not run again.
//!
//! The record is written before the spawn, so that there is no command without one. Between the spawn and the
//! start time a command is known by its claim, which is in its environment from its exec on; and until its
//! exec it holds a copy of the directory's lock, so that there is no next process yet. What remains are the
//! microseconds in which the kernel has closed that copy and not yet laid out the environment: where a
//! record names no leader, the look is repeated for a twentieth of a second.
//!
//! Nothing is synced: SIGKILL keeps what was written, and after a power cut it is void.

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

/// The variable by which a command and all that it starts carry their claim.
const CLAIM: &str = "LAMEDUCK_CLAIM";

/// In the data directory.
const FOLDER: &str = "running";

/// The list of the commands that run, for the next process.
#[derive(Clone, Debug)]
pub struct RunningList {
    folder: PathBuf,
    here: Here,
}

/// A command in the list; it leaves it when this is dropped.
#[derive(Debug)]
#[must_use = "a command that is not in the list is not ended by the next process"]
pub struct Listed {
    path: PathBuf,
    /// Open until the command has started: a descriptor for each that runs would be one too many.
    file: Option<File>,
    record: Record,
}

/// What became of the commands in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Runs of which something still lived and was ended.
    pub ended: usize,
    /// Runs of which something lives all the same. They stay in the list.
    pub alive: usize,
}

/// Where process ids and start times mean what they say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Here {
    boot: String,
    /// Its number may come back after it is gone; the start time still tells.
    namespace: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    claim: String,
    #[serde(flatten)]
    here: Here,
    /// Last, so that writing it changes nothing before it.
    leader: Option<Leader>,
}

/// The leader of a group, by whose process id the group is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    group: i32,
    start: u64,
}

// === impl RunningList ===

impl RunningList {
    /// The list of this data directory. `None` where the system can't tell processes apart (no `/proc`).
    ///
    /// # Errors
    /// Where its folder can't be made.
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

    /// Writes down that a command is about to be started under this claim, and has it in its environment.
    ///
    /// # Errors
    /// Where the file can't be written.
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
    /// It was started, as the leader of this group. Not to be called once the leader may have been reaped.
    ///
    /// # Errors
    /// Where the file can't be written. The command is then known by its claim alone.
    pub fn started(&mut self, group: Pid) -> io::Result<()> {
        self.led_by(Leader::look(group))
    }

    fn led_by(&mut self, leader: Option<Leader>) -> io::Result<()> {
        self.record.leader = leader;
        self.file.take().map_or(Ok(()), |file| self.write(&file))
    }

    /// Over what was there, never shorter: at no instant is there less to read than before.
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

/// Ends what a dead predecessor's commands left running, waits for its end, and empties the list. Only for the
/// owner of the data directory, before it frees a job or starts anything. Blocks, for two seconds or so at most.
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

/// Says that a command runs without being in the list.
pub(crate) fn not_listed(error: &io::Error) {
    tracing::warn!(
        %error,
        "a command can't be put into the list of those that run; after a SIGKILL of this process it would run on \
         beside its job's next run"
    );
}

// === impl Leader ===

impl Leader {
    /// The leader of this group. Not to be called once it may have been reaped.
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

/// Tells one boot of the machine from the next.
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Names the namespace that our process ids are numbers in.
fn pid_namespace() -> Option<String> {
    let name = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(name.to_str()?.to_owned())
}

//! The data directory: created, checked, and locked for one process.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::file_system::{self, Kind};
use lameduck_jobs::engine::EngineError;

const DATABASE: &str = "lameduck.db";
const LOCK: &str = "lock";
/// Maximum wait: a command that a killed process was about to start has the lock until its exec, some milliseconds.
const LOCK_WAIT: Duration = Duration::from_millis(250);

/// A data directory that belongs to this process for as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    // flock(2) under the hood: the kernel releases it when the process dies. The standard library opens
    // files close-on-exec, so that commands do not inherit it.
    lock: File,
}

impl Directory {
    /// Creates the directory if it is missing, locks it, and makes sure that the database file exists.
    /// Blocks, but never waits for others longer than a quarter of a second.
    ///
    /// # Errors
    /// [`EngineError::InUse`] if another living process has it; [`EngineError::Unusable`] if it can't be used.
    pub fn claim(path: &Path) -> Result<Self, EngineError> {
        let unusable = |error| unusable(path, error);
        create(path).map_err(unusable)?;
        refuse_network(path)?;
        let lock = private_file()
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        if !try_lock(&lock).map_err(unusable)? {
            let path = path.display().to_string();
            return Err(EngineError::InUse { path });
        }
        // Created here and not by SQLite, so that not everybody can read payloads: the WAL gets the
        // database's permissions.
        private_file()
            .truncate(false)
            .open(path.join(DATABASE))
            .map_err(unusable)?;
        sync(path).map_err(unusable)?;
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the database's path.
    pub(super) fn database(&self) -> PathBuf {
        Self::database_in(&self.path)
    }

    /// Returns the path of the database in a directory.
    pub(super) fn database_in(path: &Path) -> PathBuf {
        path.join(DATABASE)
    }

    /// Whether no living process has this directory. A process that claims it at this very instant waits for
    /// longer than this takes.
    pub(super) fn is_free(path: &Path) -> Result<bool, EngineError> {
        let look = || match File::open(path.join(LOCK)) {
            Ok(lock) => match lock.try_lock_shared() {
                Ok(()) => lock.unlock().map(|()| true),
                Err(TryLockError::WouldBlock) => Ok(false),
                Err(TryLockError::Error(error)) => Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        };
        look().map_err(|error| unusable(path, error))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing alone would leave it locked while a command that is just being started has the file, too.
        let _ = self.lock.unlock();
    }
}

/// Locks the file; returns false if another living process has it.
fn try_lock(lock: &File) -> io::Result<bool> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Refuses a network file system before anything is written there.
fn refuse_network(path: &Path) -> Result<(), EngineError> {
    match file_system::kind(path).map_err(|error| unusable(path, error))? {
        Kind::Local => Ok(()),
        Kind::Doubtful(name) => {
            tracing::warn!(
                data = %path.display(), file_system = name,
                "nobody can tell whether this file system is a disk of this machine; if it is not, jobs may be lost: \
                 use a local disk or a block volume"
            );
            Ok(())
        }
        Kind::Network(name) => Err(EngineError::Unusable {
            context: format!("preparing the data directory {}", path.display()),
            message: format!(
                "it is on a network file system ({name}), where locks and syncs cannot be relied on and jobs would be \
                 lost; use a local disk or a block volume (in Kubernetes: a PersistentVolumeClaim with access mode \
                 ReadWriteOnce), or a PostgreSQL database (setting 'database')"
            ),
        }),
    }
}

/// Creates the directory and its parents, and makes their names durable.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut missing = vec![path];
    missing.extend(
        path.ancestors()
            .skip(1)
            .take_while(|p| !p.as_os_str().is_empty() && !p.exists()),
    );
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in missing {
        match made.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync(Path::new("."))?,
            Some(parent) => sync(parent)?,
            None => {}
        }
    }
    Ok(())
}

/// Syncs a directory: a new name in it survives a power cut only after that.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

fn unusable(path: &Path, error: io::Error) -> EngineError {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "; it has to be writable for user {} (in Kubernetes: securityContext.fsGroup)",
            rustix::process::geteuid().as_raw()
        ),
        io::ErrorKind::ReadOnlyFilesystem => {
            "; its file system is mounted read-only: mount a writable volume there".to_owned()
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; there is something else at this path: name another directory (--data)".to_owned()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or enlarge the volume".to_owned()
        }
        _ if fs::metadata(path).is_ok_and(|m| !m.is_dir()) => {
            "; there is something else at this path: name another directory (--data)".to_owned()
        }
        _ => String::new(),
    };
    EngineError::Unusable {
        context: format!("preparing the data directory {}", path.display()),
        message: format!("{error}{remedy}"),
    }
}

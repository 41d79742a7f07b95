//! The data directory: made, checked, and locked for one process.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::jobs::engine::EngineError;

const DATABASE: &str = "lameduck.db";
const LOCK: &str = "lock";

/// A data directory that is ours for as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    // flock(2) under the hood: bound to this open file, so the kernel releases it when the process dies,
    // and commands do not inherit it, because the standard library opens files close-on-exec.
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is missing, locks it, and makes sure that the database file exists.
    pub fn claim(path: &Path) -> Result<Self, EngineError> {
        let unusable = |error| unusable(path, error);
        create(path).map_err(unusable)?;
        let lock = private_file()
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::InUse {
                    path: path.display().to_string(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        // Made here and not by SQLite, so that payloads are not readable for everybody: the WAL gets the
        // database's permissions.
        private_file()
            .truncate(false)
            .open(path.join(DATABASE))
            .map_err(unusable)?;
        sync(path).map_err(unusable)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

/// Makes the directory and its parents, and makes their names durable.
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

/// A new name in a directory survives a power cut only once the directory itself was synced.
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

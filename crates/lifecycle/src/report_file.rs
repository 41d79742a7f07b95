//! Writes the drain report to a JSON file, for tools that collect such files.
//!
//! ```text
//!   report ──▶ .drain.json.7392050f35 ──▶ fsync ──▶ rename to drain.json ──▶ fsync of the folder
//! ```
//!
//! A reader finds either the previous drain's report or the whole of this one, never a part, even after a power
//! cut. A path that exists and is not a regular file, such as `/dev/stdout` or a named pipe, is written to
//! directly: a rename would put a file in its place.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::report::DrainReport;

/// The file that a drain report is written to.
///
/// ```no_run
/// # fn example(lifecycle: lameduck_lifecycle::Lifecycle) -> Result<(), Box<dyn std::error::Error>> {
/// use lameduck_lifecycle::ReportFile;
///
/// let file = ReportFile::prepare("/var/lib/reports/drain.json")?;
/// let lifecycle = lifecycle.on_report("report file", |report| file.write(report));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportFile(PathBuf);

/// Error when the report file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the drain report to {}: {error}{}", .path.display(), remedy(.error))]
pub struct ReportFileError {
    /// The path of the report file.
    path: PathBuf,
    /// The error from the operating system.
    error: io::Error,
}

// === impl ReportFile ===

impl ReportFile {
    /// Returns a file that can be written, as far as can be known before there is a report: a wrong path that is
    /// noticed at the start can still be corrected. The file keeps its content until the report replaces it. Blocks.
    ///
    /// # Errors
    /// Fails if the folder is missing or can't be written to.
    pub fn prepare(path: impl Into<PathBuf>) -> Result<Self, ReportFileError> {
        let file = Self(path.into());
        match file.try_out() {
            Ok(()) => Ok(file),
            Err(error) => Err(file.error(error)),
        }
    }

    /// Writes the report.
    ///
    /// # Errors
    /// Fails if the file can't be written; a previous file is still there.
    pub async fn write(self, report: Arc<DrainReport>) -> Result<(), ReportFileError> {
        let file = self.clone();
        // A folder on an unreachable server blocks forever, so this must not occupy a thread of the runtime.
        let written = tokio::task::spawn_blocking(move || self.write_now(&report)).await;
        written
            .unwrap_or_else(|panic| Err(panic.into()))
            .map_err(|error| file.error(error))
    }

    fn try_out(&self) -> io::Result<()> {
        if self.is_special() {
            return Ok(());
        }
        if self.0.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let trial = self.temporary("trial");
        File::create(&trial)?;
        fs::remove_file(trial)
    }

    fn write_now(&self, report: &DrainReport) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(report)?;
        json.push(b'\n');
        if self.is_special() {
            return OpenOptions::new()
                .write(true)
                .open(&self.0)?
                .write_all(&json);
        }
        let temporary = self.temporary(&report.drain_id);
        let replaced = write_durably(&temporary, &json)
            .and_then(|()| fs::rename(&temporary, self.target()))
            .and_then(|()| File::open(self.folder())?.sync_all());
        if replaced.is_err() {
            // The temporary file may never have been created.
            let _ = fs::remove_file(&temporary);
        }
        replaced
    }

    /// Whether the path names something that must not be replaced by a file.
    fn is_special(&self) -> bool {
        fs::metadata(&self.0).is_ok_and(|found| !found.is_file() && !found.is_dir())
    }

    /// The path behind symbolic links: the link stays, and its target is replaced.
    fn target(&self) -> PathBuf {
        fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone())
    }

    fn folder(&self) -> PathBuf {
        match self.target().parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// Returns a path beside the file, because a rename is atomic only within one file system.
    fn temporary(&self, word: &str) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.target().file_name().unwrap_or_default());
        name.push(".");
        name.push(word);
        self.folder().join(name)
    }

    fn error(&self, error: io::Error) -> ReportFileError {
        ReportFileError {
            path: self.0.clone(),
            error,
        }
    }
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind::{
        IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        ResourceBusy, StorageFull,
    };
    match error.kind() {
        NotFound | NotADirectory => "; make its folder first, or name another file",
        IsADirectory => "; this is a folder: name a file in it",
        PermissionDenied => {
            "; its folder has to be writable, for the file is replaced and not changed"
        }
        ReadOnlyFilesystem => {
            "; its file system is mounted read-only: mount a writable volume there"
        }
        ResourceBusy => "; a file that is mounted by itself can't be replaced: mount its folder",
        StorageFull | QuotaExceeded => "; free some space, or name a file on another volume",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{Lifecycle, Signals};

    /// Drains a program with nothing in it.
    async fn drained(file: ReportFile) -> Arc<DrainReport> {
        let (signals, trigger) = Signals::manual();
        trigger.fire();
        Lifecycle::builder()
            .signals(signals)
            .on_report("report file", |report| file.write(report))
            .run()
            .await
            .unwrap()
    }

    fn read(path: &Path) -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn names(folder: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[tokio::test]
    async fn the_whole_report_replaces_the_one_before_and_leaves_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drain.json");
        fs::write(&path, "of the drain before").unwrap();
        let file = ReportFile::prepare(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"of the drain before");

        let report = drained(file).await;

        assert_eq!(read(&path), serde_json::to_value(&*report).unwrap());
        assert_eq!(names(folder.path()), ["drain.json"]);
    }

    #[tokio::test]
    async fn a_link_stays_a_link() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, target) = (folder.path().join("a"), elsewhere.path().join("b"));
        fs::write(&target, "").unwrap();
        symlink(&target, &link).unwrap();

        let report = drained(ReportFile::prepare(&link).unwrap()).await;

        assert!(link.is_symlink());
        assert_eq!(read(&target)["drain_id"], report.drain_id);
    }

    #[tokio::test]
    async fn a_device_is_written_to_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("nowhere");
        symlink("/dev/null", &link).unwrap();

        drained(ReportFile::prepare(&link).unwrap()).await;

        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_path_that_cannot_be_written_is_told_of_at_once_and_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing").join("drain.json");
        for (path, words) in [
            (missing.as_path(), "make its folder"),
            (folder.path(), "name a file"),
        ] {
            let error = ReportFile::prepare(path).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}

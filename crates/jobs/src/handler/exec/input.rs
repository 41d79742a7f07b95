//! The standard input of a command: its payload, complete from the start.

use std::{io, process::Stdio};

/// Returns a nameless file in memory that nobody can change any more: commands that share a payload can't
/// tamper with it, and one whose service was killed still reads all of it.
#[cfg(target_os = "linux")]
pub(super) fn of(payload: &[u8]) -> io::Result<Stdio> {
    use std::{
        fs::File,
        io::{Seek, Write},
    };

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("payload", flags)?);
    file.write_all(payload)?;
    file.rewind()?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// Returns the same as a file in the folder for temporary files.
#[cfg(not(target_os = "linux"))]
pub(super) fn of(payload: &[u8]) -> io::Result<Stdio> {
    use std::{
        fs::{OpenOptions, remove_file},
        io::{Seek, Write},
        os::unix::fs::OpenOptionsExt,
    };

    let path = std::env::temp_dir().join(format!("lameduck-{}", uuid::Uuid::new_v4()));
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    remove_file(&path)?;
    file.write_all(payload)?;
    file.rewind()?;
    Ok(file.into())
}

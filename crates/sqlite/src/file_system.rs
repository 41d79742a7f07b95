//! The kind of file system that a data directory is on: a local disk, or a network file system.
//!
//! SQLite's write-ahead log needs shared memory, locks that hold, and syncs that sync. None of these can be
//! relied on over a network (<https://sqlite.org/wal.html>, <https://sqlite.org/howtocorrupt.html>): two
//! processes on two machines both believe that the database is theirs.

use std::{io, path::Path};

/// Network file systems by statfs(2)'s number (the kernel's `include/uapi/linux/magic.h`, the systems' own headers).
const NETWORK: [(u64, &str); 10] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x00C3_6400, "CephFS"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x7375_7245, "Coda"),
];

/// File systems that may be a local disk behind a virtual machine or a sandbox, or a remote bucket: nobody can tell.
const DOUBTFUL: [(u64, &str); 2] = [(0x6573_5546, "FUSE"), (0x0102_1997, "9P")];

/// The location of a directory, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A disk of this machine, or one that looks like it.
    Local,
    /// On this network file system.
    Network(&'static str),
    /// On this file system, which may be over a network.
    Doubtful(&'static str),
}

/// Returns the kind of file system that this directory is on.
pub(super) fn kind(directory: &Path) -> io::Result<Kind> {
    Ok(kind_of(rustix::fs::statfs(directory)?.f_type as u64))
}

fn kind_of(magic: u64) -> Kind {
    // A 32-bit number that some platforms sign-extend.
    let magic = magic & 0xFFFF_FFFF;
    let named = |list: &[(u64, &'static str)]| {
        let found = list.iter().find(|(number, _)| *number == magic);
        found.map(|(_, name)| *name)
    };
    if let Some(name) = named(&NETWORK) {
        return Kind::Network(name);
    }
    named(&DOUBTFUL).map_or(Kind::Local, Kind::Doubtful)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_a_network_is_known_by_its_number() {
        assert_eq!(kind_of(0x6969), Kind::Network("NFS"));
        // As a signed 32-bit number.
        assert_eq!(kind_of(0xFFFF_FFFF_FF53_4D42), Kind::Network("CIFS"));
        assert_eq!(kind_of(0x6573_5546), Kind::Doubtful("FUSE"));
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(kind_of(local), Kind::Local, "{local:#x}");
        }
    }

    #[test]
    fn memory_is_local() {
        assert_eq!(kind(Path::new("/dev/shm")).unwrap(), Kind::Local);
    }
}

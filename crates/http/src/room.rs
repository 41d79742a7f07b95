//! Limits the number of connections at a time.
//!
//! Each connection takes a file descriptor, of which the process has a limited number. All listeners share one
//! budget; otherwise two of them could take every file from the database. Probes have a separate one; otherwise a
//! flood of requests could keep the kubelet out, which would then restart the container.
//!
//! | share of the files | for |
//! | --- | --- |
//! | eight tenths | all listeners that traffic is routed to |
//! | one tenth | admin listeners: probes and metrics |
//! | one tenth | everything else: the database, commands, files |

use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The kind of peers that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Traffic,
    Admin,
}

/// The limit of one listener's connections.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Shared with the other listeners of its kind.
    shared: Arc<Semaphore>,
    /// Its own limit, if it has one.
    own: Option<Arc<Semaphore>>,
}

/// A connection's place, which becomes free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _shared: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

// === impl Room ===

impl Room {
    /// Returns the room of a listener with its own limit, within the limit for all listeners of its kind.
    pub(super) fn new(whom: For, limit: Option<usize>) -> Self {
        static TRAFFIC: OnceLock<Arc<Semaphore>> = OnceLock::new();
        static ADMIN: OnceLock<Arc<Semaphore>> = OnceLock::new();
        let (shared, tenths) = match whom {
            For::Traffic => (&TRAFFIC, 8),
            For::Admin => (&ADMIN, 1),
        };
        let shared = shared.get_or_init(|| semaphore(share(open_files(), tenths)));
        Self::inside(shared.clone(), limit)
    }

    fn inside(shared: Arc<Semaphore>, limit: Option<usize>) -> Self {
        Self {
            shared,
            own: limit.map(semaphore),
        }
    }

    /// Returns a place, if one is free now.
    pub(super) fn try_place(&self) -> Option<Place> {
        let own = match &self.own {
            Some(own) => Some(own.clone().try_acquire_owned().ok()?),
            None => None,
        };
        Some(Place {
            _shared: self.shared.clone().try_acquire_owned().ok()?,
            _own: own,
        })
    }

    /// Waits for a place.
    pub(super) async fn place(&self) -> Option<Place> {
        // Nobody closes the semaphores.
        let own = match &self.own {
            Some(own) => Some(own.clone().acquire_owned().await.ok()?),
            None => None,
        };
        Some(Place {
            _shared: self.shared.clone().acquire_owned().await.ok()?,
            _own: own,
        })
    }
}

/// Returns the number of files that the process may have open.
fn open_files() -> u64 {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current.unwrap_or(u64::MAX)
}

fn share(files: u64, tenths: u64) -> usize {
    usize::try_from(files / 10 * tenths).unwrap_or(usize::MAX)
}

fn semaphore(places: usize) -> Arc<Semaphore> {
    // A semaphore can hold more permits than a machine has ports.
    Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_have_no_more_together_than_one() {
        let shared = semaphore(share(50, 8));
        let one = Room::inside(shared.clone(), None);
        let other = Room::inside(shared, Some(10));

        let mut places: Vec<Place> = (0..35).map(|_| one.try_place().unwrap()).collect();
        places.extend((0..5).map(|_| other.try_place().unwrap()));

        assert!(one.try_place().is_none() && other.try_place().is_none());
        places.truncate(30);
        let own: Vec<Place> = std::iter::from_fn(|| other.try_place()).collect();
        assert_eq!(own.len(), 10, "its own limit");
    }

    #[test]
    fn no_number_of_files_is_too_small_or_too_large() {
        for files in [0, 1, 9, 1024, u64::MAX] {
            let room = Room::inside(semaphore(share(files, 1)), Some(usize::MAX));
            assert!(room.try_place().is_some(), "{files}");
        }
    }

    #[test]
    fn probes_have_a_room_of_their_own() {
        let traffic = Room::new(For::Traffic, None);
        let admin = Room::new(For::Admin, None);
        assert!(!Arc::ptr_eq(&traffic.shared, &admin.shared));
        let again = Room::new(For::Traffic, None);
        assert!(Arc::ptr_eq(&traffic.shared, &again.shared));
    }
}

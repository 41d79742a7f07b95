//! The list of running commands, written by a thread of its own: a disk that hangs delays the start of commands, and
//! nothing else that the runtime's threads do.
//!
//! Orders are carried out one after the other, so the changes to an entry are written in the order in which they came.

use std::{
    collections::HashMap,
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::{Leader, Listed, RunningList};

/// Maximum time to wait for the removal of an ended command's entry. Such an entry does no harm.
const REMOVAL: Duration = Duration::from_secs(1);

/// The list of running commands, for async code.
#[derive(Clone, Debug)]
pub(crate) struct BackgroundList(Sender<Order>);

/// A command in the list. Dropping this removes it from the list.
#[derive(Debug)]
#[must_use = "a command that is not in the list is not ended by the next process"]
pub(crate) struct Entry {
    list: BackgroundList,
    number: Option<u64>,
}

#[derive(Debug)]
enum Order {
    Note {
        claim: String,
        list: BackgroundList,
        noted: oneshot::Sender<io::Result<Entry>>,
    },
    Started {
        number: u64,
        leader: Option<Leader>,
    },
    Remove {
        number: u64,
        removed: Option<oneshot::Sender<()>>,
    },
}

/// The state of the writing thread.
struct Writer {
    list: RunningList,
    entries: HashMap<u64, Listed>,
    next: u64,
}

// === impl BackgroundList ===

impl BackgroundList {
    /// # Errors
    /// Returns an error if no thread can be started.
    pub fn new(list: RunningList) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let writer = Writer {
            list,
            entries: HashMap::new(),
            next: 0,
        };
        thread::Builder::new()
            .name("lameduck-running".to_owned())
            .spawn(move || writer.run(received))?;
        Ok(Self(orders))
    }

    /// Returns once it is recorded that a command is about to be started under this claim.
    ///
    /// # Errors
    /// Returns an error if the file can't be written.
    pub async fn note(&self, claim: &str) -> io::Result<Entry> {
        let (noted, answer) = oneshot::channel();
        let claim = claim.to_owned();
        let gone = || io::Error::other("the thread that writes the list has ended");
        let list = self.clone();
        self.0
            .send(Order::Note { claim, list, noted })
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

// === impl Entry ===

impl Entry {
    /// Notes that the command was started with this leader. It is recorded soon, in the background.
    pub fn started(&self, leader: Option<Leader>) {
        if let Some(number) = self.number {
            let _ = self.list.0.send(Order::Started { number, leader });
        }
    }

    /// Removes the entry, and waits a moment for that to be done.
    pub async fn remove(mut self) {
        if let Some(number) = self.number.take() {
            let (removed, done) = oneshot::channel();
            let removed = Some(removed);
            if self.list.0.send(Order::Remove { number, removed }).is_ok() {
                let _ = timeout(REMOVAL, done).await;
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let removed = None;
            let _ = self.list.0.send(Order::Remove { number, removed });
        }
    }
}

// === impl Writer ===

impl Writer {
    fn run(mut self, orders: Receiver<Order>) {
        for order in orders {
            match order {
                // If nobody waits for it any more, the entry comes back and orders its own removal when dropped.
                Order::Note { claim, list, noted } => {
                    let _ = noted.send(self.note(&claim, list));
                }
                Order::Started { number, leader } => self.started(number, leader),
                Order::Remove { number, removed } => {
                    self.entries.remove(&number);
                    if let Some(removed) = removed {
                        let _ = removed.send(());
                    }
                }
            }
        }
    }

    fn note(&mut self, claim: &str, list: BackgroundList) -> io::Result<Entry> {
        let listed = self.list.note(claim)?;
        self.next += 1;
        self.entries.insert(self.next, listed);
        let number = Some(self.next);
        Ok(Entry { list, number })
    }

    fn started(&mut self, number: u64, leader: Option<Leader>) {
        if let Some(listed) = self.entries.get_mut(&number)
            && let Err(error) = listed.led_by(leader)
        {
            super::not_listed(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn an_entry_is_there_from_its_note_to_its_removal() {
        let data = tempfile::tempdir().unwrap();
        let list = RunningList::of(data.path()).unwrap().unwrap();
        let list = BackgroundList::new(list).unwrap();
        let count = || fs::read_dir(data.path().join("running")).unwrap().count();

        let entry = list.note("claim").await.unwrap();
        assert_eq!(count(), 1);

        entry.remove().await;
        assert_eq!(count(), 0);
    }

    #[tokio::test]
    async fn an_entry_that_is_dropped_goes_before_the_next_one_is_noted() {
        let data = tempfile::tempdir().unwrap();
        let list = RunningList::of(data.path()).unwrap().unwrap();
        let list = BackgroundList::new(list).unwrap();

        drop(list.note("one").await.unwrap());
        let _two = list.note("two").await.unwrap();

        let count = fs::read_dir(data.path().join("running")).unwrap().count();
        assert_eq!(count, 1);
    }
}

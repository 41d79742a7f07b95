//! The gate in front of a program: open until a drain closes it, in one step.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use tokio_util::sync::CancellationToken;

/// The bit that is set once the gate is closed; the others count the requests inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// Lets requests in until it is closed, and knows when the last one has left.
///
/// One number holds both whether it is open and how many are inside, so that nobody can slip in between
/// "closed and nobody inside" and the steps that follow from it.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<State>);

#[derive(Debug, Default)]
struct State {
    number: AtomicUsize,
    /// Cancelled once the gate is closed and nobody is inside.
    empty: CancellationToken,
}

/// A request inside a gate. Dropping it means that the request has left.
#[derive(Debug)]
#[must_use = "the request has left when this is dropped"]
pub struct Inside(Arc<State>);

// === impl Gate ===

impl Gate {
    /// Returns an open gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a request in; `None` once the gate is closed.
    pub fn enter(&self) -> Option<Inside> {
        let more = |number| (number & CLOSED == 0).then_some(number + 1);
        let entered = self.0.number.fetch_update(SeqCst, SeqCst, more);
        entered.is_ok().then(|| Inside(self.0.clone()))
    }

    /// Closes it for good. Requests that are inside stay until they leave.
    pub fn close(&self) {
        if self.0.number.fetch_or(CLOSED, SeqCst) & !CLOSED == 0 {
            self.0.empty.cancel();
        }
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.0.number.load(SeqCst) & CLOSED != 0
    }

    /// Returns the number of requests inside.
    pub fn inside(&self) -> usize {
        self.0.number.load(SeqCst) & !CLOSED
    }

    /// Waits until the gate is closed and nobody is inside.
    pub async fn emptied(&self) {
        self.0.empty.cancelled().await;
    }
}

// === impl Inside ===

impl Drop for Inside {
    fn drop(&mut self) {
        if self.0.number.fetch_sub(1, SeqCst) == CLOSED | 1 {
            self.0.empty.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicUsize},
        thread,
    };

    use futures_util::FutureExt;

    use super::*;

    fn is_empty(gate: &Gate) -> bool {
        gate.emptied().now_or_never().is_some()
    }

    #[test]
    fn whoever_is_inside_stays_and_nobody_comes_later() {
        let gate = Gate::new();
        let first = gate.enter().unwrap();
        let second = gate.enter().unwrap();

        gate.close();

        assert!(gate.enter().is_none());
        assert_eq!((gate.inside(), is_empty(&gate)), (2, false));
        drop(first);
        assert!(!is_empty(&gate));
        drop(second);
        assert!(is_empty(&gate));
        assert!(gate.enter().is_none());
    }

    #[test]
    fn an_open_gate_is_not_empty_though_nobody_is_inside() {
        let gate = Gate::new();
        drop(gate.enter());
        assert!(!is_empty(&gate));
        gate.close();
        gate.close();
        assert!(is_empty(&gate));
    }

    #[test]
    fn nobody_is_inside_once_it_is_said_to_be_empty() {
        for _ in 0..200 {
            let gate = Gate::new();
            let told = Arc::new(AtomicBool::new(false));
            let served = Arc::new(AtomicUsize::new(0));
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let (gate, told, served) = (gate.clone(), told.clone(), served.clone());
                    thread::spawn(move || {
                        while let Some(inside) = gate.enter() {
                            assert!(!told.load(SeqCst), "inside after the program was told");
                            served.fetch_add(1, SeqCst);
                            drop(inside);
                        }
                    })
                })
                .collect();
            while served.load(SeqCst) < 20 {
                thread::yield_now();
            }

            gate.close();
            while !is_empty(&gate) {
                thread::yield_now();
            }
            told.store(true, SeqCst);

            clients
                .into_iter()
                .for_each(|client| client.join().unwrap());
        }
    }
}

//! The threads and tasks without which an engine can't work. If one panics, that must not look as if it had been told
//! to end: nobody would notice that nothing is written any more.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::EngineError;

/// Records whether any of the vital parts has panicked.
#[derive(Clone, Debug, Default)]
pub struct Vitals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The first part that panicked, and its panic message.
    failed: OnceLock<(&'static str, String)>,
    told: CancellationToken,
}

// === impl Vitals ===

impl Vitals {
    /// Runs a part on this thread.
    pub fn run(&self, part: &'static str, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            self.fail(part, &*panic);
        }
    }

    /// Runs a part as a task.
    pub async fn watch(self, part: &'static str, work: impl Future<Output = ()>) {
        if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
            self.fail(part, &*panic);
        }
    }

    /// Returns the reason why nobody answers: a part has failed, or everything was closed.
    pub fn gone(&self) -> EngineError {
        match self.0.failed.get() {
            Some((part, why)) => EngineError::Failed {
                part: (*part).to_owned(),
                why: why.clone(),
            },
            None => EngineError::Closed,
        }
    }

    /// Returns when a part has failed.
    pub async fn failed(&self) -> EngineError {
        self.0.told.cancelled().await;
        self.gone()
    }

    fn fail(&self, part: &'static str, panic: &(dyn Any + Send)) {
        let why = said(panic);
        tracing::error!(part, panic = why, "a part of the queue's storage panicked");
        let _ = self.0.failed.set((part, why.to_owned()));
        self.0.told.cancel();
    }
}

/// Returns the message of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "it did not say why",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_part_that_panics_is_named_with_what_it_said() {
        let vitals = Vitals::default();
        assert!(matches!(vitals.gone(), EngineError::Closed));
        vitals.run("well", || {});
        assert!(matches!(vitals.gone(), EngineError::Closed));

        vitals.run("queue-writer", || panic!("{} is not 4", 5));
        vitals.run("queue-reader", || panic!("too late"));

        let failed = vitals.failed().await.to_string();
        assert!(failed.contains("'queue-writer'"), "{failed}");
        assert!(failed.contains("5 is not 4"), "{failed}");
    }

    #[tokio::test]
    async fn a_task_that_panics_is_seen_as_well() {
        let vitals = Vitals::default();
        let task = vitals.clone().watch("queue-reaper", async { panic!("no") });
        tokio::spawn(task).await.unwrap();
        assert!(vitals.failed().await.is_final());
    }
}

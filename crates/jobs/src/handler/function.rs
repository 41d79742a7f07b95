//! Rust code as a handler: an async function from a typed payload to a typed result.
//!
//! ```
//! use lameduck_jobs::handler::{Context, Failure, function};
//!
//! #[derive(serde::Deserialize)]
//! struct Resize {
//!     image: String,
//!     width: u32,
//! }
//!
//! async fn resize(job: Resize, context: Context) -> Result<String, Failure> {
//!     for _row in 0..job.width {
//!         if context.stop.is_cancelled() {
//!             return Err(Failure::released()); // given back: another process begins anew
//!         }
//!         tokio::task::yield_now().await; // the work of a row
//!     }
//!     Ok(format!("{} is {} wide", job.image, job.width))
//! }
//!
//! let handler = function(resize);
//! ```
//!
//! Any error is a failure after which the job is tried again by the queue's backoff, so `?` just works. The other
//! outcomes have constructors of [`Failure`].

use std::{fmt, marker::PhantomData, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{Context, Handler, Retry, Verdict};
use crate::job::Job;

/// Maximum size of a result that is kept, in bytes.
const RESULT_LIMIT: usize = 1 << 20;

/// Makes a handler from an async function. The payload is read as JSON, and the result is written as JSON.
///
/// If the payload is not of the type that the function takes, the job is dead at once: no attempt would help. A
/// result of more than 1 MiB is dropped, with a warning; the job is done all the same.
///
/// In a drain the function goes on; [`Context::stop`] asks it to come to an end, and what it then returns
/// counts: a result completes the job, [`Failure::released`] gives it back. The function is not dropped halfway,
/// so one that blocks or never looks at `stop` runs until the process ends.
pub fn function<P, R, F, Fut>(function: F) -> Function<P, F>
where
    F: Fn(P, Context) -> Fut,
    Fut: Future<Output = Result<R, Failure>>,
{
    Function {
        function,
        payload: PhantomData,
    }
}

/// A handler made by [`function`].
pub struct Function<P, F> {
    function: F,
    payload: PhantomData<fn(P)>,
}

/// Why a function did not do its job.
#[derive(Debug)]
pub struct Failure(Verdict);

// === impl Function ===

#[async_trait]
impl<P, R, F, Fut> Handler for Function<P, F>
where
    P: DeserializeOwned + Send + 'static,
    R: Serialize + 'static,
    F: Fn(P, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Failure>> + Send,
{
    async fn run(&self, job: &Job, context: Context) -> Verdict {
        if context.stop.is_cancelled() {
            return Verdict::Released;
        }
        let payload = match serde_json::from_slice(&job.payload) {
            Ok(payload) => payload,
            Err(error) => {
                return Failure::dead(format!(
                    "the payload is not what the handler takes: {error}"
                ))
                .0;
            }
        };
        let result = (self.function)(payload, context).await;
        match result.map(|result| serde_json::to_vec(&result)) {
            Ok(Ok(result)) => Verdict::Done {
                result: bounded(job, result),
            },
            Ok(Err(error)) => {
                Failure::dead(format!("the result can't be written as JSON: {error}")).0
            }
            Err(failure) => failure.0,
        }
    }
}

impl<P, F> fmt::Debug for Function<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").finish_non_exhaustive()
    }
}

fn bounded(job: &Job, result: Vec<u8>) -> Bytes {
    if result.len() <= RESULT_LIMIT {
        return result.into();
    }
    tracing::warn!(
        job = %job.id, queue = %job.queue, bytes = result.len(), limit = RESULT_LIMIT,
        "the result is too large to be kept; the job is done without it"
    );
    Bytes::new()
}

// === impl Failure ===

impl Failure {
    /// A failure after which the job is tried again, by the queue's backoff, while there are attempts left.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::failed(error, Retry::Backoff)
    }

    /// A failure after which the job is tried again after this long, at most the queue's longest backoff.
    pub fn retry_after(error: impl fmt::Display, wait: Duration) -> Self {
        Self::failed(error, Retry::After(wait))
    }

    /// A failure after which the job is not tried again: it is dead.
    pub fn dead(error: impl fmt::Display) -> Self {
        Self::failed(error, Retry::Never)
    }

    /// The job could not even be begun. It waits, and the attempt does not count.
    pub fn postponed(error: impl fmt::Display, wait: Duration) -> Self {
        let error = error.to_string();
        Self(Verdict::Postponed { error, wait })
    }

    /// The job is given back because the run was told to stop: no attempt counts, and it may run elsewhere at once.
    pub fn released() -> Self {
        Self(Verdict::Released)
    }

    fn failed(error: impl fmt::Display, retry: Retry) -> Self {
        let error = error.to_string();
        Self(Verdict::Failed { error, retry })
    }
}

/// Converts any error by `?`. `Failure` is not an error itself, as that would conflict with this conversion.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

//! Whether the program behind is ready: it accepts connections, or a path of its own answers 2xx.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, header::HOST};
use lameduck_lifecycle::Drain;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{body::ToProgram, upstream::Upstream};

/// Time between two looks until the program is first ready, which a start may take longer because of it.
const STARTING: Duration = Duration::from_millis(50);
/// Time between two looks afterwards: no more often than the kubelet looks by default.
const RUNNING: Duration = Duration::from_secs(5);
/// Maximum time for the program to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The health of a program: whether it was well at the latest look.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<bool>>);

// === impl Health ===

impl Health {
    /// Waits until the program is not well.
    pub async fn failed(&self) {
        // The channel is open as long as `self` is.
        let _ = self.0.subscribe().wait_for(|well| !well).await;
    }
}

/// Watches a program from now on: readiness fails while it is not well. With a path, the program has to
/// answer a request for it with 2xx; without one, it is enough that it accepts connections.
///
/// The returned future makes the looks, and has to run for as long as the process lives.
pub fn watch_health(
    upstream: Upstream,
    path: Option<String>,
    drain: &Drain,
) -> (Health, impl Future<Output = Infallible> + use<>) {
    let check = drain.readiness_check("upstream");
    check.fail("nobody has looked yet whether the program is ready");
    let health = Health(Arc::new(watch::Sender::new(true)));
    let shown = health.clone();
    let looks = async move {
        let mut ready_before = false;
        loop {
            let look = timeout(PATIENCE, look(&upstream, path.as_deref())).await;
            let look = look.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
            shown.0.send_replace(look.is_ok() || !ready_before);
            match look {
                Ok(()) => {
                    check.pass();
                    if !ready_before {
                        tracing::info!(upstream = %upstream.address(), "the program is ready");
                    }
                    ready_before = true;
                }
                Err(why) => check.fail(why),
            }
            sleep(if ready_before { RUNNING } else { STARTING }).await;
        }
    };
    (health, looks)
}

async fn look(upstream: &Upstream, path: Option<&str>) -> Result<(), String> {
    let Some(path) = path else {
        return upstream
            .connect()
            .await
            .map(drop)
            .map_err(|why| why.to_string());
    };
    let request = Request::get(path)
        .header(HOST, upstream.address().to_string())
        .header("user-agent", "lameduck-health")
        .body(ToProgram::Empty)
        .map_err(|error| format!("'{path}' can't be asked for: {error}"))?;
    let answer = upstream
        .send(request)
        .await
        .map_err(|why| why.to_string())?;
    match answer.response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("{path} answers {status}")),
    }
}

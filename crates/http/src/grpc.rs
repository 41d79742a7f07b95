//! gRPC health that follows a drain.

use std::convert::Infallible;

use tonic_health::{ServingStatus, server::HealthReporter};

use lameduck_lifecycle::{Drain, Lifecycle};

use super::leaving::leave;

/// Implements [`ServeHttp::grpc_health`](crate::ServeHttp::grpc_health).
pub(super) fn health(
    lifecycle: Lifecycle,
    reporter: HealthReporter,
    services: &[&str],
) -> Lifecycle {
    let services = [""].iter().chain(services).map(|&name| name.to_owned());
    let health = follow(lifecycle.drain().clone(), reporter, services.collect());
    lifecycle.background("grpc health", health)
}

async fn follow(
    drain: Drain,
    reporter: HealthReporter,
    services: Vec<String>,
) -> Result<(), Infallible> {
    let mut ready = drain.readiness_changes();
    loop {
        let status = match *ready.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in &services {
            reporter.set_service_status(service, status).await;
        }
        let leaving = drain.readiness_failed();
        tokio::select! {
            // A change comes first, so that the status that a drain causes is set before the loop ends.
            biased;
            changed = ready.changed() => if changed.is_err() { break },
            () = leaving => break,
        }
    }
    leave(drain).await;
    let mut reporter = reporter;
    for service in &services {
        reporter.clear_service_status(service).await;
    }
    Ok(())
}

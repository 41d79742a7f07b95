//! gRPC health that follows a drain.

use std::convert::Infallible;

use tonic_health::{ServingStatus, server::HealthReporter};

use lameduck_lifecycle::{Drain, Lifecycle};

use super::leaving::leave;

impl Lifecycle {
    /// Turns these services, and the server as a whole (`""`), `NOT_SERVING` at the instant at which a drain
    /// fails readiness, and while a [check](lameduck_lifecycle::Drain::readiness_check) does: a client that watches health is
    /// its own load balancer, and goes elsewhere. When clients are asked to leave, those that still watch see their stream end, which would go on for ever
    /// otherwise.
    ///
    /// Calls go on being served, as all requests are: see [`Lifecycle::http`], which takes tonic's `Routes`.
    ///
    /// ```no_run
    /// # async fn example(listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    /// use lameduck_lifecycle::Lifecycle;
    /// use tonic::service::Routes;
    ///
    /// let (reporter, health) = tonic_health::server::health_reporter();
    /// Lifecycle::builder()
    ///     .grpc_health(reporter, &[])
    ///     .http("grpc", listener, Routes::new(health))
    ///     .run()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn grpc_health(self, reporter: HealthReporter, services: &[&str]) -> Self {
        let services = [""].iter().chain(services).map(|&name| name.to_owned());
        let health = follow(self.drain().clone(), reporter, services.collect());
        self.background("grpc health", health)
    }
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
            // What a drain said is told, too, before it is followed further.
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

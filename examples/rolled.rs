//! The service that the rollout test rolls: the same router behind `lameduck` and, for comparison, behind
//! `axum::serve` with its graceful shutdown. Prints its address on standard output.
//!
//! ```sh
//! cargo run --example rolled -- lameduck    # or: axum
//! ```

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    response::sse::{Event, Sse},
    routing::{get, post},
};
use futures_util::{Stream, stream};
use lameduck::{Drain, Lifecycle, Moment, kubernetes::Kubernetes};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    match std::env::args().nth(1).as_deref() {
        Some("axum") => {
            let mut terminate = signal(SignalKind::terminate())?;
            axum::serve(listener, router())
                .with_graceful_shutdown(async move {
                    terminate.recv().await;
                })
                .await?;
        }
        _ => {
            let lifecycle = Lifecycle::builder().http("rolled", listener, router());
            let kubernetes = Kubernetes::in_cluster();
            lifecycle.kubernetes(kubernetes).run().await?;
        }
    }
    Ok(())
}

fn router() -> Router {
    Router::new()
        .route("/echo", post(|body: Bytes| async { body }))
        .route(
            "/slow",
            post(|body: Bytes| async {
                sleep(Duration::from_millis(250)).await;
                body
            }),
        )
        .route("/events", get(events))
}

/// A tick every 50 ms, until clients are asked to leave.
async fn events(
    drain: Option<Extension<Drain>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(drain, |drain| async move {
        let leave = async {
            match &drain {
                Some(Extension(drain)) => drain.reached(Moment::Leave).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = leave => None,
            () = sleep(Duration::from_millis(50)) => Some((Ok(Event::default().data("tick")), drain)),
        }
    }))
}

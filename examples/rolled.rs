//! The service that the rollout test rolls: the same router behind `lameduck` and, for comparison, behind
//! `axum::serve` with its graceful shutdown, at once or after a sleep of five seconds. Prints its address on
//! standard output. With `ROLLED_TLS_CERT` and `ROLLED_TLS_KEY`, two PEM files, `lameduck` speaks TLS.
//!
//! ```sh
//! cargo run --example rolled -- lameduck    # or: axum, or: sleep
//! ```

use std::{convert::Infallible, env, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::ws::WebSocketUpgrade,
    response::{
        Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, stream};
use lameduck::prelude::*;
use lameduck::{
    Lifecycle,
    http::{CurrentDrain, Listener, Tls, WebSocket, until_leave},
    kubernetes::Kubernetes,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    match env::args().nth(1).as_deref() {
        Some(compared @ ("axum" | "sleep")) => {
            let sleeps = compared == "sleep";
            let mut terminate = signal(SignalKind::terminate())?;
            axum::serve(listener, router())
                .with_graceful_shutdown(async move {
                    terminate.recv().await;
                    if sleeps {
                        sleep(Duration::from_secs(5)).await;
                    }
                })
                .await?;
        }
        _ => {
            let mut listener = Listener::from(listener);
            if let Some(cert) = env::var_os("ROLLED_TLS_CERT") {
                let key = env::var_os("ROLLED_TLS_KEY").ok_or("a certificate needs its key")?;
                listener = listener.tls(Tls::from_pem_files(cert, key)?);
            }
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
            post(async |body| after(Duration::from_millis(250), body).await),
        )
        .route(
            "/long",
            post(async |body| after(Duration::from_secs(3), body).await),
        )
        .route("/events", get(events))
        .route("/socket", get(socket))
}

/// Says back what it is told, after a while.
async fn after(time: Duration, body: Bytes) -> Bytes {
    sleep(time).await;
    body
}

/// A tick every 50 ms, until clients are asked to leave.
async fn events(
    CurrentDrain(drain): CurrentDrain,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::unfold((), |()| async {
        sleep(Duration::from_millis(50)).await;
        Some((Ok(Event::default().data("tick")), ()))
    });
    Sse::new(until_leave(&drain, ticks))
}

/// Says back what it is told, until clients are asked to leave.
async fn socket(upgrade: WebSocketUpgrade, CurrentDrain(drain): CurrentDrain) -> Response {
    upgrade.on_upgrade(|socket| async move {
        let mut socket = WebSocket::new(socket, drain);
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

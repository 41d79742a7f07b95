//! The HTTP room, byte by byte: what a peer may be doing, crossed with the moment at which the signal finds it.
//!
//! Everything runs in this process over real sockets. The drain's moments are driven by hand: a [`Stage`]
//! is told to begin, to be removed, to ask clients to leave, and so on, and each returns when it is so.
//! What every story checks, beside its own point, is the contract: before the hard deadline no connection is
//! closed by us while a request, or part of one, has been received on it and its client goes on with it; every request
//! that was received is answered completely; `run` returns before its deadline; all gauges are back at 0.

mod accepting;
mod cutting;
mod heads;
mod http1;
mod http2;
mod late;
mod matrix;
mod peer;
mod stage;
mod tls;
mod unix;
mod upgrades;
mod uploads;
mod windows;

use std::{future::Future, net::SocketAddr, time::Duration};

use self::peer::Peer;

/// Nothing that is waited for takes this long, on any machine.
const BOUND: Duration = Duration::from_secs(20);

/// Waits for what must happen.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(BOUND, future).await {
        Ok(output) => output,
        Err(_) => panic!("in vain: {what}"),
    }
}

/// Waits until something is true that nobody announces.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, looking).await;
}

/// A connection that was answered once, and is idle since.
pub async fn hello_over(address: SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    assert_eq!(peer.get("/hello").await.status, 200);
    peer
}

//! A balancer with a wire: new connections go to one of its backends, and every byte takes its time. On a
//! loopback interface without delay the races of a closing connection do not show.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Routes new connections; those that exist stay where they are, as with kube-proxy.
#[derive(Clone)]
pub struct Balancer {
    address: SocketAddr,
    backends: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Balancer {
    /// A balancer without backends; each byte takes `delay` each way.
    pub async fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = Self {
            address: listener.local_addr().unwrap(),
            backends: Arc::default(),
        };
        let backends = balancer.backends.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let backends = backends.lock().unwrap().clone();
                let backend = backends[fastrand::usize(..backends.len())];
                tokio::spawn(carry(client, backend, delay));
            }
        });
        balancer
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn add(&self, backend: SocketAddr) {
        self.backends.lock().unwrap().push(backend);
    }

    pub fn remove(&self, backend: SocketAddr) {
        self.backends
            .lock()
            .unwrap()
            .retain(|known| *known != backend);
    }
}

async fn carry(client: TcpStream, backend: SocketAddr, delay: Duration) {
    // A SYN takes its time too.
    sleep_until(Instant::now() + delay).await;
    // Refused: the client sees its connection closed without an answer.
    let Ok(server) = TcpStream::connect(backend).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::join!(
        wire(client_read, server_write, delay),
        wire(server_read, client_write, delay)
    );
}

/// One direction. A FIN travels like bytes do; an error ends the direction.
async fn wire(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sent, mut under_way) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let deliver = async {
        while let Some((at, bytes)) = under_way.recv().await {
            sleep_until(at).await;
            let delivered = match bytes.is_empty() {
                true => to.shutdown().await,
                false => to.write_all(&bytes).await,
            };
            if delivered.is_err() {
                return;
            }
        }
    };
    let send = async {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let n = from.read(&mut chunk).await.unwrap_or(0);
            let bytes = Bytes::copy_from_slice(&chunk[..n]);
            if sent.send((Instant::now() + delay, bytes)).is_err() || n == 0 {
                drop(sent);
                return;
            }
        }
    };
    tokio::join!(send, deliver);
}

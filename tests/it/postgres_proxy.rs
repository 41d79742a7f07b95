//! A way to PostgreSQL that breaks: at a chosen statement, all at once, or for a while.
//!
//! ```text
//!   the program ──▶ proxy ──▶ PostgreSQL
//!                     │  Before: the statement does not arrive
//!                     └─ After:  it arrives and is done, and its answer gets lost
//! ```
//!
//! It reads as much of the protocol as that takes (PostgreSQL's manual, "Message Formats"): a statement is what the
//! server answers with ReadyForQuery, a simple query (`Q`) or a Sync (`S`).

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_postgres::{Config, config::Host};

use crate::postgres_server::Database;

/// Where a statement is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// On its way there.
    Before,
    /// It was done; the answer, on its way back.
    After,
}

/// The way, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Everything is closed at once.
    Closed,
    /// Nothing comes through, and nobody is told.
    Silent,
}

/// A proxy, for as long as this lives.
pub struct Proxy {
    address: SocketAddr,
    behind: Config,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

struct Shared {
    server: Server,
    statements: AtomicUsize,
    /// The number of the statement that is lost, the first being 1.
    cut: Mutex<Option<(usize, Lost)>>,
    way: watch::Sender<Way>,
}

enum Server {
    Unix(PathBuf),
    Tcp(String, u16),
}

/// One connection's two directions have this in common.
struct Connection {
    shared: Arc<Shared>,
    /// Answers that are still let through; all of them where nothing was cut.
    answers: AtomicUsize,
}

// === impl Proxy ===

impl Proxy {
    /// In front of this database.
    pub async fn in_front_of(database: &Database) -> Self {
        let behind: Config = database.url().parse().unwrap();
        let port = *behind.get_ports().first().unwrap_or(&5432);
        let server = match &behind.get_hosts()[0] {
            Host::Unix(directory) => Server::Unix(directory.join(format!(".s.PGSQL.{port}"))),
            Host::Tcp(name) => Server::Tcp(name.clone(), port),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            statements: AtomicUsize::new(0),
            cut: Mutex::default(),
            way: watch::Sender::new(Way::Open),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Self {
            address,
            behind,
            shared,
            accepting,
        }
    }

    /// The way to the database through it.
    pub fn url(&self) -> String {
        let user = self.behind.get_user().unwrap();
        let password = self.behind.get_password().map(String::from_utf8_lossy);
        let password = password.map_or(String::new(), |p| format!(":{p}"));
        let name = self.behind.get_dbname().unwrap();
        format!(
            "postgres://{user}{password}@{}/{name}?sslmode=disable",
            self.address
        )
    }

    /// Loses the statement of this number, the first being 1, and lets all others through.
    pub fn lose(&self, number: usize, how: Lost) {
        *self.shared.cut.lock().unwrap() = Some((number, how));
    }

    /// Statements that came so far.
    pub fn statements(&self) -> usize {
        self.shared.statements.load(SeqCst)
    }

    /// How the way is from now on. What was closed stays closed.
    pub fn set(&self, way: Way) {
        self.shared.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            // However it ends, both sides are closed.
            let _ = serve(client, shared).await;
        });
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut way = shared.way.subscribe();
    let closed = async move {
        let _ = way.wait_for(|way| *way == Way::Closed).await;
    };
    let carried = async {
        shared.while_silent().await;
        match &shared.server {
            Server::Unix(path) => {
                let (from, to) = UnixStream::connect(path).await?.into_split();
                carry(client, from, to, &shared).await
            }
            Server::Tcp(host, port) => {
                let (from, to) = TcpStream::connect((host.as_str(), *port))
                    .await?
                    .into_split();
                carry(client, from, to, &shared).await
            }
        }
    };
    tokio::select! {
        biased;
        () = closed => Ok(()),
        done = carried => done,
    }
}

async fn carry(
    client: TcpStream,
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    shared: &Arc<Shared>,
) -> io::Result<()> {
    let (asked, answered) = client.into_split();
    let connection = Connection {
        shared: shared.clone(),
        answers: AtomicUsize::new(usize::MAX),
    };
    // Where one direction ends, the other one does.
    tokio::select! {
        done = connection.there(asked, to) => done,
        done = connection.back(from, answered) => done,
    }
}

// === impl Shared ===

impl Shared {
    async fn while_silent(&self) {
        let mut way = self.way.subscribe();
        let _ = way.wait_for(|way| *way != Way::Silent).await;
    }

    /// Counts a statement, and says whether it is the one.
    fn is_lost(&self) -> Option<Lost> {
        let number = self.statements.fetch_add(1, SeqCst) + 1;
        let cut = *self.cut.lock().unwrap();
        cut.filter(|(at, _)| *at == number).map(|(_, how)| how)
    }
}

// === impl Connection ===

impl Connection {
    async fn there(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        // The startup message has no type.
        let mut startup = Vec::new();
        read_body(&mut from, &mut startup).await?;
        to.write_all(&startup).await?;
        // The server says that it is ready once before anything is asked.
        let mut asked = 1;
        loop {
            let message = read_message(&mut from).await?;
            self.shared.while_silent().await;
            if matches!(message[0], b'Q' | b'S') {
                match self.shared.is_lost() {
                    Some(Lost::Before) => return Ok(()),
                    Some(Lost::After) => self.answers.store(asked, SeqCst),
                    None => {}
                }
                asked += 1;
            }
            to.write_all(&message).await?;
        }
    }

    async fn back(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut answered = 0;
        loop {
            let message = read_message(&mut from).await?;
            self.shared.while_silent().await;
            let lost = answered >= self.answers.load(SeqCst);
            if message[0] == b'Z' {
                answered += 1;
                if lost {
                    // It was done, and nobody hears of it.
                    return Ok(());
                }
            }
            if !lost {
                to.write_all(&message).await?;
            }
        }
    }
}

/// With its type and length in front.
async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut message = vec![from.read_u8().await?];
    read_body(from, &mut message).await?;
    Ok(message)
}

/// Appends the length, which counts itself, and what follows.
async fn read_body(from: &mut (impl AsyncRead + Unpin), message: &mut Vec<u8>) -> io::Result<()> {
    let length = from.read_u32().await?;
    message.extend(length.to_be_bytes());
    let begin = message.len();
    message.resize(begin + (length as usize).saturating_sub(4), 0);
    from.read_exact(&mut message[begin..]).await.map(drop)
}

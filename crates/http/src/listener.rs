//! Listeners, which accept connections on a TCP port or a unix socket, with or without TLS.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV6},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{io::Errno, net::sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

use super::stream::Socket;

/// A bound listener for [`ServeHttp::http`](crate::ServeHttp::http). It is made from tokio's listeners, or
/// [bound](Self::bind) to an address given as text.
#[derive(Debug)]
pub struct Listener {
    pub(super) accept: Acceptor,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::tls::Tls>,
}

/// The listening socket.
#[derive(Debug)]
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Removes the socket file at the end, if we created it.
        _path: Option<Unlinked>,
    },
}

/// The other end of a connection; see [`Origin::peer`](super::Origin::peer).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A peer that is connected over TCP.
    Tcp(SocketAddr),
    /// A peer that is connected over a unix socket, on this machine.
    Unix,
}

/// Removes a socket's file when dropped, if it is still the one that we created: a successor may have put its own
/// in the same place.
#[derive(Debug)]
pub(super) struct Unlinked {
    path: PathBuf,
    made: Option<FileId>,
}

/// Device and inode.
type FileId = (u64, u64);

// === impl Listener ===

impl Listener {
    /// Binds `HOST:PORT`, or `unix:PATH`.
    ///
    /// `[::]:PORT` accepts IPv6 and IPv4, whatever the system's default is, and IPv4 alone if the kernel has no
    /// IPv6.
    ///
    /// A socket file that a dead process left behind is replaced; one that a process still listens on is not. The
    /// file is removed when the listener closes.
    ///
    /// # Errors
    /// Returns the operating system's error; `AddrInUse` if somebody listens there.
    pub async fn bind(address: &str) -> io::Result<Self> {
        match address.strip_prefix("unix:") {
            None => Ok(bind_tcp(address).await?.into()),
            Some(path) => bind_unix(Path::new(path)).await,
        }
    }

    /// Makes the listener speak TLS.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: super::tls::Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Returns the address that it listens on, as text.
    pub fn local_addr(&self) -> io::Result<String> {
        match &self.accept {
            Acceptor::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Acceptor::Unix { listener, .. } => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new(""));
                Ok(format!("unix:{}", path.display()))
            }
        }
    }

    fn new(accept: Acceptor) -> Self {
        Self {
            accept,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::new(Acceptor::Tcp(listener))
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::new(Acceptor::Unix {
            listener,
            _path: None,
        })
    }
}

async fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    match address.parse() {
        Ok(SocketAddr::V6(all)) if all.ip().is_unspecified() => match bind_both_families(all) {
            Err(error) if lacks_ipv6(&error) => {
                tracing::info!(address, "this machine has no IPv6; listening on IPv4 alone");
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, all.port())).await
            }
            bound => bound,
        },
        _ => TcpListener::bind(address).await,
    }
}

/// Binds every address of the machine. The socket itself is set to accept IPv4: the default is
/// `net.ipv6.bindv6only`, which some systems set.
fn bind_both_families(all: SocketAddrV6) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    // The rest is what tokio's `TcpListener::bind` does.
    socket.set_reuseaddr(true)?;
    socket.bind(all.into())?;
    socket.listen(1024)
}

/// Whether IPv6 is missing. With `ipv6.disable=1` on the kernel's command line there are no such sockets; if only the
/// interfaces lack IPv6, the address may be missing.
fn lacks_ipv6(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    error.is_some_and(|error| [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].contains(&error))
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::new(Acceptor::Unix {
        listener,
        _path: Some(Unlinked {
            path: path.to_owned(),
            made: file_id(path),
        }),
    }))
}

// === impl Acceptor ===

impl Acceptor {
    pub(super) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(tcp(stream, peer))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), Peer::Unix))
            }
        }
    }

    /// Accepts every connection that the kernel has accepted for us, then closes the listener. In the few
    /// microseconds between the last accept and the close, a connection can still come and be reset.
    ///
    /// It does not use tokio's `accept`, which assumes that nothing is there until epoll says otherwise.
    pub(super) fn sweep(self, mut serve: impl FnMut(Socket, Peer)) -> io::Result<usize> {
        let mut swept = 0;
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                while let Some((stream, peer)) = next(|| listener.accept()) {
                    if stream.set_nonblocking(true).is_ok()
                        && let Ok(stream) = TcpStream::from_std(stream)
                    {
                        let (socket, peer) = tcp(stream, peer);
                        serve(socket, peer);
                        swept += 1;
                    }
                }
            }
            Self::Unix { listener, _path } => {
                // The file goes first, so that no client finds it any more; then the clients that found it are served.
                drop(_path);
                let listener = listener.into_std()?;
                while let Some((stream, _)) = next(|| listener.accept()) {
                    if stream.set_nonblocking(true).is_ok()
                        && let Ok(stream) = UnixStream::from_std(stream)
                    {
                        serve(Either::Right(stream), Peer::Unix);
                        swept += 1;
                    }
                }
            }
        }
        Ok(swept)
    }
}

/// Returns the next connection of the backlog, skipping those that have given up in the meantime.
fn next<T>(mut accept: impl FnMut() -> io::Result<T>) -> Option<T> {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    loop {
        match accept() {
            Ok(accepted) => return Some(accepted),
            Err(error) => match error.kind() {
                ConnectionAborted | ConnectionReset | Interrupted => {}
                WouldBlock => return None,
                _ => {
                    tracing::warn!(%error, "the backlog could not be swept to its end");
                    return None;
                }
            },
        }
    }
}

fn tcp(stream: TcpStream, peer: SocketAddr) -> (Socket, Peer) {
    // Fails only if the socket is already gone.
    let _ = stream.set_nodelay(true);
    // A listener of both families reports IPv4 as ::ffff:10.0.0.1, which nobody would recognise in a log.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    (Either::Left(stream), Peer::Tcp(peer))
}

// === impl Peer ===

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The port does not identify the peer.
            Self::Tcp(address) => address.ip().fmt(f),
            Self::Unix => f.write_str("unix socket"),
        }
    }
}

// === impl Unlinked ===

impl Drop for Unlinked {
    fn drop(&mut self) {
        if self.made.is_some() && self.made == file_id(&self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let listener = Listener::bind("[::]:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap().parse().unwrap();
        for host in ["127.0.0.1", "::1"] {
            if host == "::1" && address.is_ipv4() {
                continue; // This machine has no IPv6.
            }
            let connecting = TcpStream::connect((host, address.port()));
            let (client, accepted) = tokio::join!(connecting, listener.accept.accept());
            client.unwrap();
            let (_, peer) = accepted.unwrap();
            assert_eq!(peer.to_string(), host);
        }
    }

    #[test]
    fn a_kernel_without_ipv6_is_told_from_a_port_that_is_taken() {
        for errno in [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL] {
            assert!(lacks_ipv6(&errno.into()), "{errno}");
        }
        for errno in [Errno::ADDRINUSE, Errno::ACCESS, Errno::MFILE] {
            assert!(!lacks_ipv6(&errno.into()), "{errno}");
        }
    }
}

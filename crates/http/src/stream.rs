//! The byte streams of connections: TCP or a unix socket, with or without TLS.

use std::os::fd::AsFd;

use rustix::net::{RecvFlags, recv};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

/// A connected socket.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// The stream that hyper reads from and writes to.
#[cfg(not(feature = "tls"))]
pub(super) type Stream = Socket;
/// The stream that hyper reads from and writes to.
#[cfg(feature = "tls")]
pub(super) type Stream = Either<Socket, Box<super::tls::TlsStream>>;

/// A stream that can tell whether there is something to read, without reading it.
pub(super) trait Waiting {
    /// Whether bytes are available that no read has delivered yet.
    ///
    /// tokio reads a socket only after epoll has reported it as readable, which a busy runtime learns
    /// late: a pending read does not prove that nothing is there.
    fn has_waiting_bytes(&self) -> bool;
}

impl Waiting for TcpStream {
    fn has_waiting_bytes(&self) -> bool {
        kernel_has_bytes(self)
    }
}

impl Waiting for UnixStream {
    fn has_waiting_bytes(&self) -> bool {
        kernel_has_bytes(self)
    }
}

impl<L: Waiting, R: Waiting> Waiting for Either<L, R> {
    fn has_waiting_bytes(&self) -> bool {
        match self {
            Self::Left(left) => left.has_waiting_bytes(),
            Self::Right(right) => right.has_waiting_bytes(),
        }
    }
}

impl<T: Waiting> Waiting for Box<T> {
    fn has_waiting_bytes(&self) -> bool {
        self.as_ref().has_waiting_bytes()
    }
}

#[cfg(test)]
impl Waiting for tokio::io::DuplexStream {
    fn has_waiting_bytes(&self) -> bool {
        false
    }
}

/// Whether the kernel has bytes to read. A socket that has failed or was closed has none that could be lost.
fn kernel_has_bytes(socket: impl AsFd) -> bool {
    let mut byte = [0];
    recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(_, n)| n > 0)
}

//! Detects HTTP/1.1 or HTTP/2. A client that speaks h2c with prior knowledge begins with a fixed preface
//! (RFC 9113, section 3.4); everything else is HTTP/1.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The client's preface of HTTP/2 (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol that was detected on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    Http1,
    Http2,
}

/// Recognises a protocol, byte by byte if need be. It is cancel safe: bytes that were read stay in `read`.
#[derive(Debug, Default)]
pub(super) struct Sniffer {
    read: BytesMut,
}

// === impl Sniffer ===

impl Sniffer {
    /// Reads until the protocol is clear; returns `None` if the peer closed without sending a byte.
    pub(super) async fn sniff(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Sniffed>> {
        loop {
            if let Some(protocol) = recognise(&self.read) {
                return Ok(Some(protocol));
            }
            if io.read_buf(&mut self.read).await? == 0 {
                // A peer that closes in the middle of what could be a preface sent no request.
                return Ok((!self.read.is_empty()).then_some(Sniffed::Http1));
            }
        }
    }

    /// Returns the bytes that were read, for the implementation of the protocol.
    pub(super) fn into_read(self) -> Bytes {
        self.read.freeze()
    }
}

fn recognise(read: &[u8]) -> Option<Sniffed> {
    let n = read.len().min(PREFACE.len());
    if read[..n] != PREFACE[..n] {
        Some(Sniffed::Http1)
    } else {
        (n == PREFACE.len()).then_some(Sniffed::Http2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_protocol_does_not_depend_on_how_the_bytes_are_cut(
            http2 in any::<bool>(), mut tail in prop::collection::vec(any::<u8>(), 0..40), cut in 0usize..60,
        ) {
            let mut bytes = if http2 { PREFACE.to_vec() } else { Vec::new() };
            bytes.append(&mut tail);
            let whole = recognise(&bytes);
            let first = recognise(&bytes[..cut.min(bytes.len())]);
            prop_assert!(first.is_none() || first == whole);
            if http2 { prop_assert_eq!(whole, Some(Sniffed::Http2)); }
        }
    }
}

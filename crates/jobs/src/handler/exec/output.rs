//! The part of a command's output that is kept. Output is always read to its end: a full pipe would block the command.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of the output.
pub(super) struct Head {
    kept: Vec<u8>,
    limit: usize,
}

/// The last bytes of the output.
pub(super) struct Tail {
    kept: Vec<u8>,
    limit: usize,
    cut: bool,
}

// === impl Head ===

impl Head {
    pub fn new(limit: usize) -> Self {
        let kept = Vec::new();
        Self { kept, limit }
    }

    pub async fn read(&mut self, source: Option<impl AsyncRead + Unpin>) {
        read(source, |bytes| {
            let room = self.limit - self.kept.len();
            self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        })
        .await;
    }

    pub fn into_bytes(self) -> Bytes {
        self.kept.into()
    }
}

// === impl Tail ===

impl Tail {
    pub fn new(limit: usize) -> Self {
        Self {
            kept: Vec::new(),
            limit,
            cut: false,
        }
    }

    pub async fn read(&mut self, source: Option<impl AsyncRead + Unpin>) {
        read(source, |bytes| self.push(bytes)).await;
    }

    /// Returns the text for people, and for any database: PostgreSQL's text can't hold a NUL.
    pub fn to_text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept).replace('\0', "\u{fffd}");
        let text = text.trim();
        match self.cut {
            true => format!("…{text}"),
            false => text.to_owned(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        if let Some(excess) = self.kept.len().checked_sub(self.limit)
            && excess > 0
        {
            self.kept.drain(..excess);
            self.cut = true;
        }
    }
}

async fn read(source: Option<impl AsyncRead + Unpin>, mut keep: impl FnMut(&[u8])) {
    let Some(mut source) = source else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = source.read(&mut buffer).await {
        keep(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_head_keeps_the_first_bytes_and_the_tail_the_last() {
        let source: Vec<u8> = (0..100_000).map(|n| b'a' + (n % 26) as u8).collect();
        let (mut head, mut tail) = (Head::new(5), Tail::new(5));

        head.read(Some(&source[..])).await;
        tail.read(Some(&source[..])).await;

        assert_eq!(head.into_bytes(), source[..5]);
        let last = String::from_utf8(source[source.len() - 5..].to_vec()).unwrap();
        assert_eq!(tail.to_text(), format!("…{last}"));
    }

    #[tokio::test]
    async fn what_is_short_is_kept_as_a_whole() {
        let mut tail = Tail::new(5);
        tail.read(Some(&b"a\0\n"[..])).await;
        assert_eq!(tail.to_text(), "a\u{fffd}");
    }
}

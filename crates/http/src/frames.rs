//! Where in HTTP/2's framing a connection stands: whether part of a request head has been received that hyper
//! says nothing of.

use super::sniff::PREFACE;

/// Length, type, flags and stream (RFC 9113, section 4.1).
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the bytes that a client sends, from its preface on.
#[derive(Debug)]
pub(super) struct Frames {
    preface_left: usize,
    head: [u8; HEAD],
    head_read: usize,
    payload_left: usize,
    /// HEADERS have come, and CONTINUATION is to follow.
    block_open: bool,
}

// === impl Frames ===

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            preface_left: PREFACE.len(),
            head: [0; HEAD],
            head_read: 0,
            payload_left: 0,
            block_open: false,
        }
    }

    /// Part of a frame, or of a header block, has been received.
    pub(super) fn is_inside(&self) -> bool {
        self.head_read > 0 || self.block_open
    }

    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        let preface = bytes.len().min(self.preface_left);
        self.preface_left -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            let n = if self.head_read < HEAD {
                let n = bytes.len().min(HEAD - self.head_read);
                self.head[self.head_read..][..n].copy_from_slice(&bytes[..n]);
                self.head_read += n;
                if self.head_read == HEAD {
                    let [a, b, c, ..] = self.head;
                    self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
                }
                n
            } else {
                let n = bytes.len().min(self.payload_left);
                self.payload_left -= n;
                n
            };
            bytes = &bytes[n..];
            if self.head_read == HEAD && self.payload_left == 0 {
                self.ended();
            }
        }
    }

    fn ended(&mut self) {
        self.head_read = 0;
        let [.., kind, flags, _, _, _, _] = self.head;
        if matches!(kind, HEADERS | CONTINUATION) {
            self.block_open = flags & END_HEADERS == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_frames_are_cut_only_their_ends_are_between_two(
            frames in prop::collection::vec((any::<u8>(), any::<bool>(), 0u8..50), 1..8),
            piece in 1usize..40,
        ) {
            let mut bytes = PREFACE.to_vec();
            let mut outside: Vec<usize> = (0..=bytes.len()).collect();
            let mut block_open = false;
            for (kind, ends, length) in frames {
                bytes.extend([0, 0, length, kind, if ends { END_HEADERS } else { 0 }, 0, 0, 0, 1]);
                bytes.extend(vec![7; usize::from(length)]);
                if kind == HEADERS || kind == CONTINUATION {
                    block_open = !ends;
                }
                if !block_open {
                    outside.push(bytes.len());
                }
            }
            let mut framing = Frames::new();
            let mut read = 0;
            for piece in bytes.chunks(piece) {
                framing.read(piece);
                read += piece.len();
                prop_assert_eq!(framing.is_inside(), !outside.contains(&read), "after {} bytes", read);
            }
        }
    }
}

//! Tracks the HTTP/2 frames of a connection, because hyper does not report them: whether part of a request head has
//! been received, and which request bodies are still to come.

use super::{sniff::PREFACE, uploads::Uploads};

/// Size of a frame's head: length, type, flags and stream (RFC 9113, section 4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A parser that follows the bytes of one connection in both directions, the client's from its preface on.
#[derive(Debug)]
pub(super) struct Frames {
    preface_left: usize,
    received: Direction,
    sent: Direction,
    /// Whether HEADERS have come, and CONTINUATION must follow.
    block_open: bool,
    uploads: Uploads,
}

/// The bytes of one direction, frame by frame.
#[derive(Debug, Default)]
struct Direction {
    head: [u8; HEAD],
    head_read: usize,
    payload_left: usize,
    /// The first four bytes of the payload, as far as they have come.
    word: [u8; 4],
}

/// The next piece of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Part of a frame's head.
    Head,
    /// This number of bytes of a frame's payload.
    Payload { kind: u8, bytes: usize },
}

/// A frame that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
    word: u32,
}

// === impl Frames ===

impl Frames {
    /// Follows a connection whose streams begin with this window for request bodies.
    pub(super) fn new(stream_window: u32) -> Self {
        Self {
            preface_left: PREFACE.len(),
            received: Direction::default(),
            sent: Direction::default(),
            block_open: false,
            uploads: Uploads::new(stream_window),
        }
    }

    pub(super) fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// Whether part of a frame, or of a header block, has been received.
    pub(super) fn is_inside(&self) -> bool {
        self.received.head_read > 0 || self.block_open
    }

    /// Follows bytes that the client has sent.
    pub(super) fn received(&mut self, mut bytes: &[u8]) {
        let preface = bytes.len().min(self.preface_left);
        self.preface_left -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if let Step::Payload { kind: DATA, bytes } = self.received.step(&mut bytes) {
                self.uploads.progressed(bytes);
            }
            if let Some(frame) = self.received.ended() {
                self.frame_received(frame);
            }
        }
    }

    /// Follows bytes that we have sent.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.sent.step(&mut bytes);
            if let Some(frame) = self.sent.ended() {
                match frame.kind {
                    WINDOW_UPDATE => self.uploads.granted(frame.stream, frame.word),
                    // Once an answer has begun, its handler and its client may talk with each other, and pause.
                    HEADERS | RST_STREAM => self.uploads.ended(frame.stream),
                    _ => {}
                }
            }
        }
    }

    fn frame_received(&mut self, frame: Frame) {
        if matches!(frame.kind, HEADERS | CONTINUATION) {
            self.block_open = frame.flags & END_HEADERS == 0;
        }
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            HEADERS if !ends => self.uploads.began(frame.stream),
            DATA => {
                self.uploads.received(frame.stream, frame.length);
                if ends {
                    self.uploads.ended(frame.stream);
                }
            }
            HEADERS | RST_STREAM => self.uploads.ended(frame.stream),
            _ => {}
        }
    }
}

// === impl Direction ===

impl Direction {
    /// Takes the next piece of a frame from the beginning of `bytes`, which must not be empty.
    fn step(&mut self, bytes: &mut &[u8]) -> Step {
        if self.head_read < HEAD {
            let n = bytes.len().min(HEAD - self.head_read);
            self.head[self.head_read..][..n].copy_from_slice(&bytes[..n]);
            self.head_read += n;
            self.payload_left = self.length();
            *bytes = &bytes[n..];
            return Step::Head;
        }
        let n = bytes.len().min(self.payload_left);
        let before = self.length() - self.payload_left;
        for (place, byte) in self.word.iter_mut().skip(before).zip(&bytes[..n]) {
            *place = *byte;
        }
        self.payload_left -= n;
        *bytes = &bytes[n..];
        Step::Payload {
            kind: self.head[3],
            bytes: n,
        }
    }

    /// Returns the frame that the last step has completed.
    fn ended(&mut self) -> Option<Frame> {
        if self.head_read < HEAD || self.payload_left > 0 {
            return None;
        }
        self.head_read = 0;
        let [.., kind, flags, a, b, c, d] = self.head;
        Some(Frame {
            kind,
            flags,
            // Its first bit is reserved, and so is that of a window's increment.
            stream: u32::from_be_bytes([a & 0x7f, b, c, d]),
            length: self.length(),
            word: u32::from_be_bytes(self.word) & 0x7fff_ffff,
        })
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        u32::from_be_bytes([0, a, b, c]) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: u32 = 100;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend(payload);
        frame
    }

    /// Follows a connection with these frames received and sent, in this order, in pieces of every size.
    fn after(frames: &[(bool, Vec<u8>)]) -> Frames {
        let mut all: Vec<Frames> = (1..20)
            .map(|piece| {
                let mut followed = Frames::new(WINDOW);
                followed.received(PREFACE);
                for (received, bytes) in frames {
                    for piece in bytes.chunks(piece) {
                        match received {
                            true => followed.received(piece),
                            false => followed.sent(piece),
                        }
                    }
                }
                followed
            })
            .collect();
        let awaited: Vec<usize> = all.iter().map(|f| f.uploads().awaited()).collect();
        assert!(
            awaited.iter().all(|n| *n == awaited[0]),
            "cut in pieces: {awaited:?}"
        );
        all.remove(0)
    }

    fn received(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> (bool, Vec<u8>) {
        (true, frame(kind, flags, stream, payload))
    }

    fn sent(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> (bool, Vec<u8>) {
        (false, frame(kind, flags, stream, payload))
    }

    #[test]
    fn a_body_is_awaited_from_its_headers_to_its_end() {
        let begins = received(HEADERS, END_HEADERS, 3, &[7; 3]);
        let goes_on = received(DATA, 0, 3, &[7; 10]);
        let awaited = |last: &[(bool, Vec<u8>)]| {
            let frames = [begins.clone(), goes_on.clone()];
            after(&[&frames, last].concat()).uploads().awaited()
        };
        assert_eq!(awaited(&[]), 1);
        assert_eq!(awaited(&[received(6, END_STREAM, 0, &[7; 8])]), 1, "PING");
        assert_eq!(awaited(&[received(HEADERS, 0, 5, &[7; 3])]), 2);
        let ends = [
            received(DATA, END_STREAM, 3, &[]),
            // Trailers end a body as well.
            received(HEADERS, END_HEADERS | END_STREAM, 3, &[7]),
            received(RST_STREAM, 0, 3, &[0, 0, 0, 8]),
            // An answer that has begun ends the wait, whatever becomes of the rest of the body.
            sent(HEADERS, END_HEADERS, 3, &[7]),
            sent(RST_STREAM, 0, 3, &[0; 4]),
        ];
        for end in ends {
            assert_eq!(awaited(std::slice::from_ref(&end)), 0, "{end:?}");
        }
    }

    #[test]
    fn a_body_is_not_awaited_from_a_client_that_has_no_window() {
        let begins = received(HEADERS, END_HEADERS, 3, &[7; 3]);
        let full = received(DATA, 0, 3, &[7; WINDOW as usize]);
        let grant = |stream| sent(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]);

        let without = after(&[begins.clone(), full.clone()]);
        let other = after(&[begins.clone(), full.clone(), grant(5)]);
        let with = after(&[begins, full, grant(3)]);

        assert_eq!(without.uploads().awaited(), 0);
        assert_eq!(other.uploads().awaited(), 0);
        assert_eq!(with.uploads().awaited(), 1);
        assert_eq!(with.uploads().progress(), WINDOW as usize);
    }

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
            let mut framing = Frames::new(WINDOW);
            let mut read = 0;
            for piece in bytes.chunks(piece) {
                framing.received(piece);
                read += piece.len();
                prop_assert_eq!(framing.is_inside(), !outside.contains(&read), "after {} bytes", read);
            }
        }
    }
}

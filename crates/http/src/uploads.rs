//! The request bodies of an HTTP/2 connection that are still to come, and whether their client may send them.
//!
//! A client that sends nothing has not always forgotten its upload: while a handler is slow to read, we grant no window,
//! and it can't go on. Only where both windows have room is it the client that is waited for.

/// The window that a connection begins with (RFC 9113, section 6.9.2).
const CONNECTION_WINDOW: i64 = 65_535;

/// Bodies that are followed at a time, more than a connection may have streams. One beyond that is never awaited.
const BODIES: usize = 1024;

/// The request bodies of one connection that have begun, have not ended, and are not answered.
#[derive(Debug)]
pub(super) struct Uploads {
    bodies: Vec<Body>,
    /// What its client may still send of a body, before it is granted more.
    stream_window: i64,
    connection_window: i64,
    /// Bytes of bodies that have come, of all streams.
    progress: usize,
}

#[derive(Debug)]
struct Body {
    stream: u32,
    window: i64,
}

// === impl Uploads ===

impl Uploads {
    pub(super) fn new(stream_window: u32) -> Self {
        Self {
            bodies: Vec::new(),
            stream_window: stream_window.into(),
            connection_window: CONNECTION_WINDOW,
            progress: 0,
        }
    }

    /// How many bodies wait for nothing but their client.
    pub(super) fn awaited(&self) -> usize {
        if self.connection_window <= 0 {
            return 0;
        }
        self.bodies.iter().filter(|body| body.window > 0).count()
    }

    /// How much has come so far.
    pub(super) fn progress(&self) -> usize {
        self.progress
    }

    pub(super) fn began(&mut self, stream: u32) {
        if self.bodies.len() < BODIES && self.body(stream).is_none() {
            self.bodies.push(Body {
                stream,
                window: self.stream_window,
            });
        }
    }

    /// So many bytes of a body have come, part of a frame.
    pub(super) fn progressed(&mut self, bytes: usize) {
        self.progress = self.progress.wrapping_add(bytes);
    }

    /// A frame of a body has come. It takes from the windows with everything that is in it.
    pub(super) fn received(&mut self, stream: u32, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.connection_window -= bytes;
        if let Some(body) = self.body(stream) {
            body.window -= bytes;
        }
    }

    /// We let the client send so many bytes more.
    pub(super) fn granted(&mut self, stream: u32, bytes: u32) {
        let window = match stream {
            0 => Some(&mut self.connection_window),
            stream => self.body(stream).map(|body| &mut body.window),
        };
        if let Some(window) = window {
            *window += i64::from(bytes);
        }
    }

    pub(super) fn ended(&mut self, stream: u32) {
        if let Some(place) = self.bodies.iter().position(|body| body.stream == stream) {
            self.bodies.swap_remove(place);
        }
    }

    fn body(&mut self, stream: u32) -> Option<&mut Body> {
        self.bodies.iter_mut().find(|body| body.stream == stream)
    }
}

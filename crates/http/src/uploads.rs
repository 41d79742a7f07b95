//! The request bodies of an HTTP/2 connection that are still to come, and whether their client may send them.
//!
//! A client that sends nothing has not always forgotten its upload: while a handler is slow to read, we grant no
//! window, and the client can't go on. Only if both windows have room do we wait for the client.

/// The initial window of a connection (RFC 9113, section 6.9.2).
const CONNECTION_WINDOW: i64 = 65_535;

/// Maximum number of bodies followed at a time, more than a connection may have streams; others are never awaited.
const BODIES: usize = 1024;

/// The request bodies of one connection that have begun, have not ended, and have no answer yet.
#[derive(Debug)]
pub(super) struct Uploads {
    bodies: Vec<Body>,
    /// The initial window of a stream: the bytes of a body that a client may send before it is granted more.
    stream_window: i64,
    connection_window: i64,
    /// Number of bytes of bodies that have come, on all streams.
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

    /// Returns how many bodies wait for nothing but their client.
    pub(super) fn awaited(&self) -> usize {
        if self.connection_window <= 0 {
            return 0;
        }
        self.bodies.iter().filter(|body| body.window > 0).count()
    }

    /// Returns the number of bytes of bodies that have come so far.
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

    /// Notes that this many bytes of a body have come, as part of a frame.
    pub(super) fn progressed(&mut self, bytes: usize) {
        self.progress = self.progress.wrapping_add(bytes);
    }

    /// Notes that a frame of a body has come. Everything in it, padding included, counts against the windows.
    pub(super) fn received(&mut self, stream: u32, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.connection_window -= bytes;
        if let Some(body) = self.body(stream) {
            body.window -= bytes;
        }
    }

    /// Notes that we let the client send this many more bytes.
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

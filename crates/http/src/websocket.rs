//! A websocket that is closed properly when clients are asked to leave.
//!
//! A peer that gets a Close frame with 1001 ("going away", RFC 6455, section 7.4.1) knows that it should
//! connect again. Just dropping the connection would lose messages that the peer has sent in the meantime; so we
//! wait for its answer, a Close frame of its own, and still deliver the messages before it.

use std::time::Duration;

use axum::{
    Error,
    extract::ws::{self, CloseFrame, Message, close_code},
};
use tokio::time::{Instant, timeout_at};

use lameduck_lifecycle::Drain;

use super::leaving::Leave;

/// How long the peer may take to answer our Close frame.
const ECHO: Duration = Duration::from_secs(5);

/// axum's websocket, closed properly when clients are asked to leave.
///
/// ```
/// use axum::{extract::ws::WebSocketUpgrade, response::Response};
/// use lameduck_http::{CurrentDrain, WebSocket};
///
/// async fn echo(upgrade: WebSocketUpgrade, CurrentDrain(drain): CurrentDrain) -> Response {
///     upgrade.on_upgrade(|socket| async move {
///         let mut socket = WebSocket::new(socket, drain);
///         while let Some(Ok(message)) = socket.recv().await {
///             if socket.send(message).await.is_err() {
///                 break;
///             }
///         }
///     })
/// }
/// ```
pub struct WebSocket {
    socket: ws::WebSocket,
    leave: Leave,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Our Close frame is sent; the peer has until this instant to answer.
    Closing(Instant),
    Closed,
}

// === impl WebSocket ===

impl WebSocket {
    /// Wraps a websocket. Take the drain from the request, by the extractor [`CurrentDrain`](crate::CurrentDrain).
    pub fn new(socket: ws::WebSocket, drain: Drain) -> Self {
        Self {
            socket,
            leave: Leave::new(drain),
            state: State::Open,
        }
    }

    /// Returns the next message, or `None` if the websocket has ended. When clients are asked to leave, it sends the
    /// Close frame, goes on delivering messages that the peer sent before it saw that frame, and ends with the peer's
    /// own Close frame, after 5 s without one, or at the hard deadline.
    pub async fn recv(&mut self) -> Option<Result<Message, Error>> {
        loop {
            let message = match self.state {
                State::Closed => return None,
                State::Open => tokio::select! {
                    message = self.socket.recv() => message,
                    () = &mut self.leave => {
                        self.say_goodbye().await;
                        continue;
                    }
                },
                State::Closing(until) => {
                    let echo = timeout_at(until, self.socket.recv()).await;
                    echo.unwrap_or_default()
                }
            };
            if !matches!(&message, Some(Ok(message)) if !matches!(message, Message::Close(_))) {
                self.state = State::Closed;
            }
            return message;
        }
    }

    /// Sends a message. Nothing may be sent after our Close frame (RFC 6455, section 5.5.1): later messages
    /// are dropped, because the peer will ask again wherever it connects next.
    ///
    /// # Errors
    /// Fails if the connection is broken.
    pub async fn send(&mut self, message: Message) -> Result<(), Error> {
        match self.state {
            State::Open => self.socket.send(message).await,
            State::Closing(_) | State::Closed => Ok(()),
        }
    }

    async fn say_goodbye(&mut self) {
        let close = Message::Close(Some(CloseFrame {
            code: close_code::AWAY,
            reason: "going away".into(),
        }));
        // Set first: if this future is dropped, the frame must not be sent twice, and the next read flushes it.
        self.state = State::Closing(Instant::now() + ECHO);
        if self.socket.send(close).await.is_err() {
            self.state = State::Closed;
        }
    }
}

impl std::fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

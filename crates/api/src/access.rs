//! Access to the API: open to everybody, or only to clients that have a token from a file.
//!
//! The file has one token a line; empty lines and lines that begin with `#` are skipped. The file is checked for
//! changes while requests come, so that a token can be exchanged without a restart: first add the new one, then
//! move the clients, then remove the old one. While the file can't be read, or holds no token, the tokens that
//! were read before stay valid: a half-written file must not lock everybody out.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest as _, Sha256};

use super::Problem;

/// Shortest interval between two checks of the file; it is only checked when a request comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a request waits for that check.
const PATIENCE: Duration = Duration::from_secs(1);

/// Minimum length of a token in characters: anybody who can guess it may use the API.
const MIN_TOKEN: usize = 16;

/// Access to the API.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Access {
    /// Everybody who reaches the listener.
    #[default]
    Anonymous,
    /// Clients that have one of these tokens.
    Tokens(Tokens),
}

/// Bearer tokens, read from a file and again when it changes.
#[derive(Clone)]
pub struct Tokens(Arc<File>);

/// Error when the tokens can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The file can't be read.
    #[error("cannot read the tokens from {path}: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// The reason.
        error: io::Error,
    },
    /// The file holds no token.
    #[error(
        "there is no token in {path}: write one into each line, for example from `openssl rand -hex 32`"
    )]
    Empty {
        /// The file.
        path: String,
    },
    /// A line of the file is not fit to be a token.
    #[error(
        "in {path}, line {line}: a token has at least {MIN_TOKEN} characters of visible ASCII; make one by \
         `openssl rand -hex 32`"
    )]
    Unfit {
        /// The file.
        path: String,
        /// The line, the first being 1.
        line: usize,
    },
}

struct File {
    path: PathBuf,
    /// Salt that only this process knows. Without it, the time that a comparison takes would reveal something about
    /// a digest that anybody can compute.
    salt: [u8; 16],
    digests: RwLock<Vec<Digest>>,
    looked: Mutex<(Instant, Option<Stamp>)>,
}

type Digest = [u8; 32];

/// Changes when the file's content does, also through the symbolic links by which Kubernetes replaces it.
type Stamp = (u64, SystemTime, u64);

/// Lets a request through, or answers that it needs a valid token.
pub(super) async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    let Access::Tokens(tokens) = access else {
        return next.run(request).await;
    };
    tokens.refresh().await;
    let refusal = match bearer(&request) {
        Some(token) if tokens.know(token) => None,
        Some(_) => Some("this token is not known here"),
        None => Some("a token is needed: send it as 'Authorization: Bearer …'"),
    };
    match refusal {
        None => next.run(request).await,
        Some(why) => Problem::unauthorized(why).into_response(),
    }
}

/// Returns the token of a request. The scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(request: &Request) -> Option<&[u8]> {
    let value = request.headers().get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ");
    is_bearer.then(|| token.trim_ascii())
}

// === impl Tokens ===

impl Tokens {
    /// Whether a line of the file is fit to be a token: long enough, and of visible ASCII.
    pub fn is_fit(token: &str) -> bool {
        token.len() >= MIN_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// Reads a file of tokens.
    ///
    /// # Errors
    /// Returns an error if the file can't be read, holds no token, or holds one that is too short.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, AccessError> {
        let (path, salt) = (path.into(), *uuid::Uuid::new_v4().as_bytes());
        let stamp = stamp(&path);
        let digests = load(&path, &salt)?;
        Ok(Self(Arc::new(File {
            path,
            salt,
            digests: RwLock::new(digests),
            looked: Mutex::new((Instant::now(), stamp)),
        })))
    }

    /// Reads the file again if it is time to. If its disk hangs, the tokens from before stay valid.
    async fn refresh(&self) {
        if self.0.is_due() {
            let file = self.0.clone();
            let look = tokio::task::spawn_blocking(move || file.look_again());
            let _ = tokio::time::timeout(PATIENCE, look).await;
        }
    }

    fn know(&self, token: &[u8]) -> bool {
        let digest = digest(&self.0.salt, token);
        let digests = self
            .0
            .digests
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        digests.contains(&digest)
    }
}

/// Never shows the tokens.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

// === impl File ===

impl File {
    fn looked(&self) -> MutexGuard<'_, (Instant, Option<Stamp>)> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to check the file; the caller that gets `true` has to do so.
    fn is_due(&self) -> bool {
        let mut looked = self.looked();
        let due = looked.0.elapsed() >= LOOK_EVERY;
        if due {
            looked.0 = Instant::now();
        }
        due
    }

    /// Reads the file if it has changed. No lock is held meanwhile, because every request takes it.
    fn look_again(&self) {
        let now = stamp(&self.path);
        if std::mem::replace(&mut self.looked().1, now) == now {
            return;
        }
        match load(&self.path, &self.salt) {
            Ok(digests) => {
                tracing::info!(path = %self.path.display(), tokens = digests.len(), "tokens read again");
                *self.digests.write().unwrap_or_else(PoisonError::into_inner) = digests;
            }
            Err(error) => tracing::warn!(
                %error,
                "the tokens could not be read again; those from before still hold"
            ),
        }
    }
}

fn load(path: &Path, salt: &[u8]) -> Result<Vec<Digest>, AccessError> {
    let shown = || path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| AccessError::Unreadable {
        path: shown(),
        error,
    })?;
    let mut digests = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let token = line.trim();
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        if !Tokens::is_fit(token) {
            let (path, line) = (shown(), number);
            return Err(AccessError::Unfit { path, line });
        }
        digests.push(digest(salt, token.as_bytes()));
    }
    match digests.is_empty() {
        true => Err(AccessError::Empty { path: shown() }),
        false => Ok(digests),
    }
}

fn digest(salt: &[u8], token: &[u8]) -> Digest {
    Sha256::new()
        .chain_update(salt)
        .chain_update(token)
        .finalize()
        .into()
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.modified().ok()?, meta.len()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tracing_test::traced_test;

    use super::*;

    const OLD: &str = "0123456789abcdef-old";
    const NEW: &str = "0123456789abcdef-new";

    fn known(tokens: &Tokens) -> [bool; 2] {
        tokens.0.look_again();
        [OLD, NEW].map(|token| tokens.know(token.as_bytes()))
    }

    #[test]
    #[traced_test]
    fn as_long_as_the_file_cannot_be_read_the_old_tokens_hold() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("tokens");
        fs::write(&file, OLD).unwrap();
        let tokens = Tokens::from_file(&file).unwrap();

        fs::remove_file(&file).unwrap();
        assert_eq!(known(&tokens), [true, false]);
        assert!(logs_contain("those from before still hold"));
        fs::write(&file, "# half a file").unwrap();
        assert_eq!(known(&tokens), [true, false]);

        fs::write(&file, NEW).unwrap();
        assert_eq!(known(&tokens), [false, true]);
        assert!(
            !logs_contain(OLD) && !logs_contain(NEW),
            "a token was logged"
        );
        assert!(!format!("{tokens:?}").contains("abcdef"));
    }
}

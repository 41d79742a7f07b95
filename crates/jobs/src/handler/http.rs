//! Posts each job to an HTTP endpoint.
//!
//! ```text
//!   payload ──▶ body            ┌────────┐ 2xx ──▶ done: the body is the result, its first bytes
//!   lameduck-… in the headers   │ target │ 202 ──▶ deferred: the outcome will be told
//!   signed, where there are     └────────┘ else ─▶ failed: the body's first bytes are in the error
//!   secrets
//! ```
//!
//! The operator sets the target: nothing that a submitter sends decides where a job goes.
//!
//! | answer | the job | tried again |
//! | --- | --- | --- |
//! | 2xx | done: the body is the result, its first 64 KiB | |
//! | 202 | deferred, for as long as `lameduck-deferred` says (`1800`, `30m`, at most `7d`), else an hour | when no outcome came by then |
//! | 3xx | failed: redirects are not followed, the error says where it pointed | as below |
//! | 410 | failed | never: dead |
//! | another 4xx, 5xx | failed: the body's first 8 KiB are in the error | after its `Retry-After`, clamped by the queue; without one by the queue's backoff |
//! | the connection breaks, or what comes is no HTTP | failed: the target may have done the work | by the queue's backoff |
//! | no connection: refused, no such host, TLS, silence for 5 s | postponed; the queue tries one job at a time until one gets an answer | after 1 s, growing to 30 s |
//! | the same, and for 5 min nobody got an answer | failed; the others wait and lose no attempt | by the queue's backoff |
//!
//! A 4xx is tried again although it blames the request: a faulty rollout answers 404, 401 and 422 to
//! jobs with nothing wrong, and a few wasted requests are cheaper than dead jobs. A target that knows
//! better says 410. A `Retry-After` of 0, or in the past, is ignored: all attempts would be gone in
//! milliseconds. The sizes and times are defaults.
//!
//! **Told to stop.** HTTP can't ask a target to come to an end. So a request that is on its way goes on until
//! the job's time is over; then its connection is closed (over HTTP/2 its stream is reset) and the job is
//! given back. A target that wants to know beforehand reads `lameduck-deadline`; one whose work must not be done
//! twice at once fences it by `lameduck-claim`. If no byte of a request was sent, the job is given back at once.
//!
//! **Long work.** A target that answers 202 keeps the claim, and ends the job by `POST
//! /v1/jobs/{id}/outcome` with the header `Lameduck-Claim`. The job holds up neither a worker nor a drain meanwhile.
//!
//! Connections are kept and reused. `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` work as in other programs.

use std::{sync::OnceLock, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, RequestBuilder, Response, redirect};
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::{Context, Handler, Retry, Verdict};
use crate::job::Job;

mod answer;
mod coding;
mod payload;
mod request;
mod signature;
mod target;
mod trust;

use payload::Begun;
pub use signature::{InvalidSecret, Secret};
pub use target::InvalidTarget;
use target::Target;

/// Number of bytes of an answer that are kept as the result.
const RESULT_LIMIT: usize = 64 << 10;
/// Maximum time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum wait of a job that did not reach its target, before jitter.
const UNREACHABLE_WAIT: Duration = Duration::from_secs(1);
/// How long the target may be unreachable before attempts count. Longer than a rollout with an image to pull.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long an unused connection is kept: shorter than the 5 s after which common servers (Node, uvicorn) close
/// it, because a POST that crosses their FIN is a failed attempt.
const IDLE: Duration = Duration::from_secs(4);
/// Interval between pings to an HTTP/2 peer with open streams, and maximum time for its answer.
const PING: Duration = Duration::from_secs(20);
/// Number of immediate resends of a request that an HTTP/2 peer refused unread, as peers in a drain do.
const RESENDS: usize = 2;

/// A handler that posts to an HTTP endpoint.
///
/// ```
/// use lameduck_jobs::handler::http::Http;
///
/// let resize = Http::new("http://resize.media.svc:8080/jobs")?
///     .secrets(vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Http {
    target: Target,
    secrets: Vec<Secret>,
    roots: Vec<CertificateDer<'static>>,
    result_limit: usize,
    connect_timeout: Duration,
    patience: Duration,
    // Created with the first job, when the fields above no longer change.
    client: OnceLock<Result<Client, String>>,
}

/// Why there is no answer.
enum Unanswered {
    /// Nothing reached the target.
    NotSent(reqwest::Error),
    /// The target may have the request, or part of it.
    Broken(reqwest::Error),
}

/// Returns the TLS settings of our clients. They trust the system's certificate authorities if it has any, or else
/// Mozilla's, which are compiled in, so that TLS also works in an image that contains only the program.
///
/// # Errors
/// Returns an error if TLS itself can't be set up.
pub fn client_tls() -> Result<rustls::ClientConfig, rustls::Error> {
    trust::tls(&[])
}

// === impl Http ===

impl Http {
    /// Makes a handler that posts to this URL, with the scheme `http` or `https`. A user and a password in it are
    /// sent as basic authentication.
    ///
    /// # Errors
    /// Returns an error if it is not such a URL.
    pub fn new(url: &str) -> Result<Self, InvalidTarget> {
        Ok(Self {
            target: Target::parse(url)?,
            secrets: Vec::new(),
            roots: Vec::new(),
            result_limit: RESULT_LIMIT,
            connect_timeout: CONNECT_TIMEOUT,
            patience: PATIENCE,
            client: OnceLock::new(),
        })
    }

    /// Signs each request with each of these, as Standard Webhooks specifies (default: none, not signed). With two of
    /// them, the target can change from one to the other without a moment in which nothing verifies.
    pub fn secrets(mut self, secrets: Vec<Secret>) -> Self {
        self.secrets = secrets;
        self
    }

    /// Keeps the first `bytes` of an answer as the result (default: 64 KiB). The rest is read and
    /// dropped as long as that is cheaper than a new connection.
    pub fn result_limit(mut self, bytes: usize) -> Self {
        self.result_limit = bytes;
        self
    }

    /// Sets how long to wait for a connection, TLS included (default: 5 s).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long the target may be out of reach before the attempts of jobs that are tried count (default:
    /// 5 min).
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Trusts these certificate authorities, too. Those of the system (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or
    /// else the places where distributions keep them) are trusted anyway, or Mozilla's if it has none, as in an
    /// image built from scratch.
    ///
    /// # Errors
    /// Returns an error if this is not PEM, or contains no certificate.
    pub fn root_certificate_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, InvalidTarget> {
        self.roots.extend(trust::authorities(pem.as_ref())?);
        Ok(self)
    }

    fn client(&self) -> Result<&Client, Verdict> {
        let client = self.client.get_or_init(|| self.new_client());
        client.as_ref().map_err(|error| Verdict::Failed {
            error: format!("there is no HTTP client: {error}"),
            retry: Retry::Backoff,
        })
    }

    fn new_client(&self) -> Result<Client, String> {
        let tls = trust::tls(&self.roots).map_err(|error| chain(&error))?;
        let client = Client::builder()
            .user_agent(concat!("lameduck/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .tls_backend_preconfigured(tls);
        client.build().map_err(|error| chain(&error))
    }

    /// Sends the request and reads its answer, however long that takes.
    async fn exchange(
        &self,
        client: &Client,
        job: &Job,
        context: &Context,
        begun: &Begun,
    ) -> Verdict {
        let mut refusals = 0;
        loop {
            let request = match self.request(client, job, context, begun) {
                Ok(request) => request,
                Err(verdict) => return verdict,
            };
            match send(request, begun).await {
                Ok(response) => {
                    match answer::asks_for_less(response.status()) {
                        true => context.pushed_back(),
                        false => context.begun(),
                    }
                    return answer::verdict(&self.target, response, self.result_limit).await;
                }
                Err(Unanswered::NotSent(error)) if refusals < RESENDS && was_refused(&error) => {
                    refusals += 1;
                }
                Err(Unanswered::NotSent(error)) => return self.unreachable(&error),
                Err(Unanswered::Broken(error)) => return self.broken(&error),
            }
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Verdict {
        Verdict::Postponed {
            error: format!("{} can't be reached: {}", self.target, chain(error)),
            // Randomized, so that jobs that failed together do not come back together.
            wait: UNREACHABLE_WAIT.mul_f64(0.5 + 0.5 * fastrand::f64()),
        }
    }

    fn broken(&self, error: &reqwest::Error) -> Verdict {
        Verdict::Failed {
            error: format!(
                "{} did not answer, and may have done the work: {}",
                self.target,
                chain(error)
            ),
            retry: Retry::Backoff,
        }
    }
}

#[async_trait]
impl Handler for Http {
    async fn run(&self, job: &Job, context: Context) -> Verdict {
        if context.stop.is_cancelled() || context.cut.is_cancelled() {
            return Verdict::Released;
        }
        let client = match self.client() {
            Ok(client) => client,
            Err(verdict) => return verdict,
        };
        let begun = Begun::new();
        tokio::select! {
            // In this order, so that an answer that has arrived counts.
            biased;
            verdict = self.exchange(client, job, &context, &begun) => verdict,
            () = context.cut.cancelled() => Verdict::Released,
            () = stopped_before(&begun, &context.stop) => Verdict::Released,
        }
    }

    fn postpones_for(&self) -> Option<Duration> {
        Some(self.patience)
    }
}

/// Returns if the run is told to stop before anything was sent; otherwise never returns.
async fn stopped_before(begun: &Begun, stop: &CancellationToken) {
    stop.cancelled().await;
    if begun.is_set() {
        std::future::pending().await
    }
}

async fn send(request: RequestBuilder, begun: &Begun) -> Result<Response, Unanswered> {
    // The URL is removed, because its query may hold a token and errors are kept with the job.
    request
        .send()
        .await
        .map_err(|error| match error.without_url() {
            error if error.is_connect() || was_refused(&error) || !begun.is_set() => {
                Unanswered::NotSent(error)
            }
            error => Unanswered::Broken(error),
        })
}

/// Whether an HTTP/2 peer says that it has not processed the request: by REFUSED_STREAM, or by a GOAWAY
/// whose last stream is an earlier one (RFC 9113, section 8.7).
fn was_refused(error: &reqwest::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(|error| match error.reason() {
            Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
            Some(h2::Reason::REFUSED_STREAM) => error.is_reset() && error.is_remote(),
            _ => false,
        })
}

/// Returns an error and its causes as text, each once: some errors repeat their cause in their own message.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error).map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

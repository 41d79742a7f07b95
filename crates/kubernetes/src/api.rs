//! Requests to the API server, each bounded in time and size.
//!
//! kube's `Api` and `watcher` are made for controllers, which live forever and may wait forever. A drain
//! has seconds. This client therefore differs:
//!
//! - every request has a time limit for the response head and one for the body: an API server that accepts and
//!   never answers must cost two seconds, not the drain;
//! - nothing is retried internally (kube would, on 429, 503 and 504): the caller decides whether it still matters;
//! - the response head is kept: `Date` is the only reliable clock for a `deletionTimestamp`, and `Retry-After`
//!   the only reliable wait;
//! - the size of a body is limited;
//! - after a refusal the token is read again and tried once more, and whether one was ever accepted is remembered:
//!   together they distinguish a Pod that is gone from a token that was never valid.

use std::{
    fmt::Debug,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SubjectRulesReviewStatus};
use kube::{
    Client, Config, Resource,
    api::{ListParams, ObjectList, WatchParams},
    client::Body,
    core::{Request, Status},
};
use prometheus::Registry;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    events::EventObject,
    fault,
    metrics::Metrics,
    token::Claims,
    watch::{WATCH, Watch},
};

/// Time limit for the response head, connecting included.
const HEAD: Duration = Duration::from_secs(2);
/// Time limit for the body, counted from the head.
const BODY: Duration = Duration::from_secs(5);
/// Maximum size of a body in bytes; a page of fifty slices of a thousand endpoints each stays below this.
const LARGEST_BODY: usize = 64 << 20;
/// Maximum size of an error's body in bytes; it only ends up in a log line.
const LARGEST_ERROR: usize = 16 << 10;

/// A client of the API server for one namespace.
#[derive(Clone)]
pub struct Api {
    config: Arc<Config>,
    client: Arc<Mutex<Authenticated>>,
    namespace: String,
    metrics: Metrics,
    standing: Arc<Standing>,
}

/// A client, and the token that was in the file when it was made.
struct Authenticated {
    client: Client,
    token: Option<Vec<u8>>,
}

/// Facts about the token and the server, learned from the API server's answers.
#[derive(Debug, Default)]
struct Standing {
    /// Whether an answer has shown that the token was accepted.
    accepted: AtomicBool,
    /// Whether the token is known to be useless now, so that no more requests are sent.
    revoked: AtomicBool,
    /// Number of seconds by which the API server's clock is ahead of ours.
    ahead: AtomicI64,
    /// Whether creating Events in the core group was denied.
    core_events_denied: AtomicBool,
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The API server refused the request.
    #[error("{code} {message}")]
    Status {
        /// The status code of the answer.
        code: u16,
        /// The API server's message.
        message: String,
        /// How long the API server asked us to wait.
        retry_after: Option<Duration>,
    },
    /// No answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// The API server could not be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The answer is not that of a Kubernetes API server.
    #[error("not a Kubernetes answer: {0}")]
    Invalid(String),
    /// No request was sent, because the token is known to be useless now.
    #[error("not asked: the Pod is gone, and its token with it")]
    Revoked,
}

/// An object, and both clocks at the time of the read.
#[derive(Debug)]
pub struct Answer<K> {
    /// The object.
    pub object: K,
    /// The API server's clock compared with ours.
    pub clock: Clock,
}

/// The API server's clock compared with ours: when ours showed `local`, or a little later, the server's showed
/// `server`, or up to a second more (`Date` has whole seconds).
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Our clock just before the request was sent.
    pub local: Instant,
    /// The API server's clock, in seconds since 1970.
    pub server: i64,
}

// === impl Api ===

impl Api {
    /// Creates a client whose requests are not counted in any metric. Needs a runtime.
    ///
    /// # Errors
    /// Fails if no client can be made from the configuration, for example if a certificate cannot be read.
    pub fn uncounted(config: Config, namespace: &str) -> Result<Self, kube::Error> {
        Self::new(config, namespace, Metrics::register(&Registry::new()))
    }

    /// Creates a client. Needs a runtime.
    pub(super) fn new(
        mut config: Config,
        namespace: &str,
        metrics: Metrics,
    ) -> Result<Self, kube::Error> {
        config.connect_timeout = Some(HEAD);
        config.default_retry = false;
        // From Kubernetes 1.37 on the API server also compresses watches, with one gzip member for each event, and
        // kube's decoder treats everything after the first member as garbage (kube-rs/kube, issue 2079). Compression
        // is on if a program that uses this library enables kube's feature `gzip`. Bodies here are small.
        config.disable_compression = true;
        let client = Authenticated::new(&config)?;
        Ok(Self {
            config: Arc::new(config),
            client: Arc::new(Mutex::new(client)),
            namespace: namespace.to_owned(),
            metrics,
            standing: Arc::default(),
        })
    }

    /// Returns whether any answer so far has shown that the token was accepted.
    pub(super) fn was_accepted(&self) -> bool {
        self.standing.accepted.load(Ordering::Acquire)
    }

    /// Stops all requests: every further request fails at once.
    pub(super) fn revoke(&self) {
        self.standing.revoked.store(true, Ordering::Release);
    }

    /// Returns the claims of the token in the file; `None` if there is no file, or it can't be read.
    pub(super) fn claims(&self) -> Option<Claims> {
        Claims::read(Path::new(self.config.auth_info.token_file.as_ref()?))
    }

    /// Returns the API server's current time in seconds since 1970, as estimated from its latest answer.
    pub(super) fn server_now(&self) -> i64 {
        jiff::Timestamp::now().as_second() + self.standing.ahead.load(Ordering::Acquire)
    }

    /// Returns the namespace of the requests.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Reads one object with quorum: without a `resourceVersion`, no cache may answer.
    pub async fn get<K>(&self, name: &str) -> Result<Answer<K>, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let request = self.url::<K>().get(name, &Default::default());
        let (object, clock) = self.fetch(request).await?;
        Ok(Answer { object, clock })
    }

    /// Reads one page of a list.
    pub async fn list<K>(&self, params: &ListParams) -> Result<ObjectList<K>, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let request = self.url::<K>().list(params);
        Ok(self.fetch(request).await?.0)
    }

    /// Creates a review, an object that is not stored, and returns the API server's answer.
    pub async fn create<K>(&self, object: &K) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + serde::Serialize + DeserializeOwned,
    {
        let body = serde_json::to_vec(object).map_err(|e| ApiError::Invalid(e.to_string()))?;
        let url = Request::new(K::url_path(&(), None));
        Ok(self.fetch(url.create(&Default::default(), body)).await?.0)
    }

    /// Watches one object, by name, from the given version on.
    pub(super) async fn watch<K>(&self, name: &str, version: &str) -> Result<Watch<K>, ApiError>
    where
        K: Resource<DynamicType = ()>,
    {
        let params = WatchParams::default()
            .fields(&format!("metadata.name={name}"))
            .timeout(WATCH.as_secs() as u32);
        let request = self.url::<K>().watch(&params, version);
        let opened = self.head(request).await;
        self.count(opened.as_ref().err());
        let (body, clock) = opened?;
        Ok(Watch::new(body, clock, self.metrics.clone()))
    }

    /// Changes some fields of a Pod (RFC 7396).
    pub(super) async fn patch_pod(&self, name: &str, patch: &Value) -> Result<(), ApiError> {
        let namespace = &self.namespace;
        let request = http::Request::patch(format!("/api/v1/namespaces/{namespace}/pods/{name}"))
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(patch.to_string().into_bytes())
            .map_err(kube::core::request::Error::BuildRequest);
        self.fetch::<Value>(request).await?;
        Ok(())
    }

    /// Returns the rules that the service account has in this namespace.
    pub async fn own_rules(&self) -> Result<SubjectRulesReviewStatus, ApiError> {
        let review = serde_json::json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": self.namespace},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let (answer, _) = self
            .fetch::<SelfSubjectRulesReview>(post(path, &review))
            .await?;
        let status = answer.status;
        status.ok_or_else(|| ApiError::Invalid("a review without a status".to_owned()))
    }

    /// Creates an Event in the core group, or in `events.k8s.io` if only that is allowed. They are the same objects,
    /// but only the former may carry the times by which `kubectl get events --sort-by=.lastTimestamp` sorts.
    pub(super) async fn create_event(&self, event: &EventObject) -> Result<(), ApiError> {
        let namespace = &self.namespace;
        let core_denied = &self.standing.core_events_denied;
        if !core_denied.load(Ordering::Acquire) {
            let path = format!("/api/v1/namespaces/{namespace}/events");
            match self.fetch::<Value>(post(&path, &event.core())).await {
                Err(error) if matches!(error.code(), Some(403 | 404)) => {
                    core_denied.store(true, Ordering::Release);
                }
                created => return created.map(drop),
            }
        }
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        self.fetch::<Value>(post(&path, &event.events_k8s_io()))
            .await
            .map(drop)
    }

    fn url<K: Resource<DynamicType = ()>>(&self) -> Request {
        Request::new(K::url_path(&(), Some(&self.namespace)))
    }

    async fn fetch<T: DeserializeOwned>(&self, request: Built) -> Result<(T, Clock), ApiError> {
        let fetched = async {
            let (body, clock) = self.head(request).await?;
            let bytes = collect(body, LARGEST_BODY).await?;
            self.metrics.received(bytes.len());
            let object = serde_json::from_slice(&bytes)
                .map_err(|error| ApiError::Invalid(error.to_string()))?;
            Ok((object, clock))
        }
        .await;
        self.count(fetched.as_ref().err());
        fetched
    }

    /// Sends a request; an error status is an error.
    ///
    /// A refused token may have been replaced a moment ago: the kubelet rotates it, and kube reads the file only
    /// once a minute. The token is therefore read again and the request sent once more.
    async fn head(&self, request: Built) -> Result<(Body, Clock), ApiError> {
        let request = request.map_err(|error| ApiError::Invalid(error.to_string()))?;
        if self.standing.revoked.load(Ordering::Acquire) {
            return Err(ApiError::Revoked);
        }
        match self.send(request.clone()).await {
            Err(error) if error.is_unauthenticated() && self.read_token_anew() => {
                self.send(request).await
            }
            answer => answer,
        }
    }

    /// Switches to the token that is in the file now; `false` if there is no file.
    fn read_token_anew(&self) -> bool {
        let Some(token) = token(&self.config) else {
            return false;
        };
        // Keep the connection if the token is unchanged: perhaps one of several API servers is just starting.
        if self.client().token.as_ref() == Some(&token) {
            return true;
        }
        match Authenticated::new(&self.config) {
            Ok(client) => {
                *self.client() = client;
                true
            }
            Err(_) => false,
        }
    }

    fn client(&self) -> MutexGuard<'_, Authenticated> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, request: http::Request<Vec<u8>>) -> Result<(Body, Clock), ApiError> {
        let client = self.client().client.clone();
        let local = Instant::now();
        let response = timeout(HEAD, client.send(request.map(Body::from)))
            .await
            .map_err(|_| ApiError::Timeout)?
            .map_err(|error| ApiError::Unreachable(fault::describe(&error)))?;
        let (head, body) = response.into_parts();
        let server = server_time(&head.headers);
        self.standing.note(head.status, server);
        if !head.status.is_success() {
            return Err(refused(head, body).await);
        }
        Ok((body, Clock { local, server }))
    }

    fn count(&self, error: Option<&ApiError>) {
        // A request that was not sent is not counted.
        if !matches!(error, Some(ApiError::Revoked)) {
            self.metrics.request(error.map_or("ok", ApiError::outcome));
        }
    }
}

// === impl Authenticated ===

impl Authenticated {
    fn new(config: &Config) -> Result<Self, kube::Error> {
        let token = token(config);
        let client = Client::try_from(config.clone())?;
        Ok(Self { client, token })
    }
}

/// Reads the token's file.
fn token(config: &Config) -> Option<Vec<u8>> {
    std::fs::read(config.auth_info.token_file.as_ref()?).ok()
}

// === impl Standing ===

impl Standing {
    fn note(&self, status: http::StatusCode, server: i64) {
        let ahead = server - jiff::Timestamp::now().as_second();
        self.ahead.store(ahead, Ordering::Release);
        // An unauthenticated client gets 401 before any other check, so any of these means that the token was accepted.
        if status.is_success() || matches!(status.as_u16(), 403 | 404 | 409 | 410) {
            self.accepted.store(true, Ordering::Release);
        }
    }
}

fn post(path: &str, object: &Value) -> Built {
    http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .map_err(kube::core::request::Error::BuildRequest)
}

type Built = Result<http::Request<Vec<u8>>, kube::core::request::Error>;

async fn refused(head: http::response::Parts, body: Body) -> ApiError {
    let code = head.status.as_u16();
    let retry_after = head
        .headers
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    // The status code is enough if the body is empty or never arrives.
    let bytes = collect(body, LARGEST_ERROR).await.unwrap_or_default();
    let message = match serde_json::from_slice::<Status>(&bytes) {
        Ok(status) => status.message,
        Err(_) => String::new(),
    };
    ApiError::Status {
        code,
        message,
        retry_after,
    }
}

async fn collect(mut body: Body, largest: usize) -> Result<Vec<u8>, ApiError> {
    let until = Instant::now() + BODY;
    let mut bytes = Vec::new();
    loop {
        let frame = timeout_at(until, body.frame())
            .await
            .map_err(|_| ApiError::Timeout)?;
        let Some(frame) = frame else {
            return Ok(bytes);
        };
        let frame = frame.map_err(|error| ApiError::Unreachable(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > largest {
                return Err(ApiError::Invalid(format!("more than {largest} bytes")));
            }
            bytes.extend_from_slice(data);
        }
    }
}

/// Returns the time of the server's clock, or of ours if the answer has no valid `Date`.
fn server_time(headers: &http::HeaderMap) -> i64 {
    headers
        .get(http::header::DATE)
        .and_then(|value| {
            jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(value.to_str().ok()?)
                .ok()
        })
        .unwrap_or_else(jiff::Timestamp::now)
        .as_second()
}

// === impl Clock ===

impl Clock {
    /// Returns our instant at which the server's clock shows this time; up to two seconds early, never late.
    pub fn instant_of(&self, server: i64) -> Instant {
        let ahead = server - self.server;
        // `Date` may have shown up to a second less than the server's clock.
        let seconds = Duration::from_secs(ahead.unsigned_abs());
        let at = if ahead >= 0 {
            self.local.checked_add(seconds)
        } else {
            self.local.checked_sub(seconds)
        };
        let at = at.unwrap_or(self.local);
        at.checked_sub(Duration::from_secs(1)).unwrap_or(at)
    }
}

// === impl ApiError ===

impl ApiError {
    /// Returns the error for an error status inside a watch.
    pub fn from_status(status: &Status) -> Self {
        Self::Status {
            code: status.code,
            message: status.message.clone(),
            retry_after: None,
        }
    }

    /// Returns the error for a watch that ended too soon.
    pub fn closed_at_once() -> Self {
        Self::Unreachable("the watch was closed at once".to_owned())
    }

    /// Returns whether asking again is pointless: permission is missing (or the object is, which may mean the same).
    pub fn is_denied(&self) -> bool {
        matches!(self.code(), Some(401 | 403 | 404)) || matches!(self, Self::Revoked)
    }

    /// Returns whether the API server refused the token itself, regardless of the request.
    pub(super) fn is_unauthenticated(&self) -> bool {
        self.code() == Some(401) || matches!(self, Self::Revoked)
    }

    /// Returns whether the error shows that the API server accepted the token, though it refused the request.
    pub(super) fn is_an_answer_to_somebody_known(&self) -> bool {
        matches!(self.code(), Some(403 | 404 | 409 | 410 | 422 | 429))
    }

    /// Returns whether the object does not exist.
    pub fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }

    /// Returns whether the object already exists.
    pub(super) fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Returns whether the requested version is no longer kept, so that a new list is needed.
    #[cfg(test)]
    pub(super) fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns the value of the label `outcome`.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Status { code, .. } => match code {
                401 | 403 | 404 => "denied",
                410 => "gone",
                429 => "throttled",
                _ => "error",
            },
            Self::Timeout => "timeout",
            Self::Unreachable(_) => "unreachable",
            Self::Invalid(_) => "invalid",
            Self::Revoked => "denied",
        }
    }

    /// Returns the status code of the API server's answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_answer_may_be_compressed() {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let api = Api::new(
            config,
            "shop",
            Metrics::register(&prometheus::Registry::new()),
        );
        let api = api.unwrap();

        assert!(api.config.disable_compression);
    }

    #[tokio::test(start_paused = true)]
    async fn the_servers_clock_is_read_from_its_date() {
        let mut headers = http::HeaderMap::new();
        headers.insert(
            http::header::DATE,
            http::HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
        );
        let clock = Clock {
            local: Instant::now(),
            server: server_time(&headers),
        };
        assert_eq!(clock.server, 784_111_777);
        let second = Duration::from_secs(1);
        assert_eq!(clock.instant_of(784_111_787), clock.local + 9 * second);
        assert!(clock.instant_of(784_111_770) <= clock.local);
    }

    #[test]
    fn every_outcome_is_a_known_series() {
        let status = |code| ApiError::Status {
            code,
            message: String::new(),
            retry_after: None,
        };
        let errors = [
            status(401),
            status(403),
            status(404),
            status(410),
            status(429),
            status(500),
            ApiError::Timeout,
            ApiError::Unreachable(String::new()),
            ApiError::Invalid(String::new()),
            ApiError::Revoked,
        ];
        for error in errors {
            let outcome = error.outcome();
            assert!(
                super::super::metrics::OUTCOMES.contains(&outcome),
                "{outcome}"
            );
        }
    }
}

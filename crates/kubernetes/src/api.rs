//! Requests to the API server, each bounded in time and size.
//!
//! kube's `Api` and `watcher` are made for controllers, which live for ever and may wait for ever. A drain
//! has seconds. What is done differently here, and why:
//!
//! - every request has a time limit for its head and one for its body: an API server that accepts and never
//!   answers must cost two seconds, not the drain;
//! - nothing is retried underneath (kube would, on 429, 503 and 504): who asks decides whether it still matters;
//! - the answer's head is kept: `Date` is the only honest clock for a `deletionTimestamp`, and `Retry-After`
//!   the only honest wait;
//! - a body has a largest size;
//! - a token that is refused is read anew and tried once more, and whether one was ever accepted is kept: together
//!   they tell a Pod that is gone from a token that was never good.

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

/// Until an answer's head is there, connecting included.
const HEAD: Duration = Duration::from_secs(2);
/// Until its body is there, from then on.
const BODY: Duration = Duration::from_secs(5);
/// The largest body taken: a page of fifty slices of a thousand endpoints each stays below this.
const LARGEST_BODY: usize = 64 << 20;
/// The largest error body taken; it only ends up in a log line.
const LARGEST_ERROR: usize = 16 << 10;

/// The API server, for one namespace.
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

/// What the API server's answers say of the token.
#[derive(Debug, Default)]
struct Standing {
    /// An answer has shown that it was accepted.
    accepted: AtomicBool,
    /// It is known to be of no more use, so that nothing is asked with it.
    revoked: AtomicBool,
    /// By how many seconds the API server's clock is ahead of ours.
    ahead: AtomicI64,
    /// Events may not be created in the core group.
    core_events_denied: AtomicBool,
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The API server refused it.
    #[error("{code} {message}")]
    Status {
        /// The status code of the answer.
        code: u16,
        /// What the API server said of it.
        message: String,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// No answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// The API server could not be reached.
    #[error("{0}")]
    Unreachable(String),
    /// What answered does not speak as an API server does.
    #[error("not a Kubernetes answer: {0}")]
    Invalid(String),
    /// Nothing was asked: the token is known to be of no more use.
    #[error("not asked: the Pod is gone, and its token with it")]
    Revoked,
}

/// An object, and the clocks when it was read.
#[derive(Debug)]
pub struct Answer<K> {
    /// The object.
    pub object: K,
    /// The API server's clock beside ours.
    pub clock: Clock,
}

/// The API server's clock beside ours: when ours showed `local`, or a little later, it showed `server`, or
/// up to a second more (`Date` has whole seconds).
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Just before the request was sent.
    pub local: Instant,
    /// Seconds since 1970.
    pub server: i64,
}

// === impl Api ===

impl Api {
    /// A client whose requests are counted nowhere. Needs a runtime.
    ///
    /// # Errors
    /// Where the configuration makes no client: a certificate that cannot be read, for example.
    pub fn uncounted(config: Config, namespace: &str) -> Result<Self, kube::Error> {
        Self::new(config, namespace, Metrics::register(&Registry::new()))
    }

    /// Needs a runtime.
    pub(super) fn new(
        mut config: Config,
        namespace: &str,
        metrics: Metrics,
    ) -> Result<Self, kube::Error> {
        config.connect_timeout = Some(HEAD);
        config.default_retry = false;
        // From Kubernetes 1.37 on the API server compresses watches, too, one gzip member for each event, and
        // kube's decoder takes everything behind the first member for garbage (kube-rs/kube, issue 2079). It is
        // on wherever a program that uses this library enables kube's feature `gzip`. Bodies here are small.
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

    /// Whether any answer so far has shown that the token was accepted.
    pub(super) fn was_accepted(&self) -> bool {
        self.standing.accepted.load(Ordering::Acquire)
    }

    /// Asks nothing more: every request fails at once from now on.
    pub(super) fn revoke(&self) {
        self.standing.revoked.store(true, Ordering::Release);
    }

    /// What the token in the file says of itself; none where there is no file, or it can't be read.
    pub(super) fn claims(&self) -> Option<Claims> {
        Claims::read(Path::new(self.config.auth_info.token_file.as_ref()?))
    }

    /// The API server's clock now, in seconds since 1970, as far as its answers have told.
    pub(super) fn server_now(&self) -> i64 {
        jiff::Timestamp::now().as_second() + self.standing.ahead.load(Ordering::Acquire)
    }

    /// The namespace in which it asks.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Reads one object with quorum: no `resourceVersion`, so no cache may answer.
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

    /// Asks by creating an object that is nowhere kept, and reads the answer: a review.
    pub async fn create<K>(&self, object: &K) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + serde::Serialize + DeserializeOwned,
    {
        let body = serde_json::to_vec(object).map_err(|e| ApiError::Invalid(e.to_string()))?;
        let url = Request::new(K::url_path(&(), None));
        Ok(self.fetch(url.create(&Default::default(), body)).await?.0)
    }

    /// Watches one object, by name, from a version on.
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

    /// The rules that the service account has in this namespace.
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

    /// Creates an Event in the core group, or in `events.k8s.io` where only that is allowed. They are the same
    /// objects, but only the former may carry the times by which `kubectl get events --sort-by=.lastTimestamp` sorts.
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
    /// A token that is refused may have been exchanged a moment ago: the kubelet rotates it, and kube reads the
    /// file once a minute. So it is read anew, and asked once more.
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

    /// Takes up the token that is in the file by now; `false` where there is no file.
    fn read_token_anew(&self) -> bool {
        let Some(token) = token(&self.config) else {
            return false;
        };
        // The same one again costs no new connection: one refusal may be one of several API servers' that starts.
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
        // What was not asked is no request.
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

/// What is in the token's file.
fn token(config: &Config) -> Option<Vec<u8>> {
    std::fs::read(config.auth_info.token_file.as_ref()?).ok()
}

// === impl Standing ===

impl Standing {
    fn note(&self, status: http::StatusCode, server: i64) {
        let ahead = server - jiff::Timestamp::now().as_second();
        self.ahead.store(ahead, Ordering::Release);
        // Who is not known gets 401 before anything else is looked at, so that these are answers to somebody known.
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
    // The status says enough where the body says nothing, or never comes.
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

/// What the server's clock showed; ours, where it does not say.
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
    /// Our instant at which the server's clock shows this; up to two seconds early, never late.
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
    /// An error inside a watch.
    pub fn from_status(status: &Status) -> Self {
        Self::Status {
            code: status.code,
            message: status.message.clone(),
            retry_after: None,
        }
    }

    /// A watch that ended before it could bring anything.
    pub fn closed_at_once() -> Self {
        Self::Unreachable("the watch was closed at once".to_owned())
    }

    /// Asking again won't help: no permission (or no such thing, which RBAC may hide behind).
    pub fn is_denied(&self) -> bool {
        matches!(self.code(), Some(401 | 403 | 404)) || matches!(self, Self::Revoked)
    }

    /// The API server does not know who asks: the token is refused, whatever it is that is asked for.
    pub(super) fn is_unauthenticated(&self) -> bool {
        self.code() == Some(401) || matches!(self, Self::Revoked)
    }

    /// Shows that the API server knows who asks, though it does not do as it is asked.
    pub(super) fn is_an_answer_to_somebody_known(&self) -> bool {
        matches!(self.code(), Some(403 | 404 | 409 | 410 | 422 | 429))
    }

    /// There is no such object.
    pub fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }

    /// There is one already.
    pub(super) fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The version asked for is no longer kept: list again.
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

    /// The label `outcome`.
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

    /// The status code of the API server's answer, where there was one.
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

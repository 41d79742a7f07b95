//! Requests in, answers out: the API machinery's HTTP conventions.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Fault, Gone, Logged, NAMESPACE, Resource, Shared, Verb, create,
    store::{Change, Pages, Store, name},
};

const GONE: &str = "The resourceVersion for the provided watch is too old.";

/// What is asked for.
#[derive(Clone)]
struct Asked {
    verb: Verb,
    resource: Resource,
    name: Option<String>,
    query: Vec<(String, String)>,
    bearer: Option<String>,
    /// What is created.
    body: Bytes,
    /// Its place in the log.
    index: usize,
}

/// Anything under `/api` and `/apis`.
pub async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let review = [
        Resource::SelfSubjectAccessReviews,
        Resource::SubjectAccessReviews,
    ]
    .into_iter()
    .any(|review| request.uri().path() == review.path());
    let writes = [Method::POST, Method::PATCH].contains(request.method());
    let mut response = if writes && !review {
        create::handle(&shared, request).await
    } else {
        match Asked::new(&shared, &request) {
            Some(mut asked) => {
                let body = to_bytes(request.into_body(), usize::MAX).await;
                asked.body = body.unwrap_or_default();
                answer(&shared, asked).await
            }
            None => status(
                404,
                "NotFound",
                "the server could not find the requested resource",
            ),
        }
    };
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&shared.now())
        .expect("a time of this century");
    let date = date.parse().expect("ASCII");
    response.headers_mut().insert(header::DATE, date);
    response
}

async fn answer(shared: &Arc<Shared>, asked: Asked) -> Response {
    let fault = shared.faults().next(asked.verb, asked.resource);
    if let Some(Fault::Stale(delay)) = fault {
        let response = truth(shared, asked);
        tokio::time::sleep(delay).await;
        return response;
    }
    let refuse = || forbidden(&asked);
    if let Some(response) = meet(fault, shared, asked.resource, refuse).await {
        return response;
    }
    truth(shared, asked)
}

/// What there is.
fn truth(shared: &Arc<Shared>, asked: Asked) -> Response {
    if !shared.knows(asked.bearer.as_deref()) {
        return status(401, "Unauthorized", "Unauthorized");
    }
    if !shared.is_allowed(asked.verb, asked.resource, asked.single()) {
        return forbidden(&asked);
    }
    match asked.verb {
        Verb::Create => json_response(201, shared.review(asked.resource, &asked.body).to_string()),
        Verb::Get => get(shared, &asked),
        Verb::List => list(shared, &asked),
        Verb::Watch => watch(shared, asked),
        Verb::Patch => unreachable!("written elsewhere"),
    }
}

/// The answer of a fault; none where there is none, or it has passed.
pub async fn meet(
    fault: Option<Fault>,
    shared: &Shared,
    resource: Resource,
    refuse: impl Fn() -> Response,
) -> Option<Response> {
    let version = shared.store().version();
    Some(match fault? {
        Fault::Status(code) => status(code, "InternalError", "scripted"),
        Fault::Throttled(seconds) => {
            let mut response = status(429, "TooManyRequests", "too many requests");
            let seconds = seconds.to_string().parse().expect("a number");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
        Fault::Forbidden => refuse(),
        Fault::Mute => std::future::pending().await,
        Fault::Stalled => {
            let begin = stream::iter([Ok::<_, Infallible>("{\"kind\":")]);
            Body::from_stream(begin.chain(stream::pending())).into_response()
        }
        Fault::Gone(Gone::Status) => status(410, "Expired", GONE),
        Fault::Gone(Gone::Event) => lines(&[event("ERROR", status_object(410, "Expired", GONE))]),
        Fault::CloseAtOnce => lines(&[]),
        Fault::BookmarkAndClose => lines(&[bookmark(resource, version, false)]),
        Fault::Garbage => lines(&[json!("<html>")]),
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            return None;
        }
        Fault::Stale(_) => return None,
    })
}

fn get(shared: &Shared, asked: &Asked) -> Response {
    let name = asked.name.as_deref().unwrap_or_default();
    match shared.store().get(asked.resource, name) {
        Some(object) => whole(shared, asked, object),
        None => {
            let (_, plural, _) = asked.resource.names();
            status(404, "NotFound", &format!("{plural} \"{name}\" not found"))
        }
    }
}

fn list(shared: &Shared, asked: &Asked) -> Response {
    let mut store = shared.store();
    let limit = asked.number("limit").filter(|limit| *limit > 0);
    let (version, mut items) = match asked.get("continue") {
        Some(token) => match store.pages(token) {
            Some(Pages { version, rest }) => (version, rest),
            None => return status(410, "Expired", "The provided continue parameter is too old"),
        },
        None => {
            if asked.version().is_some_and(|asked| asked > store.version()) {
                return status(504, "Timeout", "Too large resource version");
            }
            let all = store.all(asked.resource);
            let items = all.filter(|object| asked.selects(object)).cloned();
            (store.version(), items.collect())
        }
    };
    let mut meta = json!({"resourceVersion": version.to_string()});
    if let Some(limit) = limit.map(|limit| limit as usize)
        && items.len() > limit
    {
        let rest = items.split_off(limit);
        meta["remainingItemCount"] = json!(rest.len());
        meta["continue"] = json!(store.keep_pages(Pages { version, rest }));
    }
    drop(store);
    let (api_version, _, kind) = asked.resource.names();
    let list = json!({
        "apiVersion": api_version, "kind": format!("{kind}List"), "metadata": meta, "items": items,
    });
    whole(shared, asked, &list)
}

fn watch(shared: &Arc<Shared>, asked: Asked) -> Response {
    let store = shared.store();
    let from = asked.version();
    if from.is_some_and(|from| from > 0 && from < store.compacted()) {
        return lines(&[event("ERROR", status_object(410, "Expired", GONE))]);
    }
    if from.is_some_and(|from| from > store.version()) {
        return status(504, "Timeout", "Too large resource version");
    }
    let initial = asked.get("sendInitialEvents") == Some("true");
    let mut ready = VecDeque::new();
    // From nowhere, or from anywhere: what there is comes first.
    if initial || from.is_none_or(|from| from == 0) {
        for object in store.all(asked.resource).filter(|o| asked.selects(o)) {
            ready.push_back(event("ADDED", object.clone()));
        }
        if initial {
            ready.push_back(bookmark(asked.resource, store.version(), true));
        }
    }
    let since = match ready.is_empty() {
        true => from.unwrap_or_else(|| store.version()),
        false => store.version(),
    };
    let seconds = asked.number("timeoutSeconds").unwrap_or(1_800);
    let stream = WatchStream {
        changed: shared.changed.subscribe(),
        shared: shared.clone(),
        until: Instant::now() + Duration::from_secs(seconds),
        asked,
        since,
        ready,
        over: false,
    };
    drop(store);
    let events = stream::unfold(stream, |mut stream| async move {
        let line = stream.next().await?;
        Some((Ok::<_, Infallible>(line), stream))
    });
    Body::from_stream(events).into_response()
}

struct WatchStream {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
    asked: Asked,
    since: u64,
    until: Instant,
    ready: VecDeque<Value>,
    over: bool,
}

// === impl WatchStream ===

impl WatchStream {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                let line = format!("{event}\n");
                self.shared.count_bytes(self.asked.index, line.len());
                return Some(line);
            }
            if self.over {
                return None;
            }
            self.changed.borrow_and_update();
            self.catch_up();
            if self.ready.is_empty()
                && timeout_at(self.until, self.changed.changed())
                    .await
                    .is_err()
            {
                self.over = true;
                if self.asked.get("allowWatchBookmarks") == Some("true") {
                    self.ready
                        .push_back(bookmark(self.asked.resource, self.since, false));
                }
            }
        }
    }

    fn catch_up(&mut self) {
        let store = self.shared.store();
        if self.since < store.compacted() && self.since < lowest_kept(&store) {
            self.over = true;
            self.ready
                .push_back(event("ERROR", status_object(410, "Expired", GONE)));
            return;
        }
        for change in store.since(self.since) {
            self.ready.extend(self.asked.event(change));
        }
        self.since = store.version();
    }
}

/// An open watch misses nothing by a compaction that it has already passed.
fn lowest_kept(store: &Store) -> u64 {
    store.compacted().saturating_sub(1)
}

// === impl Asked ===

impl Asked {
    fn new(shared: &Shared, request: &Request) -> Option<Self> {
        let path = request.uri().path().trim_end_matches('/');
        let (resource, rest) = Resource::ALL
            .into_iter()
            .find_map(|resource| Some((resource, path.strip_prefix(&resource.path())?)))?;
        let name = match rest.strip_prefix('/') {
            Some(name) => Some(name.to_owned()),
            None if rest.is_empty() => None,
            None => return None,
        };
        let query = parse_query(request.uri().query().unwrap_or_default());
        let watch = query.iter().any(|(k, v)| k == "watch" && v == "true");
        let verb = match (&name, watch) {
            _ if request.method() == Method::POST => Verb::Create,
            (Some(_), _) => Verb::Get,
            (None, true) => Verb::Watch,
            (None, false) => Verb::List,
        };
        let index = shared.note(Logged {
            verb,
            resource,
            name: name.clone(),
            query: query.clone(),
            bytes: 0,
        });
        let bearer = request.headers().get(header::AUTHORIZATION);
        Some(Self {
            verb,
            resource,
            name,
            query,
            bearer: bearer.and_then(|bearer| Some(bearer.to_str().ok()?.to_owned())),
            body: Bytes::new(),
            index,
        })
    }

    /// The one object that is asked for, by its name or by a field selector.
    fn single(&self) -> Option<&str> {
        let selected = || self.get("fieldSelector")?.strip_prefix("metadata.name=");
        self.name.as_deref().or_else(selected)
    }

    fn get(&self, key: &str) -> Option<&str> {
        let found = self.query.iter().find(|(k, v)| k == key && !v.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    fn version(&self) -> Option<u64> {
        self.number("resourceVersion")
    }

    fn selects(&self, object: &Value) -> bool {
        let fields = self.get("fieldSelector").unwrap_or_default();
        let labels = self.get("labelSelector").unwrap_or_default();
        let field = |term: &str| match term.split_once('=') {
            Some(("metadata.name", value)) => name(object) == value.trim_start_matches('='),
            _ => panic!("field selector '{term}' is not known here"),
        };
        let label = |term: &str| match term.split_once('=') {
            Some((key, value)) => {
                object["metadata"]["labels"][key] == value.trim_start_matches('=')
            }
            None => !object["metadata"]["labels"][term].is_null(),
        };
        let terms = |selector: &str| -> Vec<String> {
            let terms = selector.split(',').filter(|term| !term.is_empty());
            terms.map(str::to_owned).collect()
        };
        terms(fields).iter().all(|term| field(term)) && terms(labels).iter().all(|t| label(t))
    }

    /// What a change looks like to this watch: an object may come into view, or leave it.
    fn event(&self, change: &Change) -> Option<Value> {
        if change.resource != self.resource {
            return None;
        }
        let seen = |object: &Option<Value>| object.clone().filter(|object| self.selects(object));
        match (seen(&change.before), seen(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(event("ADDED", after)),
            (Some(_), Some(after)) => Some(event("MODIFIED", after)),
            (Some(before), None) => Some(event("DELETED", before)),
        }
    }
}

impl Shared {
    pub fn note(&self, logged: Logged) -> usize {
        let mut log = self.log();
        log.push(logged);
        let length = log.len();
        drop(log);
        self.logged.send_replace(length);
        length - 1
    }

    fn count_bytes(&self, index: usize, bytes: usize) {
        self.log()[index].bytes += bytes;
    }
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// Percent-decoding, as far as selectors need it.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&hex, 16).expect("two hexadecimal digits")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn whole(shared: &Shared, asked: &Asked, object: &Value) -> Response {
    let body = object.to_string();
    shared.count_bytes(asked.index, body.len());
    json_response(200, body)
}

fn lines(events: &[Value]) -> Response {
    let body: String = events.iter().map(|event| format!("{event}\n")).collect();
    json_response(200, body)
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn bookmark(resource: Resource, version: u64, end_of_initial: bool) -> Value {
    let (api_version, _, kind) = resource.names();
    let mut meta = json!({"resourceVersion": version.to_string()});
    if end_of_initial {
        meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event(
        "BOOKMARK",
        json!({"apiVersion": api_version, "kind": kind, "metadata": meta}),
    )
}

fn forbidden(asked: &Asked) -> Response {
    forbidden_to(asked.verb, asked.resource)
}

pub fn forbidden_to(verb: Verb, resource: Resource) -> Response {
    let (version, plural, _) = resource.names();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let verb = format!("{verb:?}").to_lowercase();
    let message = format!(
        "{plural} is forbidden: User \"system:serviceaccount:{NAMESPACE}:web\" cannot {verb} resource \
         \"{plural}\" in API group \"{group}\" in the namespace \"{NAMESPACE}\""
    );
    status(403, "Forbidden", &message)
}

pub fn status(code: u16, reason: &str, message: &str) -> Response {
    json_response(code, status_object(code, reason, message).to_string())
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub fn json_response(code: u16, body: String) -> Response {
    let code = StatusCode::from_u16(code).expect("a status");
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

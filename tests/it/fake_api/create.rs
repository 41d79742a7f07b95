//! What is written: Events, a Pod's annotations; and the question which rules one has.

use std::sync::{Arc, atomic::Ordering};

use axum::{body::to_bytes, extract::Request, http::header, response::Response};
use serde_json::{Value, json};

use super::{
    Fault, Logged, NAMESPACE, Resource, Shared, Verb,
    serve::{forbidden_to, json_response, meet, status},
    store::name,
};

const REVIEW: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";

/// Events of the core group; those of `events.k8s.io` are at [`Resource::Events`].
const CORE_EVENTS: &str = "/api/v1/namespaces/{}/events";

/// The largest object that is taken.
const LARGEST: usize = 1 << 20;

pub async fn handle(shared: &Arc<Shared>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let bearer = request.headers().get(header::AUTHORIZATION).cloned();
    let body = to_bytes(request.into_body(), LARGEST).await;
    let object = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    let Some(object) = object else {
        return status(400, "BadRequest", "the body is no JSON object");
    };
    let bearer = bearer.and_then(|bearer| Some(bearer.to_str().ok()?.to_owned()));
    if !shared.knows(bearer.as_deref()) {
        return status(401, "Unauthorized", "Unauthorized");
    }
    if let Some(name) = path.strip_prefix(&format!("{}/", Resource::Pods.path())) {
        return patch_pod(shared, name, &object);
    }
    if path == REVIEW {
        return review(shared, object);
    }
    let core = path == CORE_EVENTS.replace("{}", NAMESPACE);
    if !core && path != Resource::Events.path() {
        return status(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
    }
    shared.note(Logged {
        verb: Verb::Create,
        resource: Resource::Events,
        name: Some(name(&object).to_owned()),
        query: Vec::new(),
        bytes: 0,
    });
    let fault = shared.faults().next(Verb::Create, Resource::Events);
    if let Some(response) = meet(fault, shared, Resource::Events, || {
        forbidden_to(Verb::Create, Resource::Events)
    })
    .await
    {
        return response;
    }
    if core && shared.no_core_events.load(Ordering::SeqCst) {
        return forbidden_to(Verb::Create, Resource::Events);
    }
    if core {
        return match validate_core(&object) {
            Ok(()) => create_event(shared, object),
            Err(why) => status(422, "Invalid", &why),
        };
    }
    match validate(&object) {
        Ok(()) => create_event(shared, as_core(&object)),
        Err(why) => status(422, "Invalid", &why),
    }
}

/// A merge patch, as far as annotations go (RFC 7396).
fn patch_pod(shared: &Shared, pod: &str, patch: &Value) -> Response {
    shared.note(Logged {
        verb: Verb::Patch,
        resource: Resource::Pods,
        name: Some(pod.to_owned()),
        query: Vec::new(),
        bytes: 0,
    });
    if let Some(Fault::Forbidden) = shared.faults().next(Verb::Patch, Resource::Pods) {
        return forbidden_to(Verb::Patch, Resource::Pods);
    }
    let Some(mut object) = shared.store().get(Resource::Pods, pod).cloned() else {
        return status(404, "NotFound", "pods not found");
    };
    for (key, value) in patch["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
    {
        object["metadata"]["annotations"][key] = value.clone();
    }
    shared.change(|store| store.put(Resource::Pods, object.clone()));
    json_response(200, object.to_string())
}

/// There is one store for both groups; here everything is kept as the core group shows it.
fn as_core(event: &Value) -> Value {
    json!({
        "metadata": event["metadata"], "involvedObject": event["regarding"], "reason": event["reason"],
        "message": event["note"], "type": event["type"], "eventTime": event["eventTime"], "action": event["action"],
        "reportingComponent": event["reportingController"], "reportingInstance": event["reportingInstance"],
    })
}

fn create_event(shared: &Shared, event: Value) -> Response {
    if shared.store().get(Resource::Events, name(&event)).is_some() {
        return status(409, "AlreadyExists", "there is one already");
    }
    shared.change(|store| store.put(Resource::Events, event.clone()));
    json_response(201, event.to_string())
}

/// As the API server validates `events.k8s.io/v1` (`pkg/apis/core/validation/events.go`).
fn validate(event: &Value) -> Result<(), String> {
    let bounds = [
        ("reportingController", 1, 128),
        ("reportingInstance", 1, 128),
        ("action", 1, 128),
        ("reason", 1, 128),
        ("note", 0, 1024),
    ];
    for (field, shortest, longest) in bounds {
        let length = event[field].as_str().unwrap_or_default().len();
        if !(shortest..=longest).contains(&length) {
            return Err(format!("{field}: has {length} bytes"));
        }
    }
    if !matches!(event["type"].as_str(), Some("Normal" | "Warning")) {
        return Err("type: must be Normal or Warning".to_owned());
    }
    if event["regarding"]["namespace"] != event["metadata"]["namespace"] {
        return Err("regarding.namespace: does not match event.namespace".to_owned());
    }
    for field in [
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
        "deprecatedCount",
        "deprecatedSource",
    ] {
        if !event[field].is_null() {
            return Err(format!("{field}: needs to be unset"));
        }
    }
    micro_time(event)
}

/// As it validates those of the core group that have an `eventTime` (`legacyValidateEvent`).
fn validate_core(event: &Value) -> Result<(), String> {
    let bounds = [
        ("reportingComponent", 1, 128),
        ("reportingInstance", 1, 128),
        ("action", 1, 128),
        ("reason", 1, 128),
        ("message", 0, 1024),
    ];
    for (field, shortest, longest) in bounds {
        let length = event[field].as_str().unwrap_or_default().len();
        if !(shortest..=longest).contains(&length) {
            return Err(format!("{field}: has {length} bytes"));
        }
    }
    if event["involvedObject"]["namespace"] != event["metadata"]["namespace"] {
        return Err("involvedObject.namespace: does not match event.namespace".to_owned());
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        let time = event[field].as_str().unwrap_or_default();
        if time.parse::<jiff::Timestamp>().is_err() {
            return Err(format!("{field}: '{time}' is no time"));
        }
    }
    micro_time(event)
}

/// A MicroTime, in which Go insists on six digits.
fn micro_time(event: &Value) -> Result<(), String> {
    let time = event["eventTime"].as_str().unwrap_or_default();
    let digits = time.rsplit('.').next().unwrap_or_default();
    match digits.len() == 7 && digits.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok() {
        true => Ok(()),
        false => Err(format!("eventTime: '{time}' is no MicroTime")),
    }
}

fn review(shared: &Shared, mut review: Value) -> Response {
    let rules = shared.rules.lock().expect("a lock").clone();
    let Some(rules) = rules else {
        return status(404, "NotFound", "this server does not tell its rules");
    };
    review["status"] = json!({"incomplete": false, "nonResourceRules": [], "resourceRules": rules});
    json_response(201, review.to_string())
}

//! What the API says of itself: made from the handlers that answer, so that the two cannot differ.

use std::sync::{Arc, LazyLock};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    OpenApi,
    openapi::{
        Content, OpenApi as Document, Ref, RefOr, ResponseBuilder, Schema,
        path::Operation,
        schema::AdditionalProperties,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Service, guarded, outcome};

static RENDERED: LazyLock<String> = LazyLock::new(openapi);

/// What does not come from a handler.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "lameduck",
        description = "A job service whose pods can be rolled at any moment. Errors are problem details (RFC 9457).",
    ),
    security((), ("token" = [])),
    modifiers(&Token),
    tags(
        (name = "jobs", description = "Submit, follow and change jobs"),
        (name = "queues", description = "Look at queues, pause them, run dead jobs again or give them up"),
        (name = "handlers", description = "For whoever does the work of deferred jobs"),
        (name = "drains", description = "How processes ended"),
    ),
)]
struct Frame;

struct Token;

/// The API as an OpenAPI 3.1 document, in JSON; `docs/openapi.json` is the same.
pub fn openapi() -> String {
    let (_, mut guarded) = guarded().split_for_parts();
    for item in guarded.paths.paths.values_mut() {
        let methods = [&mut item.get, &mut item.post];
        methods.into_iter().flatten().for_each(answers_of_all);
    }
    let mut frame = Frame::openapi();
    frame.merge(guarded);
    let router = OpenApiRouter::<Arc<Service>>::with_openapi(frame)
        .routes(routes!(outcome::outcome))
        .routes(routes!(show));
    let mut document = router.into_openapi();
    close_outcomes(&mut document);
    let json = document.to_pretty_json();
    json.expect("a document of strings and numbers is JSON") + "\n"
}

/// What each request may be answered where a token may be needed and the storage is asked.
fn answers_of_all(operation: &mut Operation) {
    let mut known = vec![
        ("401", "A token is missing, or not known here"),
        ("503", "The storage failed; see Retry-After"),
    ];
    if operation.parameters.is_some() {
        known.push(("400", "The path or the query can't be read"));
    }
    for (status, description) in known {
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        let answer = ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", problem)
            .build();
        let answers = &mut operation.responses.responses;
        answers
            .entry(status.to_owned())
            .or_insert_with(|| answer.into());
    }
}

/// An outcome has the fields of its kind and no others; made from the type, the schema leaves that open.
fn close_outcomes(document: &mut Document) {
    let schemas = document.components.as_mut().map(|all| &mut all.schemas);
    let told = schemas.and_then(|all| all.get_mut("Told"));
    let Some(RefOr::T(Schema::OneOf(told))) = told else {
        unreachable!("an outcome is one of several kinds");
    };
    for kind in &mut told.items {
        if let RefOr::T(Schema::Object(kind)) = kind {
            let none = AdditionalProperties::FreeForm(false);
            kind.additional_properties = Some(Box::new(none));
        }
    }
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", operation_id = "show_openapi", tag = "queues", security(()),
    responses((status = 200, description = "An OpenAPI 3.1 document", body = Object)),
)]
pub(super) async fn show() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, RENDERED.as_str()).into_response()
}

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Where the operator has set tokens; see docs/api.md"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

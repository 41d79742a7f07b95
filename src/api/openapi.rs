//! What the API says of itself: made from the handlers that answer, so that the two cannot differ.

use std::sync::LazyLock;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    OpenApi,
    openapi::{
        OpenApi as Document,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{guarded, outcome};

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
        (name = "queues", description = "Look at queues, pause them, run dead jobs again"),
        (name = "handlers", description = "For whoever does the work of deferred jobs"),
    ),
)]
struct Frame;

struct Token;

/// The API as an OpenAPI 3.1 document, in JSON; `docs/openapi.json` is the same.
pub fn openapi() -> String {
    let router = OpenApiRouter::with_openapi(Frame::openapi())
        .merge(guarded())
        .routes(routes!(outcome::outcome))
        .routes(routes!(show));
    let json = router.into_openapi().to_pretty_json();
    json.expect("a document of strings and numbers is JSON") + "\n"
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

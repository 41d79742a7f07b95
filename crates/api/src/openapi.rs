//! The OpenAPI document. It is made from the request handlers, so that the two cannot differ.

use std::sync::{Arc, LazyLock};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use utoipa::{
    OpenApi,
    openapi::{
        Content, HeaderBuilder, ObjectBuilder, OpenApi as Document, Ref, RefOr, ResponseBuilder,
        Schema,
        path::{Operation, Parameter},
        schema::{AdditionalProperties, SchemaType, Type},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Service, guarded, outcome};

static RENDERED: LazyLock<String> = LazyLock::new(openapi);

/// The parts of the document that do not come from a handler.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "lameduck",
        description = "A job service whose pods can be rolled at any moment. Errors are problem details (RFC 9457).",
    ),
    servers((url = "/", description = "Where this document is served")),
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

/// Returns the API as an OpenAPI 3.1 document in JSON, the same as `docs/openapi.json`.
pub fn openapi() -> String {
    let (_, mut guarded) = guarded().split_for_parts();
    operations(&mut guarded).for_each(answers_of_the_guarded);
    let mut frame = Frame::openapi();
    frame.merge(guarded);
    let router = OpenApiRouter::<Arc<Service>>::with_openapi(frame)
        .routes(routes!(outcome::outcome))
        .routes(routes!(show));
    let mut document = router.into_openapi();
    operations(&mut document).for_each(|operation| {
        answers_of_all(operation);
        headers_of_answers(operation);
        parameters_are_there_or_not(operation);
        need_no_token(operation);
    });
    close_outcomes(&mut document);
    let json = document.to_pretty_json();
    json.expect("a document of strings and numbers is JSON") + "\n"
}

fn operations(document: &mut Document) -> impl Iterator<Item = &mut Operation> {
    let items = document.paths.paths.values_mut();
    items.flat_map(|item| [&mut item.get, &mut item.post].into_iter().flatten())
}

/// Adds the answers to requests that may need a token and that ask the storage.
fn answers_of_the_guarded(operation: &mut Operation) {
    refusal(operation, "401", "A token is missing, or not known here");
    refusal(operation, "503", "The storage failed; see Retry-After");
    let of_one_job =
        |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(p) if p.name == "id");
    if operation.parameters.iter().flatten().any(of_one_job) {
        refusal(
            operation,
            "500",
            "The storage holds something that is no job; it can be cancelled",
        );
    }
}

/// Adds the answers that every request may get.
fn answers_of_all(operation: &mut Operation) {
    if operation.parameters.is_some() {
        refusal(operation, "400", "The path or the query can't be read");
    }
    if operation.request_body.is_some() {
        let coded = "The body has a content coding; see Accept-Encoding";
        refusal(operation, "415", coded);
    }
    let method = "To another method than those of this path, which Allow lists";
    refusal(operation, "405", method);
}

/// Adds an error response, unless the handler describes it already.
fn refusal(operation: &mut Operation, status: &str, description: &str) {
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

/// Adds the response headers that tell a client what to do next.
fn headers_of_answers(operation: &mut Operation) {
    let waits = operation.operation_id.as_deref() == Some("show_job");
    for (status, answer) in &mut operation.responses.responses {
        let RefOr::T(answer) = answer else { continue };
        let headers: &[(&str, Type, &str)] = match status.as_str() {
            "200" if waits => &[
                (
                    "Retry-After",
                    Type::Integer,
                    "In a drain: after how many seconds to ask again",
                ),
                (
                    "Content-Location",
                    Type::String,
                    "In a drain: where to ask again",
                ),
            ],
            "207" | "409" | "429" | "503" => &[(
                "Retry-After",
                Type::Integer,
                "After how many seconds to come again, where that helps",
            )],
            "401" => &[("WWW-Authenticate", Type::String, "`Bearer`")],
            "405" => &[("Allow", Type::String, "The methods of this path")],
            "415" => &[(
                "Accept-Encoding",
                Type::String,
                "The codings that are taken: `identity`",
            )],
            _ => &[],
        };
        for (name, kind, description) in headers {
            let schema = ObjectBuilder::new().schema_type(kind.clone());
            let header = HeaderBuilder::new()
                .schema(Some(schema.build()))
                .description(Some(*description));
            answer
                .headers
                .insert((*name).to_owned(), header.build().into());
        }
    }
}

/// Gives an operation that needs no token an empty list of requirements. A list with an empty item means the same,
/// but public generators take it for a requirement of some kind.
fn need_no_token(operation: &mut Operation) {
    let nothing = vec![SecurityRequirement::default()];
    if operation.security.as_ref() == Some(&nothing) {
        operation.security = Some(Vec::new());
    }
}

/// Removes null from the schemas of parameters, which are present or absent; the schema of an `Option` allows it.
fn parameters_are_there_or_not(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            parameter.schema = parameter.schema.take().map(without_null);
        }
    }
}

fn without_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    let is_null = |schema: &RefOr<Schema>| {
        matches!(schema, RefOr::T(Schema::Object(object))
            if object.schema_type == SchemaType::Type(Type::Null))
    };
    match schema {
        RefOr::T(Schema::OneOf(one)) if one.items.iter().any(is_null) => {
            let mut rest = one.items.into_iter().filter(|item| !is_null(item));
            rest.next()
                .unwrap_or_else(|| unreachable!("nothing is an option of null alone"))
        }
        RefOr::T(Schema::Object(mut object)) => {
            if let SchemaType::Array(types) = &object.schema_type {
                let some = types.iter().find(|kind| **kind != Type::Null).cloned();
                object.schema_type = some.map_or(SchemaType::AnyValue, SchemaType::Type);
            }
            RefOr::T(Schema::Object(object))
        }
        other => other,
    }
}

/// Closes the schemas of outcomes: each kind has its own fields and no others, which the derived schema leaves open.
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

//! What the API says of itself.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::stage::Stage;

#[test]
fn the_document_in_docs_is_the_one_of_the_code() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let now = lameduck::api::openapi();
    if std::env::var_os("LAMEDUCK_WRITE_DOCS").is_some() {
        fs::write(&file, &now).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == now,
        "docs/openapi.json is not what the code says; write it anew by\n    \
         LAMEDUCK_WRITE_DOCS=1 cargo test --test it the_document_in_docs"
    );
}

#[test]
fn it_lists_what_every_request_may_be_answered() {
    let document: Value = serde_json::from_str(&lameduck::api::openapi()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = operation["security"] == json!([]);
            let answers = operation["responses"].as_object().unwrap();
            assert_ne!(answers.contains_key("401"), open, "{method} {path}");
            let asks_the_storage = path != "/v1/openapi.json";
            assert_eq!(
                answers.contains_key("503"),
                asks_the_storage,
                "{method} {path}"
            );
            if operation.get("parameters").is_some() {
                assert!(answers.contains_key("400"), "{method} {path}");
            }
            assert!(answers.contains_key("405"), "{method} {path}");
            let of_one_job = path.contains("{id}") && !open;
            assert!(
                !of_one_job || answers.contains_key("500"),
                "{method} {path}"
            );
            let headers = [
                ("401", "WWW-Authenticate"),
                ("405", "Allow"),
                ("415", "Accept-Encoding"),
                ("409", "Retry-After"),
                ("429", "Retry-After"),
                ("503", "Retry-After"),
            ];
            for (status, header) in headers {
                if let Some(answer) = answers.get(status) {
                    assert!(
                        answer["headers"][header].is_object(),
                        "{header}: {method} {path}"
                    );
                }
            }
            if operation.get("requestBody").is_some() {
                for status in ["408", "413", "415"] {
                    assert!(answers.contains_key(status), "{status}: {method} {path}");
                }
            }
        }
    }
}

#[test]
fn what_is_refused_where_it_is_unknown_is_not_allowed_by_it() {
    let document: Value = serde_json::from_str(&lameduck::api::openapi()).unwrap();
    let schemas = &document["components"]["schemas"];
    let kinds = schemas["Told"]["oneOf"].as_array().unwrap();
    assert_eq!(kinds.len(), 3);
    for object in kinds.iter().chain([&schemas["Line"]]) {
        assert_eq!(object["additionalProperties"], false, "{object}");
    }
}

/// Every object of the document.
fn objects<'a>(part: &'a Value, found: &mut Vec<&'a Value>) {
    match part {
        Value::Object(fields) => {
            found.push(part);
            fields.values().for_each(|field| objects(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| objects(item, found)),
        _ => {}
    }
}

#[test]
fn bodies_are_no_arrays_of_numbers_and_parameters_are_never_null() {
    let document: Value = serde_json::from_str(&lameduck::api::openapi()).unwrap();
    let mut all = Vec::new();
    objects(&document, &mut all);
    assert_eq!(document["servers"][0]["url"], "/");
    for object in &all {
        assert!(
            object.get("allOf").is_none() || object["allOf"][0].get("$ref").is_some(),
            "{object}"
        );
        assert_ne!(object["items"]["type"], "integer", "{object}");
        if object.get("in").is_some() {
            let schema = &object["schema"];
            assert!(
                schema["type"].is_string() || schema.get("$ref").is_some(),
                "{object}"
            );
        }
    }
    let within = &document["components"]["schemas"]["Told"]["oneOf"][2]["properties"]["within"];
    assert_eq!(within["type"], "string");
}

#[tokio::test]
async fn it_is_served_and_every_path_in_it_answers() {
    let stage = Stage::start().await;

    let served = stage.get("/v1/openapi.json").await;

    assert_eq!(served.headers["content-type"], "application/json");
    assert_eq!(served.body, lameduck::api::openapi());
    let document = served.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 16, "{:?}", paths.keys());
    for (path, item) in paths {
        let filled = path
            .replace("{queue}", "mail")
            .replace("{id}", super::stage::NOBODY);
        for method in item.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let answer = super::stage::call(stage.address, &method, &filled, &[], "").await;
            let answer = answer.unwrap();
            assert_ne!(answer.status, 405, "{method} {path}");
            let nothing = answer.body.starts_with(b"{")
                && answer.json()["detail"]
                    .as_str()
                    .is_some_and(|d| d.contains("nothing here"));
            assert!(!nothing, "{method} {path}: {answer:?}");
        }
    }
}

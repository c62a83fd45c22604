//! The REST side, described: one table makes the routes and the OpenAPI document.

use serde_json::{Map, Value, json};

/// What a path does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the table below says it
pub enum Operation {
    OpenApi,
    ServerMetadata,
    ServerLive,
    ServerReady,
    ModelMetadata,
    ModelReady,
    ModelInfer,
    ModelFeedback,
}

/// A path and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// The path; `{name}` and `{version}` stand for a model's.
    pub path: &'static str,
    /// What it does.
    pub operation: Operation,
    summary: &'static str,
}

const fn route(path: &'static str, operation: Operation, summary: &'static str) -> Route {
    Route {
        path,
        operation,
        summary,
    }
}

/// Every path that is served.
pub const ROUTES: &[Route] = &[
    route("/openapi.json", Operation::OpenApi, "This document"),
    route("/v2", Operation::ServerMetadata, "What the server is"),
    route(
        "/v2/health/live",
        Operation::ServerLive,
        "Whether the server runs",
    ),
    route(
        "/v2/health/ready",
        Operation::ServerReady,
        "Whether requests should come here",
    ),
    route(
        "/v2/models/{name}",
        Operation::ModelMetadata,
        "What the model takes and gives",
    ),
    route(
        "/v2/models/{name}/ready",
        Operation::ModelReady,
        "Whether the model can answer",
    ),
    route("/v2/models/{name}/infer", Operation::ModelInfer, "Inference"),
    route(
        "/v2/models/{name}/feedback",
        Operation::ModelFeedback,
        "What an application says of an answer",
    ),
    route(
        "/v2/models/{name}/versions/{version}",
        Operation::ModelMetadata,
        "What this version of the model takes and gives",
    ),
    route(
        "/v2/models/{name}/versions/{version}/ready",
        Operation::ModelReady,
        "Whether this version of the model can answer",
    ),
    route(
        "/v2/models/{name}/versions/{version}/infer",
        Operation::ModelInfer,
        "Inference by this version of the model",
    ),
    route(
        "/v2/models/{name}/versions/{version}/feedback",
        Operation::ModelFeedback,
        "What an application says of an answer by this version of the model",
    ),
];

/// Schemas, which no table makes.
const COMPONENTS: &str = include_str!("openapi.components.json");

/// The OpenAPI document, version 3.1.
pub fn document() -> Value {
    let paths = ROUTES.iter().map(|route| (route.path.to_owned(), path(route)));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Perwatt runtime: Open Inference Protocol, version 2",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths.collect::<Map<_, _>>(),
        // A test reads it; in a program that passed its tests it is never null.
        "components": serde_json::from_str::<Value>(COMPONENTS).unwrap_or_default(),
    })
}

fn path(route: &Route) -> Value {
    let names = ["name", "version"].into_iter();
    let parameters = names.filter(|name| route.path.contains(&format!("{{{name}}}")));
    let parameters = parameters.map(|name| json!({"$ref": format!("#/components/parameters/{name}")}));
    let method = match route.operation {
        Operation::ModelInfer | Operation::ModelFeedback => "post",
        _ => "get",
    };
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "responses": responses(route),
    });
    if route.operation == Operation::ModelInfer {
        operation["requestBody"] = json!({"$ref": "#/components/requestBodies/Infer"});
        operation["parameters"] = json!([{"$ref": "#/components/parameters/binary"}]);
    }
    if route.operation == Operation::ModelFeedback {
        operation["requestBody"] = json!({"$ref": "#/components/requestBodies/Feedback"});
    }
    let mut item = Map::from_iter([(method.to_owned(), operation)]);
    let parameters: Vec<_> = parameters.collect();
    if !parameters.is_empty() {
        item.insert("parameters".into(), parameters.into());
    }
    item.into()
}

fn operation_id(route: &Route) -> String {
    let versioned = if route.path.contains("{version}") {
        "Version"
    } else {
        ""
    };
    format!("{:?}{versioned}", route.operation)
}

fn responses(route: &Route) -> Value {
    let good = match route.operation {
        Operation::OpenApi => return json!({"200": {"description": "this document"}}),
        Operation::ServerMetadata => "ServerMetadata",
        Operation::ServerLive | Operation::ServerReady | Operation::ModelReady => "Yes",
        Operation::ModelMetadata => "ModelMetadata",
        Operation::ModelInfer => "Infer",
        Operation::ModelFeedback => "Feedback",
    };
    let mut all = Map::new();
    let mut say = |status: &str, name: &str| {
        all.insert(
            status.to_owned(),
            json!({"$ref": format!("#/components/responses/{name}")}),
        );
    };
    say("200", good);
    if good == "Yes" {
        say("400", "No");
    }
    if route.path.contains("{name}") {
        say("404", "Error");
    }
    let errors: &[&str] = match route.operation {
        Operation::ModelInfer => &["400", "408", "413", "415", "500", "503", "504"],
        Operation::ModelFeedback => &["400", "408", "409", "413"],
        _ => &[],
    };
    for status in errors {
        say(status, "Error");
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every `$ref` of a document.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(all) => all.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn every_route_is_listed_under_a_name_of_its_own() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), ROUTES.len());
        let operations = paths
            .values()
            .flat_map(|item| ["get", "post"].map(|m| &item[m]["operationId"]));
        let ids: BTreeSet<_> = operations.filter_map(Value::as_str).collect();
        assert_eq!(ids.len(), ROUTES.len());
    }
}

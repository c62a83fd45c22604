//! The chart's custom resource definitions are those of the types.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed test says where"
)]

#[test]
fn the_charts_definitions_are_generated_from_the_types() {
    let folder = std::path::Path::new("../charts/perwatt/crds");
    for (name, content) in perwatt_crds::render::files().unwrap() {
        let found = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(
            found == content,
            "charts/perwatt/crds/{name} differs from the types: run `make crds` and commit it"
        );
    }
}

#[test]
fn every_field_is_documented_for_kubectl_explain() {
    for definition in perwatt_crds::definitions() {
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let root = &schema["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            check(&root[part], &format!("{}.{part}", definition.spec.names.kind));
        }
    }
}

/// Every property below `schema` has a description; what Kubernetes itself defines is left to it.
fn check(schema: &serde_json::Value, path: &str) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let foreign = path.contains(".resources.");
        assert!(
            foreign || property["description"].is_string(),
            "{path} has no description"
        );
        check(property, &path);
        check(&property["items"], &path);
    }
}

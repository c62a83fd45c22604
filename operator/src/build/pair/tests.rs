#![allow(clippy::unwrap_used)]

use super::*;
use crate::build::pod::build_pod;
use perwatt_crds::InferenceWorkload;
use perwatt_planner::outcome::Assignment;
use perwatt_planner::world::{Role, WorkloadKey};
use serde_json::Value;

fn workload(model: char, device: &Value, memory: &str) -> InferenceWorkload {
    let digest = model.to_string().repeat(64);
    serde_json::from_value(json!({
        "metadata": {"name": "gate", "namespace": "lines", "uid": "u1"},
        "spec": {
            "model": {"image": format!("registry.example/gate@sha256:{digest}"), "pullSecrets": [{"name": format!("pull-{model}")}]},
            "variants": [
                {"name": "npu", "device": device, "artifact": {"path": "gate.npu"}},
                {"name": "cpu", "deviceLess": "CPU", "artifact": {"path": "gate.onnx"}},
            ],
            "runtime": {"resources": {"requests": {"cpu": "50m", "memory": memory}, "limits": {"memory": memory}}},
        },
    }))
    .unwrap()
}

fn profile(multi_model: bool) -> HardwareProfile {
    serde_json::from_value(json!({
        "metadata": {"name": "chip"},
        "spec": {"class": "ASIC", "discovery": {"emulated": {"count": 1}}, "sharing": {"multiModel": multi_model}},
    }))
    .unwrap()
}

fn plan() -> PodPlan {
    PodPlan {
        workload: WorkloadKey {
            namespace: "lines".into(),
            name: "gate".into(),
        },
        slot: "edge-a".into(),
        name: "gate-1".into(),
        assignment: Assignment {
            node: "edge-a".into(),
            profile: Some("chip".into()),
            variant: "npu".into(),
            revision: "new".into(),
        },
        role: Role::Serving,
        attempt: 0,
        stand_ins: vec!["cpu".into()],
        degraded: None,
        moved: false,
        unavailable: Vec::new(),
        decision: String::new(),
    }
}

#[test]
fn the_old_revision_is_in_its_old_place_and_the_new_one_beside_it() {
    let by_name = json!({"profiles": ["chip"]});
    let (new, old) = (
        workload('b', &by_name, "100Mi"),
        workload('a', &json!({"class": "ASIC"}), "64Mi"),
    );
    let profile = profile(true);
    let incumbent = Incumbent {
        revision: "old",
        spec: &old.spec,
        token_digest: "d1",
    };
    let pod = build_pod(&plan(), &new, Some(&profile), None, "runtime:1", Some(incumbent));
    assert_eq!(
        pod.metadata.annotations.as_ref().unwrap()[names::ANNOTATION_INCUMBENT],
        "old"
    );
    assert_eq!(
        pod.metadata.labels.as_ref().unwrap()[names::LABEL_REVISION],
        "new"
    );
    let spec = pod.spec.unwrap();
    let images: Vec<_> = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?.reference.clone()?)))
        .collect();
    assert_eq!(
        images,
        [
            ("model", old.spec.model.image.clone()),
            ("candidate", new.spec.model.image.clone())
        ]
    );
    let secrets: Vec<_> = spec
        .image_pull_secrets
        .iter()
        .flatten()
        .map(|secret| secret.name.as_str())
        .collect();
    assert_eq!(secrets, ["pull-b", "pull-a"]);
    let container = &spec.containers[0];
    let memory = container.resources.as_ref().unwrap().requests.as_ref().unwrap()["memory"].clone();
    assert_eq!(
        quantity::units(&memory),
        Some(164 * 1024 * 1024),
        "two models take the memory of two"
    );
    let environment = container.env.as_ref().unwrap();
    let value = |name: &str| {
        let found: Vec<_> = environment
            .iter()
            .filter(|variable| variable.name == name)
            .collect();
        assert_eq!(found.len(), 1, "{name} is there once");
        found[0].value.clone().unwrap()
    };
    assert_eq!(value(names::CONTROL_TOKEN_ENV), "d1");
    let config: Value = serde_json::from_str(&value(names::RUNTIME_CONFIG_ENV)).unwrap();
    assert_eq!(
        (&config["revision"], &config["candidate"]["revision"]),
        (&json!("old"), &json!("new"))
    );
    assert_eq!(config["candidate"]["model"], names::CANDIDATE_DIR);
    for chain in [&config["variants"], &config["candidate"]["variants"]] {
        let found: Vec<_> = chain
            .as_array()
            .unwrap()
            .iter()
            .map(|variant| (variant["name"].as_str().unwrap(), variant["profile"].as_str()))
            .collect();
        assert_eq!(found, [("npu", Some("chip")), ("cpu", None)]);
    }
}

#[test]
fn what_cannot_be_in_one_pod_is_said() {
    let by_name = json!({"profiles": ["chip"]});
    let (new, old) = (workload('b', &by_name, "1Mi"), workload('a', &by_name, "1Mi"));
    let why = |profile: Option<&HardwareProfile>, same| refusal(&new.spec, &old.spec, profile, same);
    assert_eq!(why(Some(&profile(true)), true), None);
    assert_eq!(why(None, true), None, "a CPU runs many models");
    assert!(why(Some(&profile(false)), true).unwrap().contains("multiModel"));
    assert!(why(None, false).unwrap().contains("image of the runtime"));
    let mut other = new.clone();
    other.spec.runtime.runtime_class_name = Some("wasm".into());
    assert!(
        refusal(&other.spec, &old.spec, None, true)
            .unwrap()
            .contains("RuntimeClass")
    );
}

//! The API's rules, what may write it, and the chart.

use crate::support::{World, uids};
use perwatt_e2e::demo::WORKLOAD;
use perwatt_e2e::product::install::{NAMESPACE, Product};

const WORKLOAD_START: &str =
    "apiVersion: perwatt.dev/v1alpha1\nkind: InferenceWorkload\nmetadata: {name: wrong}\nspec:\n";
const PROFILE_START: &str =
    "apiVersion: perwatt.dev/v1alpha1\nkind: HardwareProfile\nmetadata: {name: wrong}\nspec:\n";

/// A manifest's rest, and what the refusal must say.
const WRONG_WORKLOADS: [(&str, &str); 13] = [
    (
        "  model: {image: \"registry.example/m:latest\"}\n  variants: [{name: cpu, deviceLess: CPU, artifact: {path: a}}]",
        "kubectl perwatt model pack",
    ),
    ("  model: {image: MODEL}\n  variants: []", "at least 1"),
    (
        "  model: {image: MODEL}\n  variants: [{name: cpu, artifact: {path: a}}]",
        "give exactly one",
    ),
    (
        "  model: {image: MODEL}\n  variants: [{name: cpu, deviceLess: CPU, device: {class: GPU}, artifact: {path: a}}]",
        "give exactly one",
    ),
    (
        "  model: {image: MODEL}\n  variants: [{name: npu, device: {}, artifact: {path: a}}]",
        "profiles (by name, best first) or class",
    ),
    (
        "  model: {image: MODEL}\n  variants: [{name: cpu, deviceLess: CPU, artifact: {path: ../a}}]",
        "without '..'",
    ),
    (
        "  model: {image: MODEL}\n  variants: [{name: relay, remote: {endpoint: \"http://hub:8080\"}, artifact: {path: a}}]",
        "unless it is remote",
    ),
    (
        "  model: {image: MODEL}\n  variants: [{name: cpu, deviceLess: CPU}]",
        "unless it is remote",
    ),
    (
        "  model: {image: MODEL}\n  variants: [{name: relay, remote: {endpoint: \"http://u:p@hub\"}}]",
        "without a password",
    ),
    (
        "  model: {image: MODEL}\n  placement: {locality: Site}\n  variants: [{name: relay, remote: {endpoint: \"http://hub:8080\"}}]",
        "locality: Any",
    ),
    (
        "  model: {image: MODEL}\n  replicas: 2\n  placement: {mode: PerNode}\n  variants: [{name: cpu, deviceLess: CPU, artifact: {path: a}}]",
        "remove replicas",
    ),
    (
        "  model: {image: MODEL}\n  fallback: {recovery: {stableFor: soon}}\n  variants: [{name: cpu, deviceLess: CPU, artifact: {path: a}}]",
        "stableFor",
    ),
    (
        "  model: {image: MODEL}\n  runtime: {resources: {limits: {nvidia.com/gpu: 1}}}\n  variants: [{name: cpu, deviceLess: CPU, artifact: {path: a}}]",
        "a device is asked for by a variant",
    ),
];

const WRONG_PROFILES: [(&str, &str); 7] = [
    ("  class: ASIC", "provider Perwatt needs discovery"),
    ("  class: ASIC\n  provider: External", "needs resourceName"),
    (
        "  class: ASIC\n  resourceName: example.com/x\n  discovery: {emulated: {count: 1}}",
        "leave resourceName out",
    ),
    (
        "  class: CPU\n  discovery: {emulated: {count: 1}}",
        "Unsupported value",
    ),
    (
        "  class: ASIC\n  discovery: {emulated: {count: 1}}\n  backend: {type: OpenInference}",
        "needs sidecar",
    ),
    (
        "  class: ASIC\n  discovery: {emulated: {count: 1}}\n  backend: {type: OpenInference, sidecar: {image: \"v:1\", port: 8001}}",
        "pinned by digest",
    ),
    (
        "  class: ASIC\n  discovery: {emulated: {count: 1}}\n  backend: {type: OpenInference, sidecar: {image: \"v@sha256:0000000000000000000000000000000000000000000000000000000000000000\", port: 9090}}",
        "choose another",
    ),
];

pub async fn rules(world: &World<'_>) {
    for (start, cases) in [
        (WORKLOAD_START, &WRONG_WORKLOADS[..]),
        (PROFILE_START, &WRONG_PROFILES[..]),
    ] {
        for (rest, expected) in cases {
            let refusal = world.apply(&format!("{start}{rest}\n")).await.expect_err(rest);
            assert!(
                refusal.contains(expected),
                "{rest}\nwas refused with\n{refusal}\nwithout {expected:?}"
            );
        }
    }
    // What is right passes, so that the rules above do not refuse everything.
    let right = "  model: {image: MODEL}\n  variants: [{name: cpu, deviceLess: CPU, artifact: {path: a}}]\n";
    let manifest = format!("{WORKLOAD_START}{right}").replace("MODEL", &world.model);
    world
        .cluster
        .kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], &manifest)
        .await
        .expect("a right one passes");
}

/// The API server lists the pods that restricted Pod Security would refuse: the agent's alone.
pub async fn pod_security(world: &World<'_>) {
    let label = "pod-security.kubernetes.io/enforce=restricted";
    let output = world
        .cluster
        .tool("kubectl")
        .args([
            "label",
            "--dry-run=server",
            "--overwrite",
            "namespace",
            NAMESPACE,
            label,
        ])
        .output()
        .await
        .expect("kubectl runs");
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        warnings.contains("perwatt-device-plugin"),
        "the agent is the exception: {warnings}"
    );
    assert!(
        !warnings.contains("perwatt-operator"),
        "the operator passes: {warnings}"
    );
}

/// The token of the agent on edge-a may not write the inventory of edge-b.
pub async fn own_node(world: &World<'_>) {
    let agent = world.product.agent("edge-a").await.expect("an agent");
    let uid = world
        .kubectl(&format!(
            "-n {NAMESPACE} get pod {agent} -o jsonpath={{.metadata.uid}}"
        ))
        .await;
    let token = world
        .kubectl(&format!(
            "-n {NAMESPACE} create token perwatt-device-plugin --bound-object-kind Pod --bound-object-name {agent} --bound-object-uid {uid}"
        ))
        .await;
    let patch = |node: &str, subresource: &str, body: &str| {
        let mut words: Vec<String> = [
            "--token",
            token.trim(),
            "patch",
            "deviceinventory",
            node,
            "--type=merge",
            "-p",
            body,
            "--dry-run=server",
        ]
        .map(str::to_owned)
        .to_vec();
        if !subresource.is_empty() {
            words.push(format!("--subresource={subresource}"));
        }
        words
    };
    for (node, subresource, body, allowed) in [
        (
            "edge-a",
            "status",
            r#"{"status":{"summary":{"problem":"mine"}}}"#,
            true,
        ),
        (
            "edge-b",
            "status",
            r#"{"status":{"summary":{"problem":"not mine"}}}"#,
            false,
        ),
        ("edge-b", "", r#"{"metadata":{"labels":{"not":"mine"}}}"#, false),
    ] {
        let words = patch(node, subresource, body);
        let mut command = world.cluster.tool("kubectl");
        // The administrator's certificate would win over the token.
        command.args(as_token_only(world)).args(&words);
        let output = command.output().await.expect("kubectl runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), allowed, "{node} {subresource}: {said}");
        assert!(
            allowed || said.contains("may not write the DeviceInventory of"),
            "{said}"
        );
    }
}

/// Flags that leave out the administrator's certificate.
fn as_token_only(world: &World<'_>) -> Vec<String> {
    let config = std::fs::read_to_string(world.cluster.kubeconfig()).expect("the kubeconfig is readable");
    let server = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("server: "))
        .expect("it names a server");
    let server = server.trim_matches('"');
    vec![
        "--kubeconfig=/dev/null".into(),
        format!("--server={server}"),
        "--insecure-skip-tls-verify=true".into(),
    ]
}

pub async fn metrics(world: &World<'_>) {
    let pod = world
        .kubectl(&format!(
            "-n {NAMESPACE} get pod -l app.kubernetes.io/name=perwatt-operator -o name"
        ))
        .await;
    let pod = pod.trim().trim_start_matches("pod/").to_owned();
    let get = |path: &str| format!("get --raw /api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/{path}");
    assert_eq!(world.kubectl(&get("healthz")).await.trim(), "ok");
    assert_eq!(world.kubectl(&get("readyz")).await.trim(), "ok");
    let text = world.kubectl(&get("metrics")).await;
    for name in [
        "perwatt_operator_leader 1",
        "perwatt_operator_plan_seconds_count",
        "perwatt_operator_pass_seconds_count",
    ] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
}

/// Installing again is an upgrade: the hook applies the definitions, and no pod of a workload changes.
pub async fn upgrade(world: &World<'_>) {
    let before = uids(&world.pods(WORKLOAD.0, WORKLOAD.1).await);
    world
        .kubectl(
            "annotate customresourcedefinition deviceinventories.perwatt.dev test.perwatt.dev/before=upgrade",
        )
        .await;
    Product::install(world.cluster, &world.product.progress)
        .await
        .expect("the upgrade succeeds");
    let managers = world
        .kubectl("get customresourcedefinition deviceinventories.perwatt.dev -o jsonpath={.metadata.managedFields[*].manager} --show-managed-fields")
        .await;
    assert!(
        managers.contains("perwatt-operator"),
        "the hook applied the definition: {managers}"
    );
    assert_eq!(uids(&world.pods(WORKLOAD.0, WORKLOAD.1).await), before);
}

//! What the README promises to a user who has a cluster already.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed test says where")]

use std::process::Command;

use perwatt_e2e::cluster::{Cluster, ClusterOptions, NodeOptions};
use perwatt_e2e::product::{Example, pack_model};
use perwatt_e2e::progress::Progress;
use perwatt_e2e::{images, project};

#[tokio::test]
#[ignore = "needs root and the built parts: make test"]
async fn make_install_serves_the_first_model_on_a_cluster_that_has_the_images() {
    let progress = Progress::new();
    let options = ClusterOptions {
        name: "box-install".to_owned(),
        nodes: vec![NodeOptions::new("edge-i")],
        port: 0,
        progress: progress.clone(),
    };
    let cluster = Cluster::start(options).await.expect("the cluster starts");
    for image in images::product(&progress).expect("packed").all() {
        cluster.load_image(&image.file).await.expect("loaded");
    }
    let (_, model) = pack_model(Example::SPEECH_GATE).expect("packed");
    cluster.load_image(&model).await.expect("loaded");

    let context = cluster
        .kubectl(&["config", "current-context"])
        .await
        .expect("named");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "install"])
        .arg(format!("KUBECONTEXT={}", context.trim()))
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("PATH", format!("{}:{path}", cluster.binaries().display()))
        .current_dir(project());
    let output = tokio::task::spawn_blocking(move || make.output())
        .await
        .expect("joined")
        .expect("make runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(
        said.contains(r#""name":"speech-gate""#),
        "the model answers: {said}"
    );
    let ports = [
        "get",
        "service/speech-gate",
        "--output=jsonpath={.spec.ports[*].port}",
    ];
    let ports = cluster.kubectl(&ports).await.expect("answers");
    assert_eq!(ports.trim(), "8080 8081", "REST and gRPC");
    cluster.stop().await.expect("the cluster stops");
}

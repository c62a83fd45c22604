//! What the cluster in a box promises to everything that is built on it.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed test says where"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use perwatt_e2e::cluster::{Cluster, ClusterOptions, NodeOptions, State};
use perwatt_e2e::images;
use perwatt_e2e::progress::Progress;
use perwatt_e2e::wait::{DEADLINE, until};
use perwatt_model::image::{ImageSpec, write_image};
use rustix::process::{Pid, Signal, kill_process};

/// What pods of this test may not do without.
const RESTRICTED: &str = r#"
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}"#;
const CONTAINER: &str = r#"
    imagePullPolicy: Never
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}"#;

#[tokio::test]
#[ignore = "needs root and the built parts: make test"]
async fn two_nodes_run_pods_and_leave_no_trace() {
    let options = ClusterOptions {
        name: "box-test".to_owned(),
        nodes: vec![
            NodeOptions::new("edge-a").label("perwatt.dev/sensor", "microphone"),
            NodeOptions::new("edge-b"),
        ],
        port: 0,
        progress: Progress::new(),
    };
    let cluster = Cluster::start(options).await.expect("the cluster starts");
    let before = cluster.state().clone();

    labels_are_set(&cluster).await;
    a_second_start_is_refused(&cluster).await;
    let volume = load_images(&cluster).await;
    apply_pods(&cluster, &volume).await;
    image_volume_logs_and_exec_work(&cluster).await;
    a_privileged_pod_is_refused(&cluster).await;
    a_service_answers_across_nodes(&cluster).await;
    a_kubelet_may_not_touch_another_node(&cluster).await;
    pods_outlive_kubelet_and_containerd(&cluster).await;

    let folders = made_folders(&before);
    cluster.stop().await.expect("the cluster stops");
    assert_eq!(traces(&before), Vec::<String>::new());
    let left: Vec<_> = folders.iter().filter(|folder| folder.exists()).collect();
    assert!(left.is_empty(), "folders made to mount on stay: {left:?}");
}

#[tokio::test]
#[ignore = "needs root and the built parts: make test"]
async fn a_start_works_wherever_the_last_one_was_killed() {
    let state = State::of("box-killed").expect("name");
    let _removed = Removed(&state);
    for step in ["network namespaces", "containerd", "the API server is ready"] {
        let mut starter = start_until(&state, step);
        signal(&starter, Signal::KILL);
        starter.wait().expect("ends");
    }
    // A node that comes up: its kubelet writes, and is seconds from Ready. Once the starter
    // said Ready it could have ended before the signal.
    let mut starter = start_until(&state, "the API server is ready");
    let kubelet = state.log("edge-x-kubelet");
    until("the kubelet starts", DEADLINE, || async {
        let begun = fs::metadata(&kubelet).is_ok_and(|log| log.len() > 0);
        begun.then_some(()).ok_or_else(|| "it wrote nothing".to_owned())
    })
    .await
    .expect("starts");
    signal(&starter, Signal::KILL);
    starter.wait().expect("ends");

    let mut starter = start_until(&state, "the API server is ready");
    signal(&starter, Signal::INT);
    assert_eq!(starter.wait().expect("ends").code(), Some(130), "ended by Ctrl-C");
    assert_eq!(traces(&state), Vec::<String>::new(), "Ctrl-C removes everything");

    let mut starter = start_until(&state, "logs of every part");
    assert!(starter.wait().expect("ends").success(), "the last start works");
    let cluster = Cluster::attach("box-killed")
        .await
        .expect("another process finds it");
    let nodes = cluster
        .kubectl(&["get", "nodes", "--output=name"])
        .await
        .expect("answers");
    assert_eq!(nodes.trim(), "node/edge-x");
    Cluster::remove("box-killed").await.expect("it can be removed");
    assert_eq!(traces(&state), Vec::<String>::new());
}

async fn labels_are_set(cluster: &Cluster) {
    let selected = [
        "get",
        "nodes",
        "--selector=perwatt.dev/sensor=microphone",
        "--output=name",
    ];
    assert_eq!(
        cluster.kubectl(&selected).await.expect("answers").trim(),
        "node/edge-a"
    );
}

async fn a_second_start_is_refused(cluster: &Cluster) {
    let again = ClusterOptions::new(cluster.state().name(), ["edge-a"]);
    let message = Cluster::start(again).await.expect_err("in use").to_string();
    assert!(
        message.contains(&format!("is in use by process {}", std::process::id())),
        "{message}"
    );
}

/// Loads busybox and an image that holds only a file; gives the latter's reference.
async fn load_images(cluster: &Cluster) -> String {
    let busybox = images::busybox(&Progress::new()).expect("busybox image");
    cluster.load_image(&busybox.file).await.expect("busybox loads");
    let folder = tempfile::tempdir().expect("folder");
    let (layer, tar) = (folder.path().join("layer"), folder.path().join("volume.tar"));
    fs::create_dir(&layer).expect("layer");
    fs::write(layer.join("greeting"), "from an image\n").expect("file");
    let spec = ImageSpec {
        name: "registry.example/perwatt/volume",
        tag: None,
        layers: vec![layer],
        entrypoint: Vec::new(),
        env: Vec::new(),
        user: None,
    };
    let packed = write_image(&spec, &tar).expect("volume image");
    cluster.load_image(&tar).await.expect("volume image loads");
    packed.reference
}

fn busybox_reference() -> String {
    images::busybox(&Progress::quiet())
        .expect("busybox image")
        .reference
}

/// A web server on each node that serves the image volume, and their Service.
async fn apply_pods(cluster: &Cluster, volume: &str) {
    let busybox = busybox_reference();
    let mut manifest = "apiVersion: v1
kind: Namespace
metadata: {name: box, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: box}
spec: {selector: {app: web-edge-b}, ports: [{port: 80, targetPort: 8080}]}
"
    .to_owned();
    for node in ["edge-a", "edge-b"] {
        manifest.push_str(&format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, namespace: box, labels: {{app: web-{node}}}}}
spec:{RESTRICTED}
  nodeName: {node}
  containers:
  - name: web
    image: {busybox}{CONTAINER}
    command: [/usr/bin/busybox, sh, -c, 'echo serving on {node}; exec busybox httpd -f -v -p 8080 -h /data']
    readinessProbe: {{httpGet: {{port: 8080, path: /greeting}}, periodSeconds: 1}}
    volumeMounts: [{{name: data, mountPath: /data, readOnly: true}}]
  volumes: [{{name: data, image: {{reference: '{volume}', pullPolicy: Never}}}}]
"
        ));
    }
    // Pods need the namespace's default service account, which a controller makes.
    until("the pods are accepted", DEADLINE, || async {
        cluster
            .kubectl_with_input(&["apply", "--filename=-"], &manifest)
            .await
            .map_err(|error| error.to_string())
    })
    .await
    .expect("applied");
    let wait = [
        "wait",
        "--namespace=box",
        "pods",
        "--all",
        "--for=condition=Ready",
        "--timeout=180s",
    ];
    if let Err(error) = cluster.kubectl(&wait).await {
        let why = cluster.kubectl(&["describe", "pods", "--namespace=box"]).await;
        panic!("{error}\n{}", why.unwrap_or_default());
    }
}

async fn image_volume_logs_and_exec_work(cluster: &Cluster) {
    for node in ["edge-a", "edge-b"] {
        let pod = format!("web-{node}");
        let logs = cluster
            .kubectl(&["logs", "--namespace=box", &pod])
            .await
            .expect("logs");
        assert!(logs.starts_with(&format!("serving on {node}")), "{logs}");
        let exec = [
            "exec",
            "--namespace=box",
            &pod,
            "--",
            "/usr/bin/busybox",
            "cat",
            "/data/greeting",
        ];
        assert_eq!(cluster.kubectl(&exec).await.expect("exec"), "from an image\n");
    }
}

async fn a_privileged_pod_is_refused(cluster: &Cluster) {
    let arguments = ["run", "root", "--namespace=box", "--image=x", "--privileged"];
    let message = cluster
        .kubectl(&arguments)
        .await
        .expect_err("restricted")
        .to_string();
    assert!(message.contains("violates PodSecurity \"restricted"), "{message}");
}

async fn a_service_answers_across_nodes(cluster: &Cluster) {
    let address = [
        "get",
        "service",
        "web",
        "--namespace=box",
        "--output=jsonpath={.spec.clusterIP}",
    ];
    let address = cluster.kubectl(&address).await.expect("has an address");
    let url = format!("http://{address}/greeting");
    let get = ["/usr/bin/busybox", "wget", "-q", "-O", "-", &url];
    for pod in ["web-edge-a", "web-edge-b"] {
        // From the server's own node, too: a pod that reaches itself through its Service.
        let exec: Vec<_> = ["exec", "--namespace=box", pod, "--"]
            .iter()
            .chain(&get)
            .copied()
            .collect();
        let what = format!("the Service answers {pod}");
        until(&what, DEADLINE, || async {
            cluster.kubectl(&exec).await.map_err(|error| error.to_string())
        })
        .await
        .expect("answers");
    }
    let busybox = perwatt_e2e::cluster::cache().join("busybox/busybox");
    for node in cluster.nodes() {
        let mut command = node.command(&busybox);
        let output = command.args(&get[1..]).output().await.expect("runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "from an image\n",
            "from {}",
            node.name()
        );
        let target = format!("{address}:80").parse().expect("an address");
        let forward = node.forward(target).expect("forwards");
        perwatt_e2e::set_up_tls();
        let reply = reqwest::get(format!("http://{}/greeting", forward.address()))
            .await
            .expect("answers");
        assert_eq!(reply.text().await.expect("text"), "from an image\n");
    }
}

async fn a_kubelet_may_not_touch_another_node(cluster: &Cluster) {
    let config = cluster.state().folder().join("kubeconfigs/edge-a");
    let node = cluster.node("edge-a").expect("exists");
    let label = |target: &'static str, label: &'static str| {
        let mut command = node.command(cluster.binaries().join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&config)
            .args(["label", "node", target, label]);
        async move {
            let output = command.output().await.expect("runs");
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            )
        }
    };
    let (done, message) = label("edge-a", "note=x").await;
    assert!(done, "a kubelet labels its own node: {message}");
    let (_, message) = label("edge-b", "note=x").await;
    assert!(message.contains("only its own Node object"), "{message}");
    let (_, message) = label("edge-a", "node-restriction.kubernetes.io/note=x").await;
    assert!(message.contains("is not allowed to modify labels"), "{message}");
}

async fn pods_outlive_kubelet_and_containerd(cluster: &Cluster) {
    let identity = [
        "get",
        "pod",
        "web-edge-b",
        "--namespace=box",
        "--output=jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}",
    ];
    let before = cluster.kubectl(&identity).await.expect("answers");
    let node = cluster.node("edge-b").expect("exists");
    let pids = node.pids();
    node.restart_kubelet().await.expect("kubelet restarts");
    node.restart_containerd().await.expect("containerd restarts");
    assert_ne!(node.pids(), pids, "these are new processes");
    let wait = ["wait", "node/edge-b", "--for=condition=Ready", "--timeout=180s"];
    cluster.kubectl(&wait).await.expect("the node is Ready");
    let exec = [
        "exec",
        "--namespace=box",
        "web-edge-b",
        "--",
        "/usr/bin/busybox",
        "true",
    ];
    until("exec works through the new containerd", DEADLINE, || async {
        cluster.kubectl(&exec).await.map_err(|error| error.to_string())
    })
    .await
    .expect("works");
    assert_eq!(
        cluster.kubectl(&identity).await.expect("answers"),
        before,
        "the same container"
    );
    cluster.check_parts().expect("every part runs");
}

/// Starts a cluster in another process; gives it once it said `step`.
fn start_until(state: &State, step: &str) -> Child {
    let mut starter = Command::new(env!("CARGO_BIN_EXE_perwatt-e2e"))
        .args(["up", "--name", state.name(), "--node", "edge-x"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(starter.stderr.take().expect("piped")).lines();
    let mut said = Vec::new();
    loop {
        let Some(Ok(line)) = lines.next() else {
            panic!("{} never said {step:?}, but:\n{}", state.name(), said.join("\n"));
        };
        said.push(line);
        if said.last().is_some_and(|line| line.contains(step)) {
            break;
        }
    }
    // Goes on reading, so that the starter never waits for us.
    std::thread::spawn(move || lines.for_each(drop));
    starter
}

/// Removes the cluster however the test ends.
struct Removed<'a>(&'a State);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let down = Command::new(env!("CARGO_BIN_EXE_perwatt-e2e"))
            .args(["down", "--name", self.0.name()])
            .status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be removed", self.0.name());
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    kill_process(pid, signal).expect("signalled");
}

/// Everything of a cluster that the machine still shows.
fn traces(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    let lock = state.root().join(format!("{}.lock", state.name()));
    let files = [state.folder(), lock].into_iter().filter(|path| path.exists());
    found.extend(files.map(|path| format!("file {}", path.display())));
    let mark = format!("perwatt.{}", state.name());
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let folder = state.folder().display().to_string();
    let ours = |line: &&str| line.contains(&folder) || line.contains(&format!("{mark}."));
    found.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
    found.extend(
        entries("/run/netns")
            .into_iter()
            .filter(|path| names(path, &format!("{mark}.")))
            .map(|p| format!("namespace {}", p.display())),
    );
    for hierarchy in entries("/sys/fs/cgroup")
        .into_iter()
        .chain(["/sys/fs/cgroup".into()])
    {
        let group = hierarchy.join(&mark);
        found.extend(
            group
                .exists()
                .then(|| format!("control group {}", group.display())),
        );
    }
    for process in entries("/proc") {
        let command = fs::read_to_string(process.join("cmdline"))
            .unwrap_or_default()
            .replace('\0', " ");
        let starter = command.contains("perwatt-e2e up");
        if !starter && (command.contains(&format!("{folder}/")) || command.contains(&format!("{mark}."))) {
            found.push(format!("process {command}"));
        }
    }
    found
}

fn entries(folder: &str) -> Vec<PathBuf> {
    let Ok(all) = fs::read_dir(folder) else {
        return Vec::new();
    };
    all.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn names(path: &Path, prefix: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// The folders that were made on the machine, unless another cluster needs them too.
fn made_folders(state: &State) -> Vec<PathBuf> {
    let others = entries(&state.root().display().to_string());
    if others
        .iter()
        .any(|path| *path != state.folder() && path.join("parts").exists())
    {
        return Vec::new();
    }
    let list = fs::read_to_string(state.root().join("made-folders")).unwrap_or_default();
    list.lines().map(PathBuf::from).collect()
}

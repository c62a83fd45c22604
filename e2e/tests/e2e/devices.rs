//! Whatever happens to a device, to its agent or to its kubelet: the kubelet's view (capacity, allocatable, whom it gave
//! what) and ours (the DeviceInventory) are the same in the end, and the pod that holds the device goes on.

use crate::kills::kill;
use crate::support::{World, settled};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_crds::inventory::DeviceHealth::{self, Degraded, Healthy, Unhealthy, Unknown};
use perwatt_e2e::demo;
use perwatt_e2e::product::devices::NodeDevices;
use perwatt_e2e::product::install::NAMESPACE;
use perwatt_e2e::product::traffic::{self, Reply, Traffic, tally};
use perwatt_e2e::wait::{DEADLINE, until};
use std::path::PathBuf;

const NODE: &str = "edge-a";
const PROFILE: &str = "faulty-emulated";
const HOLDER: &str = "holder";

const PROFILE_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: faulty-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: COUNT, nodes: {matchLabels: {kubernetes.io/hostname: edge-a}}}}
  power: {typicalMilliwatts: 1000, maxMilliwatts: 2000}
";

/// A pod of nobody's: what the operator would do with one is another step's business.
const POD_OF: &str = "apiVersion: v1
kind: Pod
metadata: {name: holder, namespace: audio}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: runtime
    image: RUNTIME
    args: [/model]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 256Mi, perwatt.dev/faulty-emulated: 1}}
    volumeMounts: [{name: model, mountPath: /model, readOnly: true}]
  volumes: [{name: model, image: {reference: \"MODEL\"}}]
";

/// The device that the pod holds, and the other.
struct Devices<'a> {
    world: &'a World<'a>,
    held: String,
    free: String,
    pod_uid: String,
}

/// Every fault, one after the other; each begins and ends with both devices well.
pub async fn faults(world: &World<'_>) {
    let devices = Devices::prepare(world).await;
    devices.of_devices().await;
    devices.of_files().await;
    devices.of_agents().await;
    devices.of_kubelets().await;
    devices.of_profiles().await;
    devices.rejected_after_a_restart().await;
    world
        .kubectl("-n audio delete pod holder --wait=true --ignore-not-found")
        .await;
    world.kubectl("delete hardwareprofile faulty-emulated").await;
}

/// A person takes the device under a serving pod out of use, under traffic, and puts it back.
pub async fn drained(world: &World<'_>) {
    let device = "edge-a/asic-emulated-0";
    let options = demo::stream_options(world.cluster).await.expect("a service");
    let client = world.cluster.node(demo::GPU_NODE).expect("a node");
    let traffic = Traffic::start(client, &options).expect("the client starts");
    let answer_by = async |variant: &str, since| {
        let by = |reply: &Reply| reply.text("variant") == variant;
        let heard = traffic
            .wait_for(&format!("an answer by {variant}"), since, by)
            .await;
        heard.expect("an answer");
    };
    answer_by("npu", 0).await;
    let drained = traffic::now();
    kubectl_perwatt(world, &["drain-device", device, "--reason", "a fan"]).await;
    answer_by("gpu", drained).await;
    let moved = |status: &InferenceWorkloadStatus| status.summary.serving == "gpu";
    world.status("the slot has moved", demo::WORKLOAD, moved).await;
    let problem = world
        .kubectl("get deviceinventory edge-a -o jsonpath={.status.summary.problem}")
        .await;
    assert!(
        problem.contains("drained") && problem.contains("a fan"),
        "{problem}"
    );
    let back = traffic::now();
    kubectl_perwatt(world, &["uncordon-device", device]).await;
    answer_by("npu", back).await;
    world
        .status("as planned again", demo::WORKLOAD, |status| {
            settled(status, "npu")
        })
        .await;
    let counted = tally(&traffic.stop().await.expect("the client ends"));
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
}

async fn kubectl_perwatt(world: &World<'_>, arguments: &[&str]) {
    let program = perwatt_e2e::programs::find("kubectl-perwatt").expect("it is built");
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", world.cluster.kubeconfig())
        .output()
        .await
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

impl<'a> Devices<'a> {
    async fn prepare(world: &'a World<'a>) -> Self {
        apply_profile(world, 2).await;
        let image = world
            .kubectl(&format!(
                "-n {NAMESPACE} get deployment perwatt-operator -o jsonpath={{.spec.template.spec.containers[0].env[?(@.name==\"PERWATT_RUNTIME_IMAGE\")].value}}"
            ))
            .await;
        let manifest = POD_OF.replace("RUNTIME", &image);
        world.apply(&manifest).await.expect("the pod applies");
        world
            .kubectl("-n audio wait --for=condition=Ready pod/holder --timeout=120s")
            .await;
        let pod_uid = world
            .kubectl("-n audio get pod holder -o jsonpath={.metadata.uid}")
            .await;
        let given = given(world).await.expect("the kubelet tells");
        let held = given.first().expect("a device").clone();
        let number = usize::from(held.ends_with('0'));
        let devices = Self {
            world,
            free: format!("{PROFILE}-{number}"),
            held,
            pod_uid,
        };
        devices.agree("at the beginning", [Healthy, Healthy]).await;
        devices
    }

    /// What a device says of itself.
    async fn of_devices(&self) {
        for (setting, back, health) in [
            ("health=Unhealthy", "health=Healthy", Unhealthy),
            ("health=Degraded", "health=Healthy", Degraded),
            ("temperature=99", "temperature=40", Degraded),
            ("temperature=120", "temperature=40", Unhealthy),
            ("power=5000", "power=1000", Degraded),
            ("present=false", "present=true", Unhealthy),
            ("delay=5000", "delay=0", Unknown),
        ] {
            self.set(&self.held, setting).await;
            self.agree(setting, [health, Healthy]).await;
            self.set(&self.held, back).await;
            self.agree(back, [Healthy, Healthy]).await;
        }
        self.set(&self.free, "health=Unhealthy").await;
        self.set(&self.held, "health=Unhealthy").await;
        self.agree("both unhealthy", [Unhealthy, Unhealthy]).await;
        self.set(&self.free, "health=Healthy").await;
        self.set(&self.held, "health=Healthy").await;
        self.agree("both well again", [Healthy, Healthy]).await;
    }

    /// Files that are gone, or hold garbage.
    async fn of_files(&self) {
        let health = self.folder(&self.held).join("control/health");
        std::fs::write(&health, "no such word").expect("written");
        self.agree("garbage in health", [Unknown, Healthy]).await;
        self.set(&self.held, "health=Healthy").await;
        self.agree("a word again", [Healthy, Healthy]).await;
        std::fs::remove_file(self.folder(&self.held).join("device")).expect("removed");
        self.agree("the device node is deleted", [Unhealthy, Healthy])
            .await;
        self.set(&self.held, "present=true").await;
        self.agree("it is there again", [Healthy, Healthy]).await;
    }

    /// The agent dies, loses its socket, is upgraded, is blind.
    async fn of_agents(&self) {
        self.kill_agent().await;
        self.agree("the agent was killed", [Healthy, Healthy]).await;
        let agent = self.agent_uid().await;
        let socket = self.kubelet().join("device-plugins/perwatt-faulty-emulated.sock");
        std::fs::remove_file(&socket).expect("removed");
        self.agree("the plugin's socket was deleted", [Healthy, Healthy])
            .await;
        self.set(&self.held, "health=Unhealthy").await;
        self.agree("a fault after that", [Unhealthy, Healthy]).await;
        kill("perwatt-device-plugin", &agent);
        self.agree("the agent was killed during the fault", [Unhealthy, Healthy])
            .await;
        self.set(&self.held, "health=Healthy").await;
        self.world
            .kubectl(&format!(
                "-n {NAMESPACE} rollout restart daemonset/perwatt-device-plugin"
            ))
            .await;
        self.world
            .kubectl(&format!(
                "-n {NAMESPACE} rollout status daemonset/perwatt-device-plugin --timeout=120s"
            ))
            .await;
        self.agree("the agent was upgraded", [Healthy, Healthy]).await;
        self.without_api_server().await;
    }

    /// A fault while the API server is away: the kubelet hears of it, the inventory catches up.
    async fn without_api_server(&self) {
        let health = self.folder(&self.held).join("control/health");
        self.world.cluster.stop_api_server().expect("stopped");
        std::fs::write(&health, "Unhealthy").expect("written");
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        self.world.cluster.go_on_api_server().expect("goes on");
        self.agree("a fault without an API server", [Unhealthy, Healthy])
            .await;
        std::fs::write(&health, "Healthy").expect("written");
        self.agree("well again", [Healthy, Healthy]).await;
    }

    /// The kubelet restarts with the pod running, alone and with containerd, while the API server is away.
    async fn of_kubelets(&self) {
        let node = self.world.cluster.node(NODE).expect("a node");
        node.restart_kubelet().await.expect("restarted");
        self.agree("the kubelet was killed", [Healthy, Healthy]).await;
        node.kill_kubelet().await.expect("killed");
        std::fs::write(self.folder(&self.held).join("control/health"), "Unhealthy").expect("written");
        node.start_kubelet().await.expect("started");
        self.agree("a fault without a kubelet", [Unhealthy, Healthy])
            .await;
        self.set(&self.held, "health=Healthy").await;
        self.agree("well again", [Healthy, Healthy]).await;
        node.kill_kubelet().await.expect("killed");
        self.kill_agent().await;
        node.start_kubelet().await.expect("started");
        self.agree("kubelet and agent were killed", [Healthy, Healthy])
            .await;
        self.world.cluster.stop_api_server().expect("stopped");
        node.kill_kubelet().await.expect("killed");
        node.restart_containerd().await.expect("restarted");
        let started = node.start_kubelet().await;
        self.world.cluster.go_on_api_server().expect("goes on");
        started.expect("started");
        self.agree(
            "kubelet and containerd began anew without an API server",
            [Healthy, Healthy],
        )
        .await;
    }

    /// Profiles that go, come and change.
    async fn of_profiles(&self) {
        apply_profile(self.world, 3).await;
        let more = [
            (self.held.clone(), Healthy),
            (self.free.clone(), Healthy),
            (format!("{PROFILE}-2"), Healthy),
        ];
        self.agree_on("a third device", &more).await;
        apply_profile(self.world, 2).await;
        self.agree("two again", [Healthy, Healthy]).await;
        self.world.kubectl("delete hardwareprofile faulty-emulated").await;
        self.agree_on("no profile", &[]).await;
        apply_profile(self.world, 2).await;
        self.agree("the profile is back", [Healthy, Healthy]).await;
    }

    /// A container that stopped, and whose device became unhealthy before the kubelet began anew: the kubelet rejects
    /// the pod, for it would have to give it a device that must not be used. A pod of ours would be replaced.
    async fn rejected_after_a_restart(&self) {
        let node = self.world.cluster.node(NODE).expect("a node");
        self.set(&self.held, "health=Unhealthy").await;
        self.agree("before the restart", [Unhealthy, Healthy]).await;
        node.kill_kubelet().await.expect("killed");
        kill("perwatt-runtime", &self.pod_uid);
        node.start_kubelet().await.expect("started");
        let reason = "jsonpath={.status.phase}/{.status.reason}";
        until("the pod is rejected", DEADLINE, || async {
            let seen = self
                .world
                .kubectl(&format!("-n audio get pod {HOLDER} -o {reason}"))
                .await;
            if seen == "Failed/UnexpectedAdmissionError" {
                Ok(())
            } else {
                Err(seen)
            }
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        self.set(&self.held, "health=Healthy").await;
    }

    async fn agree(&self, after: &str, [held, free]: [DeviceHealth; 2]) {
        let wanted = [(self.held.clone(), held), (self.free.clone(), free)];
        self.agree_on(after, &wanted).await;
    }

    /// Waits until both views are as they should be, and the same.
    async fn agree_on(&self, after: &str, wanted: &[(String, DeviceHealth)]) {
        let wanted: std::collections::BTreeMap<_, _> = wanted.iter().cloned().collect();
        let wanted = &wanted;
        until(&format!("both views agree: {after}"), DEADLINE, || async move {
            self.compare(wanted).await
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        println!("  both views agree: {after}");
    }

    async fn compare(&self, wanted: &std::collections::BTreeMap<String, DeviceHealth>) -> Result<(), String> {
        let client = self.world.cluster.client().map_err(|error| error.to_string())?;
        let views = views(self.world);
        let ours = views.inventory().await.map_err(|error| error.to_string())?;
        let healths = ours
            .iter()
            .map(|device| (device.id.clone(), device.health))
            .collect();
        if *wanted != healths {
            return Err(format!("the inventory says {healths:?}"));
        }
        let offered = views.offered().await.map_err(|error| error.to_string())?;
        let usable = wanted
            .values()
            .filter(|health| matches!(health, Healthy | Degraded))
            .count();
        if (offered.capacity, offered.allocatable) != (wanted.len(), usable) {
            return Err(format!("the kubelet says {offered:?}"));
        }
        // Without a profile nobody tells who holds what; the kubelet remembers.
        if wanted.is_empty() {
            return self.undisturbed(client).await;
        }
        let given = given(self.world).await?;
        if given != [self.held.clone()] {
            return Err(format!("the kubelet has given {given:?}, not {}", self.held));
        }
        for device in ours {
            let holder = device.pod.as_ref().map(|pod| pod.name.as_str());
            let right = if device.id == self.held {
                Some(HOLDER)
            } else {
                None
            };
            if holder != right {
                return Err(format!("the inventory says that {holder:?} holds {}", device.id));
            }
        }
        self.undisturbed(client).await
    }

    /// The pod is the same, runs, and was never started again.
    async fn undisturbed(&self, client: kube::Client) -> Result<(), String> {
        let pods: Api<Pod> = Api::namespaced(client, "audio");
        let pod = pods.get(HOLDER).await.map_err(|error| error.to_string())?;
        let status = pod.status.unwrap_or_default();
        let restarts: i32 = status
            .container_statuses
            .iter()
            .flatten()
            .map(|c| c.restart_count)
            .sum();
        let same = pod.metadata.uid.as_deref() == Some(&self.pod_uid);
        if same && restarts == 0 && status.phase.as_deref() == Some("Running") {
            Ok(())
        } else {
            Err(format!(
                "the pod was disturbed: {:?}, {restarts} restarts",
                status.phase
            ))
        }
    }

    async fn set(&self, device: &str, setting: &str) {
        // The kubelet or the agent may have begun anew a moment ago.
        until("the device is set", DEADLINE, || async {
            let set = self.world.product.emulate(NODE, device, setting).await;
            set.map_err(|error| error.to_string())
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Where this machine sees an emulated device's folder.
    fn folder(&self, device: &str) -> PathBuf {
        let node = self.world.cluster.node(NODE).expect("a node");
        node.agent_dir().join("emulated").join(device)
    }

    fn kubelet(&self) -> PathBuf {
        self.world.cluster.node(NODE).expect("a node").kubelet_dir()
    }

    async fn agent_uid(&self) -> String {
        let pod = self.world.product.agent_pod(NODE).await.expect("an agent");
        pod.metadata.uid.expect("a uid")
    }

    async fn kill_agent(&self) {
        kill("perwatt-device-plugin", &self.agent_uid().await);
    }
}

async fn apply_profile(world: &World<'_>, count: u32) {
    let manifest = PROFILE_OF.replace("COUNT", &count.to_string());
    world.apply(&manifest).await.expect("the profile applies");
}

/// The devices of our resource that the kubelet has given to pods.
async fn given(world: &World<'_>) -> Result<Vec<String>, String> {
    let given = views(world).given().await.map_err(|error| error.to_string())?;
    Ok(given.into_iter().map(|(device, _)| device).collect())
}

fn views<'a>(world: &World<'a>) -> NodeDevices<'a> {
    NodeDevices::new(world.cluster, NODE, PROFILE).expect("a node")
}

//! New revisions on their way through cohorts, with requests flowing on both nodes: a good one arrives everywhere, those
//! that are worse go back, each for its own fault, and no request is lost.

use crate::models::Model;
use crate::support::{World, settled};
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_e2e::demo::{self, ASIC_NODE, GPU_NODE};
use perwatt_e2e::product::samples::{self, Samples, Streaming};
use perwatt_e2e::product::traffic::{Reply, now, tally};

pub const WORKLOAD: (&str, &str) = ("audio", "rolling");
const SLOTS: i32 = 3;
/// Requests a second on each node.
const RATE: u32 = 60;
const DEVICES: [(&str, &str); 4] = [
    (ASIC_NODE, "rolling-emulated-0"),
    (ASIC_NODE, "rolling-emulated-1"),
    (GPU_NODE, "rolling-emulated-0"),
    (GPU_NODE, "rolling-emulated-1"),
];
const PROFILE: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: rolling-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 2, nodes: {matchLabels: {kubernetes.io/os: linux}}}}
  power: {typicalMilliwatts: 1000, maxMilliwatts: 2000}
  sharing: {multiModel: true}
";
const MANIFEST: &str = "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: rolling, namespace: audio}
spec:
  replicas: 3
  model: {image: \"IMAGE\"}
  variants:
  - {name: npu, device: {profiles: [rolling-emulated]}, artifact: {path: ARTIFACT}}
  - {name: cpu, deviceLess: CPU, artifact: {path: ARTIFACT}}
  rollout: {policyRef: POLICY}
";
/// Limits are wide: a test machine of two cores is no place to tell latencies by tenths, and what is shown here is the way.
const POLICY: &str = "apiVersion: perwatt.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: NAME, namespace: audio}
spec:
  acceptEmulatedEnergy: true
  cohorts:
  - {name: canary, share: 33%, bake: 5s}
  - {name: more, share: 33%, bake: 5s}
  - {name: rest, bake: 5s}
  analysis:
  - {metric: ErrorRate, maxIncrease: {absolute: \"10%\"}}
";
/// Policies by name, with what each judges besides errors.
const POLICIES: [(&str, &str); 2] = [
    (
        "standard",
        "  - {metric: LatencyP50, maxIncrease: {relative: \"400%\"}}
  - {metric: Disagreement, maximum: \"20%\"}
",
    ),
    (
        "frugal",
        "  - {metric: EnergyPerInference, maxIncrease: {relative: \"400%\"}}
",
    ),
];
pub const NETWORK: &str = "motion.nir";
/// Neurons that make the example's network many times slower.
const BURDEN: usize = 20_000;

/// A workload whose revisions are tried, and requests that flow to it.
pub struct Rolling<'a> {
    pub world: &'a World<'a>,
    clients: [Streaming; 2],
    /// The revision that serves.
    pub good: String,
}

/// A revision that is worse.
struct Worse<'a> {
    what: &'a str,
    image: String,
    artifact: &'a str,
    policy: &'a str,
    /// A part of the sentence that rejects it.
    says: &'a str,
}

/// A good revision, and one that quietly answers differently.
pub async fn cohorts(world: &World<'_>) {
    let model = Model::motion();
    let first = model.load(world, "rolling-1").await;
    model.edit(|text| text.replace("version: \"1\"", "version: \"2\""));
    let second = model.load(world, "rolling-2").await;
    let mut rolling = Rolling::start(world, &first).await;
    rolling.arrives(&second).await;
    // Its largest score is the smallest of the one before.
    let upside_down = "postprocess:\n- {from: {name: output, datatype: FP32, shape: [1, 4]}, to: output, steps: [{step: Normalize, mean: [0, 0, 0, 0], std: [1, 1, 1, 1], scale: -1}]}\n";
    model.edit(|text| format!("{text}{upside_down}"));
    let worse = Worse {
        what: "answers differently",
        image: model.load(world, "rolling-3").await,
        artifact: NETWORK,
        policy: "standard",
        says: "differing answers",
    };
    rolling.goes_back(&worse).await;
    told(world).await;
    rolling.end().await;
}

/// Events of two rollouts.
async fn told(world: &World<'_>) {
    let events = world
        .kubectl("-n audio get events -o jsonpath={range.items[*]}{.reason}{\"\\n\"}{end}")
        .await;
    let begun = events.lines().filter(|line| *line == "RolloutBegan").count();
    assert_eq!(begun, 2, "each rollout is told once");
    for reason in [
        "CohortOpened",
        "CohortPassed",
        "RolloutComplete",
        "RolloutRejected",
    ] {
        assert!(
            events.lines().any(|line| line == reason),
            "event {reason} is missing among\n{events}"
        );
    }
}

/// Revisions that are slower, err, or take more energy.
pub async fn worse(world: &World<'_>) {
    let samples = samples::motion().expect("samples");
    let model = Model::motion();
    let first = model.load(world, "rolling-1").await;
    // A rejected revision is not tried again: there are two of them.
    let heavy = Model::motion();
    heavy.add_network("slow.nir", &heavy.heavier(BURDEN));
    let slow = heavy.load(world, "rolling-slow").await;
    heavy.edit(|text| text.replace("version: \"1\"", "version: \"2\""));
    let hungry = heavy.load(world, "rolling-hungry").await;
    let erring = Model::motion();
    erring.add_table("table.onnx", half_of(&samples));
    let erring = erring.load(world, "rolling-erring").await;
    let rolling = Rolling::start(world, &first).await;
    let worse = |what, image: &str, artifact, policy, says| Worse {
        what,
        image: image.to_owned(),
        artifact,
        policy,
        says,
    };
    for worse in [
        worse("is slower", &slow, "slow.nir", "standard", "p50 of"),
        worse("errs", &erring, "table.onnx", "frugal", "the error rate"),
        worse(
            "takes more energy (emulated)",
            &hungry,
            "slow.nir",
            "frugal",
            "the energy per inference",
        ),
    ] {
        rolling.goes_back(&worse).await;
    }
    rolling.end().await;
}

/// So many events that half of the samples have fewer.
fn half_of(samples: &Samples) -> usize {
    let events = |body: &serde_json::Value| {
        let data = body["inputs"][0]["data"].as_array().into_iter().flatten();
        data.filter(|value| value.as_f64() > Some(0.5)).count()
    };
    let mut counts: Vec<_> = samples.bodies().iter().map(events).collect();
    counts.sort_unstable();
    counts[counts.len() / 2]
}

pub fn state(status: &InferenceWorkloadStatus) -> &str {
    status
        .rollout
        .as_ref()
        .map_or("", |rollout| rollout.state.as_str())
}

fn by<'a>(replies: &'a [Reply], revision: &'a str) -> impl Iterator<Item = &'a Reply> {
    replies
        .iter()
        .filter(move |reply| reply.text("revision") == revision)
}

impl<'a> Rolling<'a> {
    pub async fn start(world: &'a World<'a>, image: &str) -> Self {
        world.apply(PROFILE).await.expect("it applies");
        for (name, judged) in POLICIES {
            let policy = POLICY.replace("NAME", name) + judged;
            world.apply(&policy).await.expect("it applies");
        }
        apply(world, image, NETWORK, "standard").await;
        let before = world
            .status("all slots are served", WORKLOAD, |status| {
                settled(status, "npu") && status.ready_slots == SLOTS
            })
            .await;
        assert_eq!(before.rollout, None, "a first deployment needs no gates");
        for (node, device) in DEVICES {
            let emulated = world.product.emulate(node, device, "power=1500").await;
            emulated.expect("the device tells its power");
        }
        let asked = samples::motion().expect("samples");
        let ask = async |node| asked.stream(world.cluster, node, WORKLOAD, RATE).await;
        let rolling = Self {
            world,
            clients: [
                ask(ASIC_NODE).await.expect("a client"),
                ask(GPU_NODE).await.expect("a client"),
            ],
            good: before.revision.expect("a revision"),
        };
        rolling.answers(&rolling.good).await;
        rolling
    }

    /// The revision answers on both nodes now.
    async fn answers(&self, revision: &str) {
        for client in &self.clients {
            let answer = client
                .traffic
                .wait_for("an answer by the revision", now(), |reply| {
                    reply.text("revision") == revision
                });
            answer.await.expect("it answers on both nodes");
        }
    }

    /// A good revision passes one cohort after the other.
    async fn arrives(&mut self, image: &str) {
        let [shortest, longest] = self.preview(image).await;
        apply(self.world, image, NETWORK, "standard").await;
        let compared = self
            .world
            .status("the canary carries both revisions", WORKLOAD, |status| {
                let rollout = status.rollout.as_ref();
                rollout.is_some_and(|rollout| rollout.cohorts[0].updated == 1)
            })
            .await;
        let ready = compared.conditions.iter().find(|found| found.type_ == "Ready");
        assert_eq!(ready.map(|ready| ready.status.as_str()), Some("True"));
        let done = self.completes().await;
        let rollout = done.rollout.expect("a rollout");
        assert_eq!(rollout.cohorts.len(), 3);
        for pair in rollout.cohorts.windows(2) {
            let (closed, opened) = (pair[0].closed.as_ref(), pair[1].opened.as_ref());
            assert!(closed.map(|time| time.0) <= opened.map(|time| time.0), "{pair:?}");
        }
        let end = &done.history[0];
        let took = end.ended.0.duration_since(end.began.0).as_secs();
        assert!(
            (shortest..=longest).contains(&took),
            "{took} s, told were {shortest} to {longest} s"
        );
        println!("      a good one took {took} s, told were {shortest} to {longest} s");
    }

    /// Seconds between which a good revision is everywhere, as `rollout preview` tells.
    async fn preview(&self, image: &str) -> [i64; 2] {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), manifest(image, NETWORK, "standard")).expect("written");
        let path = file.path().display().to_string();
        let text = self
            .world
            .perwatt(&["rollout", "preview", "--filename", &path])
            .await;
        assert!(text.contains("audio/rolling: 3 slots"), "{text}");
        let (_, times) = text.split_once("is everywhere after ").expect(&text);
        let (shortest, longest) = times
            .trim_end_matches(['.', '\n'])
            .split_once(" to ")
            .expect(&text);
        [shortest, longest].map(|time| {
            let (number, unit) = time.split_once(' ').expect(&text);
            let seconds = match unit {
                "s" => 1,
                "min" => 60,
                _ => 3_600,
            };
            number.parse::<i64>().expect(&text) * seconds
        })
    }

    /// The present revision passes all cohorts, and answers everywhere.
    pub async fn completes(&mut self) -> InferenceWorkloadStatus {
        let done = self
            .world
            .status("the revision passed all cohorts", WORKLOAD, |status| {
                state(status) == "Complete" && status.revision.as_ref() != Some(&self.good)
            })
            .await;
        let cohorts = done.rollout.iter().flat_map(|rollout| &rollout.cohorts);
        for cohort in cohorts {
            assert_eq!(cohort.verdict.as_deref(), Some("Pass"), "{cohort:?}");
            assert!(cohort.slots > 0, "{cohort:?}");
        }
        self.good = done.revision.clone().expect("a revision");
        self.answers(&self.good).await;
        assert_eq!(done.history[0].outcome, "Complete");
        done
    }

    /// A revision that is worse is rejected in its first cohort, for what is wrong with it.
    async fn goes_back(&self, worse: &Worse<'_>) {
        let world = self.world;
        let began = now();
        apply(world, &worse.image, worse.artifact, worse.policy).await;
        let rejected = world
            .status(
                &format!("one that {} is rejected", worse.what),
                WORKLOAD,
                |status| state(status) == "Rejected" && status.revision.as_ref() != Some(&self.good),
            )
            .await;
        let revision = rejected.revision.clone().expect("a revision");
        let rollout = rejected.rollout.clone().expect("a rollout");
        assert!(rollout.message.contains(worse.says), "{}", rollout.message);
        assert_eq!(rollout.cohorts[1].opened, None, "it never reached the rest");
        let stalled = rejected.conditions.iter().find(|found| found.type_ == "Stalled");
        assert_eq!(
            stalled.map(|found| found.reason.as_str()),
            Some("RevisionRejected")
        );
        let gone = now();
        world
            .status("everything is as it was", WORKLOAD, |status| {
                status.ready_slots == SLOTS && !demo::changing(status)
            })
            .await;
        let settled = now();
        self.answers(&self.good).await;
        let replies: Vec<_> = self
            .clients
            .iter()
            .flat_map(|client| client.traffic.replies())
            .collect();
        let late = settled.min(gone + 5_000);
        let late = by(&replies, &revision).find(|reply| reply.at >= late);
        assert!(late.is_none(), "it answers no more: {late:?}");
        println!(
            "      one that {}: rejected after {} ms, {} answers of {}: {}",
            worse.what,
            gone - began,
            by(&replies, &revision).count(),
            replies.iter().filter(|reply| reply.at >= began).count(),
            rollout.message
        );
    }

    pub async fn end(self) {
        let mut replies = Vec::new();
        for client in self.clients {
            replies.extend(client.traffic.stop().await.expect("the client ends"));
        }
        let counted = tally(&replies);
        assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
        let world = self.world;
        world.remove(WORKLOAD.0, WORKLOAD.1).await;
        world
            .kubectl("-n audio delete rolloutpolicy standard frugal")
            .await;
        world.kubectl("delete hardwareprofile rolling-emulated").await;
    }
}

pub async fn apply(world: &World<'_>, image: &str, artifact: &str, policy: &str) {
    let manifest = manifest(image, artifact, policy);
    world.apply(&manifest).await.expect("it applies");
}

fn manifest(image: &str, artifact: &str, policy: &str) -> String {
    MANIFEST
        .replace("IMAGE", image)
        .replace("ARTIFACT", artifact)
        .replace("POLICY", policy)
}

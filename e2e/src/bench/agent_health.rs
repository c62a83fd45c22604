//! `agent-health`: from a fault of a device until the kubelet, its node's status and the DeviceInventory say so, on
//! real kubelets. Devices are emulated.
//!
//! Nobody polls: the kubelet's checkpoint is seen by inotify, node and inventory by watches of the API server.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use perwatt_crds::DeviceInventory;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_device_plugin::filewatch::FileWatch;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::figure::{Figure, spread};
use super::{cluster, failed};
use crate::cluster::{Cluster, NodeOptions};
use crate::product::Result;
use crate::product::devices::{NodeDevices, View};
use crate::product::install::Product;
use crate::progress::Progress;
use crate::wait::{DEADLINE, until};

const PROFILE: &str = "faulty-emulated";
/// Devices of each node: every one fails once in a round, then all recover.
const DEVICES: usize = 20;
const ROUNDS: usize = 5;
/// The least time between two faults of a node: the agent paces its writes, which is not what is measured.
const PACE: Duration = Duration::from_secs(3);
/// At most so much more: faults come at every phase of the probes and of the kubelet's own ticks.
const PHASE: Duration = Duration::from_secs(1);

/// How the agent can come to know of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The device's files tell of their change.
    Told,
    /// They do not: only the next probe finds it.
    Silent,
}

/// The nodes, with the kind of fault that each suffers.
const NODES: [(&str, Fault); 4] = [
    ("told-a", Fault::Told),
    ("told-b", Fault::Told),
    ("silent-a", Fault::Silent),
    ("silent-b", Fault::Silent),
];

/// Time to the kubelet, to the node's status and to the inventory, for both kinds of fault.
pub async fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let nodes = NODES.map(|(name, _)| NodeOptions::new(name));
    let cluster = cluster::start(nodes.into(), &progress).await?;
    Product::install(&cluster, &progress).await?;
    cluster::apply(&cluster, &profile()).await?;
    progress.say(format!(
        "{} faults on each of {} nodes",
        DEVICES * ROUNDS,
        NODES.len()
    ));
    let progress = &progress;
    let measured = NODES.map(|(node, fault)| suffer(&cluster, node, fault, progress));
    let measured = try_join_all(measured).await?;
    cluster.stop().await?;
    let of_kind = |fault, what: &str| {
        let nodes = NODES
            .iter()
            .zip(&measured)
            .filter(|((_, kind), _)| *kind == fault);
        figures(what, &nodes.flat_map(|(_, delays)| delays).collect::<Vec<_>>())
    };
    let mut figures = of_kind(Fault::Told, "fault that the device tells of");
    figures.extend(of_kind(Fault::Silent, "fault that only the next probe finds"));
    Ok(figures)
}

fn figures(what: &str, delays: &[&Delays]) -> Vec<Figure> {
    let to = |whom: &str, delay: &dyn Fn(&Delays) -> Duration| {
        let milliseconds = delays.iter().map(|delays| delay(delays).as_secs_f64() * 1e3);
        spread(&format!("{what} to {whom}"), milliseconds.collect(), "ms")
    };
    [
        to("the kubelet", &|delays| delays.kubelet),
        to("the DeviceInventory", &|delays| delays.inventory),
        to("allocatable in the node's status", &|delays| delays.node),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn profile() -> String {
    format!(
        "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {{name: {PROFILE}}}
spec:
  class: ASIC
  discovery: {{emulated: {{count: {DEVICES}}}}}
  power: {{typicalMilliwatts: 1000, maxMilliwatts: 2000}}
"
    )
}

/// What passed from a fault until it was seen.
#[derive(Clone, Copy, Debug)]
struct Delays {
    kubelet: Duration,
    node: Duration,
    inventory: Duration,
}

/// All faults of one node.
async fn suffer(cluster: &Cluster, node: &str, fault: Fault, progress: &Progress) -> Result<Vec<Delays>> {
    let devices = NodeDevices::new(cluster, node, PROFILE)?;
    let links = tempfile::tempdir_in(devices.node().agent_dir()).map_err(|error| failed("links", error))?;
    let watches = Watches::start(&devices, cluster.client()?);
    let mut delays = Vec::new();
    for round in 1..=ROUNDS {
        watches
            .wait("all devices are well", |usable, allocatable, broken| {
                usable == DEVICES && allocatable == DEVICES && broken == 0
            })
            .await?;
        let mut faults = Vec::new();
        for number in 0..DEVICES {
            tokio::time::sleep(PACE + PHASE.mul_f64(fastrand::f64())).await;
            let device = devices.id(number);
            let health = devices.control(&device).join("health");
            let silent = (fault == Fault::Silent)
                .then(|| link(&health, links.path()))
                .transpose()?;
            let at = Instant::now();
            match silent {
                None => devices.set_health(&device, DeviceHealth::Unhealthy)?,
                Some(link) => overwrite(&link)?,
            }
            faults.push((at, device));
        }
        watches
            .wait("all faults are seen", |usable, allocatable, broken| {
                usable == 0 && allocatable == 0 && broken == DEVICES
            })
            .await?;
        delays.extend(
            faults
                .iter()
                .filter_map(|(at, device)| watches.delays(*at, device)),
        );
        progress.say(format!("{node}: round {round} of {ROUNDS}"));
        for number in 0..DEVICES {
            devices.set_health(&devices.id(number), DeviceHealth::Healthy)?;
        }
    }
    Ok(delays)
}

/// Another name of a control file, in a folder that the agent does not watch.
fn link(file: &Path, folder: &Path) -> Result<PathBuf> {
    let link = folder.join("health");
    let made = fs::remove_file(&link).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    made.and_then(|()| fs::hard_link(file, &link))
        .map_err(|error| failed(link.display(), error))?;
    Ok(link)
}

/// Writes the fault in place and in one piece, over a shorter word: it is never seen half done.
fn overwrite(file: &Path) -> Result<()> {
    let opened = OpenOptions::new().write(true).open(file);
    opened
        .and_then(|mut file| file.write_all(b"Unhealthy\n"))
        .map_err(|error| failed(file.display(), error))
}

/// What was seen, and when.
#[derive(Debug)]
struct Seen<T>(Arc<Mutex<Vec<(Instant, T)>>>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone> Seen<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn push(&self, value: T) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((Instant::now(), value));
    }

    fn last(&self) -> Option<T> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last().map(|(_, value)| value.clone())
    }

    /// The first that came since a moment and is as wanted.
    fn first(&self, since: Instant, wanted: impl Fn(&T) -> bool) -> Option<(Instant, T)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .find(|(at, value)| *at >= since && wanted(value))
            .cloned()
    }
}

/// The three views of one node's devices, as they change.
struct Watches {
    /// Devices that the kubelet may give to pods.
    usable: Seen<BTreeSet<String>>,
    /// How many the node's status says are allocatable.
    allocatable: Seen<usize>,
    /// Devices that the inventory calls unhealthy.
    broken: Seen<BTreeSet<String>>,
    _tasks: JoinSet<()>,
}

impl Watches {
    fn start(devices: &NodeDevices<'_>, client: kube::Client) -> Self {
        let (usable, allocatable, broken) = (Seen::new(), Seen::new(), Seen::new());
        let mut tasks = JoinSet::new();
        let name = devices.node().name();
        let view = devices.view().clone();
        tasks.spawn(follow_kubelet(view.clone(), usable.clone()));
        let nodes = watcher::watch_object(Api::<NodeObject>::all(client.clone()), name);
        tasks.spawn(follow(nodes, allocatable.clone(), {
            let view = view.clone();
            move |node: NodeObject| view.of_node(&node).allocatable
        }));
        let inventories = watcher::watch_object(Api::<DeviceInventory>::all(client), name);
        tasks.spawn(follow(inventories, broken.clone(), move |inventory| {
            let devices = view.of_inventory(Some(inventory));
            let broken = devices
                .into_iter()
                .filter(|device| device.health == DeviceHealth::Unhealthy);
            broken.map(|device| device.id).collect()
        }));
        Self {
            usable,
            allocatable,
            broken,
            _tasks: tasks,
        }
    }

    /// Waits until the numbers of usable, allocatable and unhealthy devices are as wanted.
    async fn wait(&self, what: &str, wanted: impl Fn(usize, usize, usize) -> bool) -> Result<()> {
        let wanted = &wanted;
        let waited = until(what, DEADLINE, || async move {
            let usable = self.usable.last().map_or(0, |usable| usable.len());
            let allocatable = self.allocatable.last().unwrap_or(0);
            let broken = self.broken.last().map_or(0, |broken| broken.len());
            if wanted(usable, allocatable, broken) {
                Ok(())
            } else {
                Err(format!(
                    "{usable} usable, {allocatable} allocatable, {broken} unhealthy"
                ))
            }
        });
        Ok(waited.await?)
    }

    /// When a fault was seen. Devices only fail in a round: a node that tells of as few devices as the kubelet had left
    /// tells of this fault too.
    fn delays(&self, fault: Instant, device: &str) -> Option<Delays> {
        let (kubelet, left) = self.usable.first(fault, |usable| !usable.contains(device))?;
        let (node, _) = self
            .allocatable
            .first(fault, |allocatable| *allocatable <= left.len())?;
        let (inventory, _) = self.broken.first(fault, |broken| broken.contains(device))?;
        Some(Delays {
            kubelet: kubelet - fault,
            node: node - fault,
            inventory: inventory - fault,
        })
    }
}

async fn follow_kubelet(view: View, seen: Seen<BTreeSet<String>>) {
    let (files, changed) = (FileWatch::new(), Arc::new(Notify::new()));
    files.arm(view.checkpoints().to_owned(), &changed);
    loop {
        if let Some(usable) = view
            .usable()
            .filter(|usable| seen.last().as_ref() != Some(usable))
        {
            seen.push(usable);
        }
        changed.notified().await;
    }
}

async fn follow<K, T: Clone>(
    events: impl Stream<Item = watcher::Result<Option<K>>> + Send,
    seen: Seen<T>,
    read: impl Fn(K) -> T,
) {
    let mut events = std::pin::pin!(events.default_backoff());
    while let Some(event) = events.next().await {
        if let Ok(Some(object)) = event {
            seen.push(read(object));
        }
    }
}

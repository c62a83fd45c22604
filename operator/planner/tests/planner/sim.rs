//! A small cluster in which plans are carried out.

use crate::build::at;
use jiff::Timestamp;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_planner::outcome::{Change, PodDelete, PodPlan, SlotPlan};
use perwatt_planner::world::{ActiveVariant, Liveness, OwnedPod, Pod, PodState, Resources, WorkloadKey};
use perwatt_planner::{Plan, World, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub struct Sim {
    pub world: World,
    pub now: Timestamp,
    /// How long a pod takes from bound to ready, and from deleted to gone.
    pub start_seconds: u64,
    pub stop_seconds: u64,
    /// Runtimes say which device they hold.
    pub runtimes_report: bool,
    /// Variants that cannot be loaded on a device, though that is well: node, device, variant.
    pub unloadable: BTreeSet<(String, usize, String)>,
    /// Resources whose plugin is gone for the moment, by node.
    pub agents_down: BTreeSet<String>,
    /// What has been seen, newest last.
    history: Vec<World>,
    made: u64,
    /// By uid.
    kubelet: BTreeMap<String, OnNode>,
}

/// What scheduler and kubelet know of a pod.
struct OnNode {
    bound: bool,
    device: Option<usize>,
    due: Option<Timestamp>,
    stand_ins: Vec<String>,
}

impl Sim {
    pub fn new(world: World) -> Self {
        Self {
            world,
            now: at(0),
            start_seconds: 2,
            stop_seconds: 2,
            runtimes_report: true,
            unloadable: BTreeSet::new(),
            agents_down: BTreeSet::new(),
            history: Vec::new(),
            made: 0,
            kubelet: BTreeMap::new(),
        }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.world, self.now)
    }

    /// What was seen some seconds ago.
    pub fn seen(&self, seconds_ago: usize) -> World {
        let back = self.history.len().saturating_sub(1 + seconds_ago);
        self.history.get(back).unwrap_or(&self.world).clone()
    }

    pub fn apply(&mut self, plan: &Plan) {
        let seen = self.world.clone();
        self.apply_changes(&plan.changes, &seen);
    }

    /// Applies changes that were planned from what was seen.
    pub fn apply_changes(&mut self, changes: &[Change], seen: &World) {
        for change in changes {
            match change {
                Change::Create(pod) => self.create(pod),
                Change::Delete(pod) => self.delete(pod, seen),
            }
        }
    }

    /// A second passes: scheduler, kubelets, agents and runtimes do their work.
    pub fn tick(&mut self) {
        self.now += Duration::from_secs(1);
        self.offer_devices();
        self.remove_stopped();
        self.schedule();
        self.run_pods();
        self.report_devices();
        self.history.push(self.world.clone());
        if self.history.len() > 12 {
            self.history.remove(0);
        }
    }

    /// Plans and applies, second by second, for as long as it takes. Time jumps to `wake_at` when
    /// there is nothing else to wait for.
    pub fn converge(&mut self) -> Plan {
        self.try_converge()
            .unwrap_or_else(|story| panic!("still changing: {story:#?}"))
    }

    /// The settled plan, or the last changes of a cluster that does not settle.
    pub fn try_converge(&mut self) -> Result<Plan, Vec<String>> {
        let mut quiet = 0;
        let mut story = Vec::new();
        for _ in 0..600 {
            let plan = self.plan();
            story.extend(
                plan.changes
                    .iter()
                    .map(|change| format!("{} {change:?}", self.now)),
            );
            self.apply(&plan);
            self.tick();
            quiet = if plan.changes.is_empty() { quiet + 1 } else { 0 };
            let slow = usize::try_from(self.start_seconds + self.stop_seconds).unwrap() + 5;
            if quiet > slow {
                let Some(at) = plan.wake_at else {
                    return Ok(self.plan());
                };
                self.now = self.now.max(at);
                quiet = 0;
            }
        }
        story.push(format!("wakes at {:?}", self.plan().wake_at));
        let last = story.len().saturating_sub(12);
        Err(story.split_off(last))
    }

    pub fn seconds(&mut self, count: usize) {
        for _ in 0..count {
            self.tick();
        }
    }

    pub fn set_health(&mut self, node: &str, device: usize, health: DeviceHealth) {
        let now = self.now;
        let device = &mut self.world.nodes.get_mut(node).unwrap().devices[device];
        if device.health != health {
            device.health = health;
            device.health_since = now;
            device.health_message = match health {
                DeviceHealth::Healthy => String::new(),
                _ => "it does not answer".to_owned(),
            };
        }
        self.offer_devices();
    }

    pub fn slot(&self, workload: &WorkloadKey, slot: &str) -> SlotPlan {
        let plan = self.plan();
        let found = plan
            .slots
            .into_iter()
            .find(|plan| plan.workload == *workload && plan.slot == slot);
        found.unwrap_or_else(|| panic!("no slot {slot} of {workload}"))
    }

    /// The pods of a slot that are ready: variant and node.
    pub fn ready(&self, workload: &WorkloadKey, slot: &str) -> Vec<(String, String)> {
        let of_slot = self
            .owned()
            .filter(|(_, owned)| owned.workload == *workload && owned.slot == slot);
        let ready = of_slot.filter(|(_, owned)| owned.state == PodState::Ready);
        ready
            .map(|(pod, owned)| (owned.variant.clone(), pod.node.clone().unwrap()))
            .collect()
    }

    pub fn owned(&self) -> impl Iterator<Item = (&Pod, &OwnedPod)> {
        self.world
            .pods
            .iter()
            .filter_map(|pod| Some((pod, pod.owned.as_ref()?)))
    }

    pub fn set_state(&mut self, name: &str, state: PodState) {
        let pod = self.world.pods.iter_mut().find(|pod| pod.name == name).unwrap();
        pod.holds_resources = !matches!(state, PodState::Failed { .. });
        pod.owned.as_mut().unwrap().state = state;
    }

    fn create(&mut self, plan: &PodPlan) {
        let taken = |pod: &Pod| pod.namespace == plan.workload.namespace && pod.name == plan.name;
        if self.world.pods.iter().any(taken) {
            return;
        }
        let Some(workload) = self.world.workloads.get(&plan.workload) else {
            return;
        };
        let profile = plan
            .assignment
            .profile
            .as_ref()
            .map(|name| &self.world.profiles[name]);
        let extended = profile
            .map(|profile| (profile.resource.clone(), 1))
            .into_iter()
            .collect();
        self.made += 1;
        let uid = format!("uid-{}", self.made);
        let knowledge = OnNode {
            bound: false,
            device: None,
            due: None,
            stand_ins: plan.stand_ins.clone(),
        };
        self.kubelet.insert(uid.clone(), knowledge);
        self.world.pods.push(Pod {
            namespace: plan.workload.namespace.clone(),
            name: plan.name.clone(),
            uid,
            node: Some(plan.assignment.node.clone()),
            holds_resources: true,
            requests: Resources {
                extended,
                pods: 1,
                ..workload.requests.clone()
            },
            owned: Some(OwnedPod {
                workload: plan.workload.clone(),
                slot: plan.slot.clone(),
                revision: plan.assignment.revision.clone(),
                variant: plan.assignment.variant.clone(),
                profile: plan.assignment.profile.clone(),
                role: plan.role,
                attempt: plan.attempt,
                state: PodState::Starting {
                    reason: String::new(),
                    message: String::new(),
                },
                created: self.now,
                active: None,
                moved: plan.moved,
                unavailable: plan.unavailable.clone(),
            }),
        });
    }

    /// Deletes as the operator does: by uid, after a live read of the survivor; without one only
    /// where the pod is as it was seen.
    fn delete(&mut self, plan: &PodDelete, seen: &World) {
        let state_of = |name: &str| {
            let named = self
                .world
                .pods
                .iter()
                .find(|pod| pod.namespace == plan.namespace && pod.name == name);
            named
                .and_then(|pod| pod.owned.as_ref())
                .map(|owned| owned.state.clone())
        };
        if plan
            .survivor
            .as_deref()
            .is_some_and(|name| state_of(name) != Some(PodState::Ready))
        {
            return;
        }
        let then = seen
            .pods
            .iter()
            .find(|pod| pod.uid == plan.uid)
            .and_then(|pod| pod.owned.as_ref());
        if plan.survivor.is_none() && then.map(|owned| owned.state.clone()) != state_of(&plan.name) {
            return;
        }
        let due = self.now + Duration::from_secs(self.stop_seconds);
        let found = self
            .world
            .pods
            .iter_mut()
            .find(|pod| pod.name == plan.name && pod.uid == plan.uid);
        let Some(owned) = found.and_then(|pod| pod.owned.as_mut()) else {
            return;
        };
        match owned.state {
            PodState::Terminating => {}
            PodState::Failed { .. } => self.world.pods.retain(|pod| pod.uid != plan.uid),
            _ => {
                owned.state = PodState::Terminating;
                if let Some(known) = self.kubelet.get_mut(&plan.uid) {
                    known.due = Some(due);
                }
            }
        }
    }

    /// Agents tell the kubelets how many devices may be used.
    fn offer_devices(&mut self) {
        for (name, node) in &mut self.world.nodes {
            let profiles: BTreeSet<_> = node.devices.iter().map(|device| device.profile.clone()).collect();
            for profile in profiles {
                let usable = |health| matches!(health, DeviceHealth::Healthy | DeviceHealth::Degraded);
                let count = node
                    .devices
                    .iter()
                    .filter(|d| d.profile == profile && usable(d.health))
                    .count();
                let offered = if self.agents_down.contains(name) {
                    0
                } else {
                    i64::try_from(count).unwrap()
                };
                node.allocatable
                    .extended
                    .insert(format!("perwatt.dev/{profile}"), offered);
            }
        }
    }

    fn remove_stopped(&mut self) {
        let (now, world) = (self.now, &mut self.world);
        let silent = |pod: &Pod| {
            let node = pod.node.as_ref().and_then(|name| world.nodes.get(name));
            node.is_some_and(|node| matches!(node.liveness, Liveness::Silent { .. }))
        };
        let is_gone = |pod: &Pod| {
            let stops = pod
                .owned
                .as_ref()
                .is_some_and(|owned| owned.state == PodState::Terminating);
            let known = self.kubelet.get(&pod.uid);
            stops && known.is_none_or(|known| !known.bound || (known.due <= Some(now) && !silent(pod)))
        };
        let gone: BTreeSet<String> = world
            .pods
            .iter()
            .filter(|pod| is_gone(pod))
            .map(|pod| pod.uid.clone())
            .collect();
        world.pods.retain(|pod| !gone.contains(&pod.uid));
        self.kubelet.retain(|uid, _| !gone.contains(uid));
    }

    fn schedule(&mut self) {
        for place in 0..self.world.pods.len() {
            let pod = &self.world.pods[place];
            let unbound = self.kubelet.get(&pod.uid).is_some_and(|known| !known.bound);
            let starts = pod
                .owned
                .as_ref()
                .is_some_and(|owned| matches!(owned.state, PodState::Starting { .. }));
            if !unbound || !starts {
                continue;
            }
            let (uid, state) = (pod.uid.clone(), self.bind(place));
            self.world.pods[place].holds_resources = !matches!(state, PodState::Failed { .. });
            if let PodState::Starting { reason, .. } = &state {
                let known = self.kubelet.get_mut(&uid).unwrap();
                known.bound = reason.is_empty();
                known.due = Some(self.now + Duration::from_secs(self.start_seconds));
            }
            self.world.pods[place].owned.as_mut().unwrap().state = state;
        }
    }

    /// Binds a pod to its node where it fits, and gives it a device.
    fn bind(&mut self, place: usize) -> PodState {
        let pod = &self.world.pods[place];
        let name = pod.node.as_ref().unwrap();
        let node = &self.world.nodes[name];
        let unschedulable = |what: &str| PodState::Starting {
            reason: "Unschedulable".to_owned(),
            message: format!("0/1 nodes are available: {what}"),
        };
        if node.unschedulable || !node.foreign_taints.is_empty() {
            return unschedulable("unschedulable");
        }
        let bound = self.world.pods.iter().filter(|other| {
            other.node == pod.node
                && other.holds_resources
                && self.kubelet.get(&other.uid).is_none_or(|known| known.bound)
        });
        let (mut cpu, mut memory, mut pods) = (pod.requests.cpu_millis, pod.requests.memory_bytes, 1);
        let mut extended = pod.requests.extended.clone();
        for other in bound {
            cpu += other.requests.cpu_millis;
            memory += other.requests.memory_bytes;
            pods += 1;
            for (name, sum) in &mut extended {
                *sum += other.requests.extended.get(name).unwrap_or(&0);
            }
        }
        let offered = &node.allocatable;
        let short = extended
            .iter()
            .any(|(name, sum)| sum > offered.extended.get(name).unwrap_or(&0));
        if short || cpu > offered.cpu_millis || memory > offered.memory_bytes || pods > offered.pods {
            return unschedulable("insufficient");
        }
        self.admit(place)
    }

    fn admit(&mut self, place: usize) -> PodState {
        let pod = &self.world.pods[place];
        let (uid, profile) = (pod.uid.clone(), pod.owned.as_ref().unwrap().profile.clone());
        let starting = PodState::Starting {
            reason: String::new(),
            message: String::new(),
        };
        let node = pod.node.clone();
        let Some(profile) = profile.filter(|name| !self.world.profiles[name].external) else {
            return starting;
        };
        let on_node = self
            .world
            .pods
            .iter()
            .filter(|other| other.node == node && other.holds_resources);
        let given: Vec<usize> = on_node
            .filter_map(|other| self.kubelet.get(&other.uid)?.device)
            .collect();
        let devices = &self.world.nodes[node.as_ref().unwrap()].devices;
        let free = devices.iter().enumerate().find(|(number, device)| {
            device.profile == profile
                && matches!(device.health, DeviceHealth::Healthy | DeviceHealth::Degraded)
                && !given.contains(number)
        });
        let Some((number, _)) = free else {
            let (reason, message) = ("UnexpectedAdmissionError".to_owned(), "no device".to_owned());
            return PodState::Failed {
                reason,
                message,
                at: self.now,
            };
        };
        self.kubelet.get_mut(&uid).unwrap().device = Some(number);
        starting
    }

    /// Pods start, answer, fall back inside, and stop answering.
    fn run_pods(&mut self) {
        let now = self.now;
        for pod in &mut self.world.pods {
            let (Some(owned), Some(known)) = (&mut pod.owned, self.kubelet.get_mut(&pod.uid)) else {
                continue;
            };
            let node = &self.world.nodes[pod.node.as_ref().unwrap()];
            // Unknown means that nobody looked: the pod that is there works on.
            let dead = known
                .device
                .is_some_and(|number| node.devices[number].health == DeviceHealth::Unhealthy);
            let at = |device| {
                (
                    pod.node.clone().unwrap_or_default(),
                    device,
                    owned.variant.clone(),
                )
            };
            let unloadable = known
                .device
                .is_some_and(|device| self.unloadable.contains(&at(device)));
            let reason = match (dead, unloadable) {
                (true, _) => "the device does not answer",
                (_, true) => "LoadFailed",
                _ => "",
            };
            let runs = node.liveness == Liveness::Ready && (reason.is_empty() || !known.stand_ins.is_empty());
            let unready = PodState::Starting {
                reason: String::new(),
                message: String::new(),
            };
            match &owned.state {
                PodState::Starting { .. }
                    if known.bound && runs && known.due.is_none_or(|due| due <= now) =>
                {
                    owned.state = PodState::Ready;
                }
                PodState::Ready if !runs => {
                    owned.state = unready;
                    known.due = Some(now);
                }
                _ => {}
            }
            if owned.state == PodState::Ready || (unloadable && known.bound) {
                let name = match reason {
                    "" => owned.variant.clone(),
                    _ => known.stand_ins.first().cloned().unwrap_or_default(),
                };
                let said = owned.active.as_ref();
                let as_before = said.filter(|said| said.name == name && said.reason == reason);
                owned.active = Some(ActiveVariant {
                    since: as_before.and_then(|said| said.since).or(Some(now)),
                    name,
                    reason: reason.to_owned(),
                });
            }
        }
    }

    fn report_devices(&mut self) {
        let mut holders: BTreeMap<(String, usize), (WorkloadKey, String)> = BTreeMap::new();
        for (pod, owned) in self
            .world
            .pods
            .iter()
            .filter_map(|pod| Some((pod, pod.owned.as_ref()?)))
        {
            let device = self.kubelet.get(&pod.uid).and_then(|known| known.device);
            if let Some(device) = device.filter(|_| owned.active.is_some() && pod.holds_resources) {
                let place = (pod.node.clone().unwrap(), device);
                holders.insert(place, (owned.workload.clone(), owned.slot.clone()));
            }
        }
        for (name, node) in &mut self.world.nodes {
            for (number, device) in node.devices.iter_mut().enumerate() {
                let holder = holders.get(&(name.clone(), number)).cloned();
                device.held_by = holder.filter(|_| self.runtimes_report);
            }
        }
    }
}

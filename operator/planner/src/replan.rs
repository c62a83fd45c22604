//! Planning anew what a change may touch, and keeping the rest of the last plan.
//!
//! What is kept is settled: it is served as it should be, has nothing to wait for, and nothing on its
//! nodes changed. Such a slot changes only where a better way opens, and that is asked of the changed
//! nodes alone. Whatever else could move it (a time that has come, a budget that is exceeded, another
//! profile, workloads of several priorities) leads to a plan of everything. The plan is the same as one of everything, but for the
//! candidates of kept slots, whose numbers are those of the last time that they were looked at.

use crate::check::Scene;
use crate::index::{Index, NodeId};
use crate::ledger::Release;
use crate::outcome::{Change, Plan, SlotPlan};
use crate::pass::{Pass, has_priorities, plan};
use crate::power::Beside;
use crate::slot::{Slot, slot_named, slots_of};
use crate::survey::Terms;
use crate::world::{Pod, Workload, WorkloadKey, World};
use jiff::Timestamp;
use perwatt_crds::workload::PlacementMode;
use std::collections::{BTreeMap, BTreeSet};

/// What is different since the last plan. Where profiles, sites or settings are, everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Nodes that changed, came or went, or on which a pod did.
    pub nodes: BTreeSet<String>,
    /// Workloads that changed, came or went.
    pub workloads: BTreeSet<WorkloadKey>,
}

impl Changed {
    /// What differs between two worlds; none where all may be different.
    #[must_use]
    pub fn between(before: &World, after: &World) -> Option<Self> {
        let World {
            nodes,
            profiles,
            workloads,
            pods,
            sites,
            breaker,
            agent_grace,
        } = before;
        if (profiles, sites, breaker, agent_grace)
            != (&after.profiles, &after.sites, &after.breaker, &after.agent_grace)
        {
            return None;
        }
        let mut changed = Self::default();
        changed.nodes.extend(differing(nodes, &after.nodes).cloned());
        changed
            .workloads
            .extend(differing(workloads, &after.workloads).cloned());
        let (old, new) = (by_uid(pods), by_uid(&after.pods));
        for (uid, pod) in &new {
            let before = old.get(uid).copied();
            if before != Some(*pod) {
                changed.note(pod);
                before.into_iter().for_each(|pod| changed.note(pod));
            }
        }
        let gone = old.iter().filter(|(uid, _)| !new.contains_key(*uid));
        gone.for_each(|(_, pod)| changed.note(pod));
        Some(changed)
    }

    fn note(&mut self, pod: &Pod) {
        self.nodes.extend(pod.node.clone());
        // A pod without a node is of interest to its workload alone.
        if let (None, Some(owned)) = (&pod.node, &pod.owned) {
            self.workloads.insert(owned.workload.clone());
        }
    }
}

fn by_uid(pods: &[Pod]) -> BTreeMap<&str, &Pod> {
    pods.iter().map(|pod| (pod.uid.as_str(), pod)).collect()
}

/// Keys whose values are not the same in both.
fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    let changed = after
        .iter()
        .filter(|(key, value)| before.get(key) != Some(value))
        .map(|(key, _)| key);
    changed.chain(before.keys().filter(|key| !after.contains_key(key)))
}

/// Plans for what a change may touch, and keeps the rest of the last plan.
#[must_use]
pub fn replan(world: &World, now: Timestamp, last: Plan, changed: &Changed) -> Plan {
    if last.wake_at.is_some_and(|at| at <= now) || has_priorities(world) {
        return plan(world, now);
    }
    let index = Index::new(world, now);
    let mut pass = Pass::new(&index, last.slots.len(), now);
    if !pass.ledger.meter.exceeded().is_empty() {
        return plan(world, now);
    }
    let focus = Focus::find(&index, &pass, &last, changed);
    pass.wake(last.wake_at);
    pass.delete_orphans(|key, pods| {
        focus.workloads.contains(key) || pods.iter().any(|own| focus.is_near(own.pod.node.as_deref()))
    });
    if pass.ledger.meter.is_on() {
        pass.plan.sites = pass.ledger.meter.report(&index);
    }
    let slots = focus.slots(&index);
    pass.plan_slots(slots);
    let mut slots = last.slots;
    focus.drop_from(&mut slots);
    slots.append(&mut pass.plan.slots);
    pass.plan.slots = slots;
    pass.finish()
}

/// The slots that are planned anew.
struct Focus {
    /// All slots of these.
    workloads: BTreeSet<WorkloadKey>,
    /// Slots by workload and name.
    slots: BTreeMap<WorkloadKey, BTreeSet<String>>,
    /// Names of the nodes that changed.
    nodes: BTreeSet<String>,
}

impl Focus {
    fn find(index: &Index<'_>, pass: &Pass<'_, '_>, last: &Plan, changed: &Changed) -> Self {
        let mut focus = Self {
            workloads: changed.workloads.clone(),
            slots: BTreeMap::new(),
            nodes: changed.nodes.clone(),
        };
        focus.add_nodes_of(index, &last.changes);
        // Who waited there may wait no more.
        focus.nodes.extend(last.wished.iter().cloned());
        // Nor may what was kept free there for a pod that was still to be made.
        let promised = last
            .slots
            .iter()
            .filter(|slot| changed.workloads.contains(&slot.workload));
        let promised = promised.filter(|slot| is_unsettled(slot)).filter_map(node_of);
        focus.nodes.extend(promised.map(str::to_owned));
        let opened = focus.opened(index);
        for (key, workload) in &index.world.workloads {
            match workload.mode {
                PlacementMode::PerNode => {
                    for node in focus.nodes.clone() {
                        focus.add(key, &node);
                    }
                }
                PlacementMode::PerSite if !focus.nodes.is_empty() => {
                    focus.workloads.insert(key.clone());
                }
                PlacementMode::PerSite | PlacementMode::Replicas => {}
            }
        }
        let mut improvable: BTreeMap<&WorkloadKey, Vec<&SlotPlan>> = BTreeMap::new();
        for slot in &last.slots {
            if is_unsettled(slot) || focus.is_near(node_of(slot)) {
                focus.add(&slot.workload, &slot.slot);
            } else if is_improvable(slot) {
                // Its own pods there give way, those too that it left behind and that still stop.
                let own = index.pods_of(&slot.workload, &slot.slot).iter();
                let on_opened = own.filter_map(|own| own.node).any(|node| opened.contains(&node));
                if on_opened {
                    focus.add(&slot.workload, &slot.slot);
                } else {
                    improvable.entry(&slot.workload).or_default().push(slot);
                }
            }
        }
        for (key, slots) in improvable {
            let workload = index.world.workloads.get(key);
            let asks = workload.is_some_and(|workload| {
                workload.mode == PlacementMode::Replicas && opens(index, pass, key, workload, &slots, &opened)
            });
            if asks {
                slots.iter().for_each(|slot| focus.add(key, &slot.slot));
            }
        }
        focus
    }

    fn add(&mut self, key: &WorkloadKey, slot: &str) {
        match self.slots.get_mut(key) {
            Some(slots) => {
                if !slots.contains(slot) {
                    slots.insert(slot.to_owned());
                }
            }
            None => {
                self.slots.insert(key.clone(), BTreeSet::from([slot.to_owned()]));
            }
        }
    }

    /// What the last plan changed may still be under way.
    fn add_nodes_of(&mut self, index: &Index<'_>, changes: &[Change]) {
        let mut deleted = BTreeSet::new();
        for change in changes {
            match change {
                Change::Create(pod) => {
                    self.nodes.insert(pod.assignment.node.clone());
                }
                Change::Delete(pod) => {
                    deleted.insert(pod.uid.as_str());
                }
            }
        }
        if deleted.is_empty() {
            return;
        }
        let pods = index.world.pods.iter();
        let under_way = pods.filter(|pod| deleted.contains(pod.uid.as_str()));
        self.nodes.extend(under_way.filter_map(|pod| pod.node.clone()));
    }

    /// Nodes on which there may be more room than before: the changed ones, and the others of their
    /// sites where sites have budgets.
    fn opened(&self, index: &Index<'_>) -> BTreeSet<NodeId> {
        let changed = self.nodes.iter().filter_map(|name| index.id(name));
        let mut opened = BTreeSet::new();
        for node in changed {
            opened.insert(node);
            if let Some(site) = index.sites.of(node).filter(|_| index.is_metered()) {
                opened.extend(index.sites.nodes(site));
            }
        }
        opened
    }

    fn is_near(&self, node: Option<&str>) -> bool {
        node.is_some_and(|node| self.nodes.contains(node))
    }

    /// Leaves the slots that are kept. Those of a workload follow each other: it is looked up once for all of them.
    fn drop_from(&self, slots: &mut Vec<SlotPlan>) {
        let mut of: Option<WorkloadKey> = None;
        let (mut all, mut some) = (false, None);
        slots.retain(|slot| {
            if of.as_ref() != Some(&slot.workload) {
                all = self.workloads.contains(&slot.workload);
                some = self.slots.get(&slot.workload);
                of = Some(slot.workload.clone());
            }
            !all && some.is_none_or(|some| !some.contains(&slot.slot))
        });
    }

    /// The slots themselves, with where their workloads stand by age.
    fn slots<'w>(&self, index: &Index<'w>) -> Vec<(usize, Slot<'w>)> {
        let mut slots = Vec::new();
        for (age, (key, workload)) in crate::pass::by_age(index.world).into_iter().enumerate() {
            if self.workloads.contains(key) {
                let all = slots_of(index, key, workload);
                slots.extend(all.into_iter().map(|slot| (age, slot)));
                continue;
            }
            let names = self.slots.get(key).into_iter().flatten();
            slots.extend(names.filter_map(|name| Some((age, slot_named(index, key, workload, name)?))));
        }
        slots
    }
}

fn node_of(slot: &SlotPlan) -> Option<&str> {
    let target = slot.target.as_ref().map(|target| target.node.as_str());
    target.or_else(|| slot.serving.as_ref().map(|pod| pod.assignment.node.as_str()))
}

/// Something is to be done for the slot, or waited for.
fn is_unsettled(slot: &SlotPlan) -> bool {
    slot.changing
        || slot.offline
        || slot.problem.is_some()
        || slot.degraded.is_some()
        || slot.target.is_none()
}

/// A better way was ruled out.
fn is_improvable(slot: &SlotPlan) -> bool {
    slot.candidates
        .iter()
        .take_while(|candidate| !candidate.chosen)
        .any(|candidate| candidate.rejected.is_some())
}

/// Whether a better way than that of some of these slots may be had on one of the nodes.
fn opens(
    index: &Index<'_>,
    pass: &Pass<'_, '_>,
    key: &WorkloadKey,
    workload: &Workload,
    slots: &[&SlotPlan],
    nodes: &BTreeSet<NodeId>,
) -> bool {
    if workload.earlier.is_some() {
        return true;
    }
    let chosen = |slot: &&SlotPlan| slot.candidates.iter().position(|candidate| candidate.chosen);
    let worst = slots.iter().filter_map(chosen).max().unwrap_or_default();
    let Some(slot) = slots
        .first()
        .and_then(|slot| slot_named(index, key, workload, &slot.slot))
    else {
        return true;
    };
    let scene = Scene {
        index,
        ledger: &pass.ledger,
        now: pass.now,
    };
    let terms = Terms {
        stable: false,
        respect_wishes: false,
        release_own: false,
        watts: Beside::All,
    };
    let nothing = Release::default();
    let better = index.ways(key, &slot.name).iter().take(worst);
    let may = |node: NodeId| workload.nodes.matches(&index.node(node).labels);
    better.filter(|way| way.ruled_out.is_none()).any(|way| {
        nodes.iter().filter(|node| may(**node)).any(|node| {
            let verdict = crate::check::check(scene, *node, way, slot.ask(way, &nothing, terms).of_anybody());
            verdict.outcome.is_ok() || verdict.possible
        })
    })
}

//! Which of a workload's nodes can serve a slot in one way: the best, and what rules out the rest.
//!
//! The replicas of a workload ask the same of the same nodes, so what was found for one is kept
//! for the next; nodes that were booked in between are looked at again. A slot's own nodes are
//! looked at for the slot alone, since its own pods there give way.

use crate::check::{Ask, Reject, Scene, Score, Verdict, check};
use crate::index::NodeId;
use crate::ledger::{Demand, Release};
use crate::outcome::ReasonCode;
use crate::slot::Slot;
use crate::ways::Way;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How many nodes a reason names.
pub(crate) const NAMED_NODES: usize = 3;

/// What is asked of every node alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Terms {
    /// The device must have been healthy for the workload's `stable_for`.
    pub stable: bool,
    /// Leave alone the devices that other slots wait for.
    pub respect_wishes: bool,
    /// The slot's own pods give way to the new one.
    pub release_own: bool,
}

/// What a survey found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finding {
    /// The best node, if any will do.
    pub feasible: Option<NodeId>,
    /// A node that would do if every device were healthy.
    pub possible: Option<NodeId>,
    /// What rules out the others: closest to serving first.
    pub groups: Vec<Group>,
}

/// Nodes ruled out for one reason.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub code: ReasonCode,
    pub count: usize,
    /// The first few of them.
    pub first: Vec<(NodeId, Reject)>,
    /// When the first of the recovering devices is trusted.
    pub until: Option<jiff::Timestamp>,
}

/// The nodes of a workload, and what was found on them so far.
pub(crate) struct Survey {
    nodes: Vec<NodeId>,
    cached: BTreeMap<(usize, Terms), Board>,
}

#[derive(Default)]
struct Board {
    verdicts: BTreeMap<NodeId, Verdict>,
    feasible: BTreeSet<(Score, NodeId)>,
    possible: BTreeSet<NodeId>,
    rejected: BTreeMap<Closeness, BTreeSet<NodeId>>,
    caught_up: usize,
}

/// Order of groups: closest to serving first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Closeness(u8, ReasonCode);

impl Survey {
    pub fn new(nodes: Vec<NodeId>) -> Self {
        Self {
            nodes,
            cached: BTreeMap::new(),
        }
    }

    pub fn has_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Looks for a node that can serve `slot` in the way `ways[place]`.
    pub fn find<'w>(
        &mut self,
        scene: Scene<'_, 'w>,
        slot: &Slot<'w>,
        ways: &[Way<'w>],
        place: usize,
        terms: Terms,
    ) -> Finding {
        let way = &ways[place];
        let own: Vec<NodeId> = match slot.node {
            Some(node) => vec![node],
            None => slot
                .nodes()
                .into_iter()
                .filter(|node| self.nodes.binary_search(node).is_ok())
                .collect(),
        };
        let mut finding = Finding::default();
        let mut rejected: BTreeMap<Closeness, Group> = BTreeMap::new();
        if slot.node.is_none() {
            let board = self.cached.entry((place, terms)).or_default();
            board.catch_up(scene, slot, way, terms, &self.nodes);
            board.report(&own, &mut finding, &mut rejected);
        }
        // A slot's own nodes are preferred to all others while its bridges stay where they are;
        // where they would have to go, the others come first, else slot and bridge would chase
        // each other from node to node.
        let others = finding.feasible;
        let (mut beside_bridges, mut alone) = (None, None);
        for node in own {
            let verdict = |release: &Release<'w>| check(scene, node, way, slot.ask(way, release, terms));
            if !terms.release_own {
                let found = note_own(&verdict(&Release::default()), node, &mut rejected, &mut finding);
                beside_bridges = beside_bridges.or(found);
                continue;
            }
            let beside = verdict(&slot.release_but_bridges(node));
            if beside.outcome.is_ok() {
                beside_bridges = beside_bridges.or(Some(node));
                finding.possible = Some(node);
            } else {
                let found = note_own(
                    &verdict(&slot.release_on(node)),
                    node,
                    &mut rejected,
                    &mut finding,
                );
                alone = alone.or(found);
            }
        }
        finding.feasible = beside_bridges.or(others).or(alone);
        finding.groups = rejected.into_values().collect();
        finding
    }
}

impl Board {
    /// Looks at every node at first, later at those that were booked since.
    fn catch_up<'w>(
        &mut self,
        scene: Scene<'_, 'w>,
        slot: &Slot<'w>,
        way: &Way<'w>,
        terms: Terms,
        nodes: &[NodeId],
    ) {
        let first = self.verdicts.is_empty();
        let nothing = Release::default();
        let stale: Vec<NodeId> = if first {
            nodes.to_vec()
        } else {
            let touched = scene.ledger.touched[self.caught_up..].iter().copied();
            touched
                .collect::<BTreeSet<_>>()
                .into_iter()
                .filter(|node| self.verdicts.contains_key(node))
                .collect()
        };
        self.caught_up = scene.ledger.touched.len();
        for node in stale {
            self.forget(node);
            let verdict = check(scene, node, way, slot.ask(way, &nothing, terms));
            self.note(node, verdict);
        }
    }

    fn forget(&mut self, node: NodeId) {
        let Some(verdict) = self.verdicts.remove(&node) else {
            return;
        };
        self.possible.remove(&node);
        match verdict.outcome {
            Ok(score) => {
                self.feasible.remove(&(score, node));
            }
            Err(reject) => {
                if let Some(nodes) = self.rejected.get_mut(&closeness(reject)) {
                    nodes.remove(&node);
                }
            }
        }
    }

    fn note(&mut self, node: NodeId, verdict: Verdict) {
        self.verdicts.insert(node, verdict);
        if verdict.possible {
            self.possible.insert(node);
        }
        match verdict.outcome {
            Ok(score) => {
                self.feasible.insert((score, node));
            }
            Err(reject) => {
                self.rejected.entry(closeness(reject)).or_default().insert(node);
            }
        }
    }

    /// What was found on nodes other than a slot's own.
    fn report(&self, own: &[NodeId], finding: &mut Finding, rejected: &mut BTreeMap<Closeness, Group>) {
        let others = |node: &NodeId| !own.contains(node);
        finding.feasible = self.feasible.iter().map(|(_, node)| *node).find(others);
        finding.possible = self.possible.iter().copied().find(others);
        for (closeness, nodes) in &self.rejected {
            let count = nodes.len() - own.iter().filter(|node| nodes.contains(node)).count();
            if count == 0 {
                continue;
            }
            let reject_of = |node: &NodeId| self.verdicts[node].outcome.err();
            let named = nodes.iter().filter(|node| others(node)).take(NAMED_NODES);
            let first = named.filter_map(|node| Some((*node, reject_of(node)?))).collect();
            let until = match closeness.1 {
                ReasonCode::DeviceRecovering => nodes
                    .iter()
                    .filter(|node| others(node))
                    .filter_map(reject_of)
                    .filter_map(until)
                    .min(),
                _ => None,
            };
            rejected.insert(
                *closeness,
                Group {
                    code: closeness.1,
                    count,
                    first,
                    until,
                },
            );
        }
    }
}

/// Notes what a slot's own node can do, and returns the node where it will do.
fn note_own(
    verdict: &Verdict,
    node: NodeId,
    rejected: &mut BTreeMap<Closeness, Group>,
    finding: &mut Finding,
) -> Option<NodeId> {
    if verdict.possible {
        finding.possible = Some(node);
    }
    match verdict.outcome {
        Ok(_) => Some(node),
        Err(reject) => {
            add(rejected, node, reject);
            None
        }
    }
}

fn add(rejected: &mut BTreeMap<Closeness, Group>, node: NodeId, reject: Reject) {
    let closeness = closeness(reject);
    let empty = Group {
        code: closeness.1,
        count: 0,
        first: Vec::new(),
        until: None,
    };
    let group = rejected.entry(closeness).or_insert(empty);
    group.count += 1;
    group.until = group.until.into_iter().chain(until(reject)).min();
    // A slot's own node is the one that its reader asks about.
    group.first.insert(0, (node, reject));
    group.first.truncate(NAMED_NODES);
}

fn until(reject: Reject) -> Option<jiff::Timestamp> {
    match reject {
        Reject::Recovering { until, .. } => Some(until),
        _ => None,
    }
}

fn closeness(reject: Reject) -> Closeness {
    let steps_away = match reject {
        Reject::Recovering { .. } => 0,
        Reject::Unhealthy | Reject::NotOffered { .. } => 1,
        Reject::Busy { .. } => 2,
        Reject::Full { .. } => 3,
        Reject::Cordoned => 4,
        Reject::Tainted => 5,
        Reject::NotReady => 6,
        Reject::NoSuchDevice { .. } => 7,
    };
    Closeness(steps_away, reject.code())
}

impl<'w> Slot<'w> {
    /// What a new pod of this slot asks of a node.
    pub fn ask<'a>(&'a self, way: &Way<'w>, release: &'a Release<'w>, terms: Terms) -> Ask<'a, 'w> {
        Ask {
            slot: (self.key, &self.name),
            demand: self.demand(way),
            release,
            stable_for: if terms.stable {
                self.workload.stable_for
            } else {
                Duration::ZERO
            },
            respect_wishes: terms.respect_wishes,
            can_wait: self.ready().next().is_some(),
        }
    }

    /// What a new pod of this slot takes.
    pub fn demand(&self, way: &Way<'w>) -> Demand<'w> {
        Demand::new(&self.workload.requests, way.resource())
    }
}

//! Which of a workload's nodes can serve a slot in one way: the best, and what rules out the rest.
//!
//! Slots ask the same of the same nodes, so what was found for one is kept for the next (a
//! [`Board`]); nodes that were booked in between are looked at again. A slot's own nodes are
//! looked at for the slot alone, since its own pods there give way.

use crate::board::Board;
use crate::check::{Ask, Reject, Scene, Verdict, check};
use crate::index::{Index, NodeId};
use crate::ledger::{Amounts, Demand, Release};
use crate::outcome::ReasonCode;
use crate::power::{Beside, Domain};
use crate::site::SiteId;
use crate::slot::{Slot, matching_nodes};
use crate::ways::Way;
use crate::world::Workload;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many nodes a reason names.
pub(crate) const NAMED_NODES: usize = 3;

/// How many boards are kept at once: each remembers every node.
const MANY_BOARDS: usize = 64;

/// What is asked of every node alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Terms {
    /// The device must have been healthy for the workload's `stable_for`.
    pub stable: bool,
    /// Leave alone the devices that other slots wait for.
    pub respect_wishes: bool,
    /// The slot's own pods give way to the new one.
    pub release_own: bool,
    /// Keep to the power budgets, beside so much.
    pub watts: Beside,
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
    pub until: Option<Timestamp>,
}

impl Group {
    pub fn empty(code: ReasonCode) -> Self {
        Self {
            code,
            count: 0,
            first: Vec::new(),
            until: None,
        }
    }
}

/// What was found so far on the nodes that workloads may use.
#[derive(Default)]
pub(crate) struct Survey<'w> {
    nodes: BTreeMap<&'w Labels, Vec<NodeId>>,
    boards: BTreeMap<Question<'w>, Board>,
}

type Labels = BTreeMap<String, String>;

/// What is asked of every node alike, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question<'w> {
    nodes: &'w Labels,
    amounts: Amounts,
    profile: Option<&'w str>,
    stable_for: Duration,
    respect_wishes: bool,
    watts: Beside,
    milliwatts: i64,
}

/// Order of groups: closest to serving first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Closeness(u8, pub ReasonCode);

impl<'w> Survey<'w> {
    /// The nodes that may serve a workload, in order of name.
    pub fn nodes(&mut self, index: &Index<'w>, workload: &'w Workload) -> &[NodeId] {
        let labels = &workload.nodes.match_labels;
        self.nodes
            .entry(labels)
            .or_insert_with(|| matching_nodes(index, workload))
    }

    /// Looks for a node that can serve `slot` in the way `ways[place]`.
    pub fn find(
        &mut self,
        scene: Scene<'_, 'w>,
        slot: &Slot<'w>,
        ways: &[Way<'w>],
        place: usize,
        terms: Terms,
    ) -> Finding {
        let way = &ways[place];
        let mut own: Vec<NodeId> = match slot.node {
            Some(node) => vec![node],
            None => slot.nodes(),
        };
        let mut finding = Finding::default();
        let mut rejected: BTreeMap<Closeness, Group> = BTreeMap::new();
        let over_budget = |node| check_site(scene, slot, way, terms, node);
        let refuse = |node| over_budget(node).or_else(|| check_ability(scene, slot, way, node));
        if let Some(site) = slot.site {
            own.retain(|node| is_chosen(scene.index, slot, *node));
            let mut others = Board::default();
            let nodes = site_nodes(scene.index, slot, site);
            let (nothing, nowhere) = (Release::default(), []);
            let ask = slot.ask(way, &nothing, terms).of_anybody();
            others.catch_up(&nowhere, &nodes, |node| check(scene, node, way, ask));
            others.report(&own, &mut finding, &mut rejected, refuse);
        } else if slot.node.is_none() {
            let nodes = self.nodes(scene.index, slot.workload);
            own.retain(|node| nodes.binary_search(node).is_ok());
            let board = self.board(scene, slot, way, terms);
            board.report(&own, &mut finding, &mut rejected, refuse);
        }
        // A slot's own nodes are preferred to all others while its bridges stay where they are;
        // where they would have to go, the others come first, else slot and bridge would chase
        // each other from node to node.
        let others = finding.feasible;
        let (mut beside_bridges, mut alone) = (None, None);
        for node in own {
            let verdict = |release: &Release<'w>| {
                let verdict = check(scene, node, way, slot.ask(way, release, terms));
                match (verdict.outcome, over_budget(node)) {
                    (Ok(_), Some(reject)) => Verdict {
                        outcome: Err(reject),
                        possible: false,
                    },
                    _ => verdict,
                }
            };
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

    /// Whether some node outside of a domain can serve `slot` in one way.
    pub fn is_feasible_outside(
        &mut self,
        scene: Scene<'_, 'w>,
        slot: &Slot<'w>,
        way: &Way<'w>,
        terms: Terms,
        domain: Domain,
    ) -> bool {
        if slot.node.is_some() {
            return false;
        }
        let is_outside = |node: &NodeId| {
            !scene.ledger.meter.is_in(*node, domain) && check_site(scene, slot, way, terms, *node).is_none()
        };
        let is_able = |node: &NodeId| check_ability(scene, slot, way, *node).is_none();
        let takes = |node: NodeId, release: &Release<'w>| {
            let verdict = check(scene, node, way, slot.ask(way, release, terms));
            verdict.outcome.is_ok()
        };
        // Where the slot has a pod already, that pod's room is the slot's own: its move there has begun.
        let mut own = slot.nodes().into_iter().filter(is_outside);
        if own.any(|node| is_chosen(scene.index, slot, node) && takes(node, &slot.release_on(node))) {
            return true;
        }
        if let Some(site) = slot.site {
            let nodes = site_nodes(scene.index, slot, site).into_iter();
            let mut others = nodes.filter(is_outside).filter(is_able);
            return others.any(|node| takes(node, &Release::default()));
        }
        let mut others = self.board(scene, slot, way, terms).feasible();
        others.any(|node| is_outside(&node) && is_able(&node))
    }

    /// What was found for this question, brought up to date.
    fn board(&mut self, scene: Scene<'_, 'w>, slot: &Slot<'w>, way: &Way<'w>, terms: Terms) -> &Board {
        let nothing = Release::default();
        let ask = slot.ask(way, &nothing, terms).of_anybody();
        let question = Question {
            nodes: &slot.workload.nodes.match_labels,
            amounts: ask.demand.amounts,
            profile: way.profile_name,
            stable_for: ask.stable_for,
            respect_wishes: ask.respect_wishes,
            watts: ask.watts,
            milliwatts: if scene.ledger.meter.is_on() {
                ask.demand.milliwatts
            } else {
                0
            },
        };
        if self.boards.len() >= MANY_BOARDS && !self.boards.contains_key(&question) {
            self.boards.clear();
        }
        let nodes = self.nodes(scene.index, slot.workload).to_vec();
        let board = self.boards.entry(question).or_default();
        board.catch_up(&scene.ledger.touched, &nodes, |node| check(scene, node, way, ask));
        board
    }
}

/// What the site of a node holds against a new pod of a slot there: its power budget.
fn check_site(
    scene: Scene<'_, '_>,
    slot: &Slot<'_>,
    way: &Way<'_>,
    terms: Terms,
    node: NodeId,
) -> Option<Reject> {
    let meter = &scene.ledger.meter;
    if terms.watts == Beside::Nothing || !meter.is_on() {
        return None;
    }
    let gives_back = slot.milliwatts_on_site(scene.index, node);
    meter
        .check_site(node, terms.watts, way.load.milliwatts, gives_back)
        .map(Reject::Power)
}

/// That the slot's model cannot be run in one way on a node where the slot has no pod.
fn check_ability(scene: Scene<'_, '_>, slot: &Slot<'_>, way: &Way<'_>, node: NodeId) -> Option<Reject> {
    let name = scene.index.name(node);
    slot.inabilities.on_node(way, name, scene.now)
}

/// The nodes of a slot's site that may serve it.
fn site_nodes(index: &Index<'_>, slot: &Slot<'_>, site: SiteId) -> Vec<NodeId> {
    let nodes = index.sites.nodes(site).iter().copied();
    nodes
        .filter(|node| slot.workload.nodes.matches(&index.node(*node).labels))
        .collect()
}

/// Whether a node is one of the workload's, and of the slot's site.
fn is_chosen(index: &Index<'_>, slot: &Slot<'_>, node: NodeId) -> bool {
    slot.site.is_none_or(|site| index.sites.of(node) == Some(site))
        && slot.workload.nodes.matches(&index.node(node).labels)
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
    let group = rejected
        .entry(closeness)
        .or_insert_with(|| Group::empty(closeness.1));
    group.count += 1;
    group.until = group.until.into_iter().chain(until(reject)).min();
    // A slot's own node is the one that its reader asks about.
    group.first.insert(0, (node, reject));
    group.first.truncate(NAMED_NODES);
}

pub(crate) fn until(reject: Reject) -> Option<Timestamp> {
    match reject {
        Reject::Recovering { until, .. } => Some(until),
        _ => None,
    }
}

/// How far a node is from serving.
pub(crate) fn closeness(reject: Reject) -> Closeness {
    let steps_away = match reject {
        Reject::Recovering { .. } => 0,
        Reject::Unhealthy
        | Reject::NotOffered { .. }
        | Reject::Refused
        | Reject::Hot
        | Reject::AgentSilent { .. }
        | Reject::Unable { .. } => 1,
        Reject::Busy { .. } => 2,
        Reject::Power(_) => 3,
        Reject::Full { .. } => 4,
        Reject::Cordoned => 5,
        Reject::Tainted => 6,
        Reject::NotReady => 7,
        Reject::NoSuchDevice { .. } => 8,
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
            inabilities: Some(&self.inabilities),
            watts: terms.watts,
        }
    }

    /// What a new pod of this slot takes.
    pub fn demand(&self, way: &Way<'w>) -> Demand<'w> {
        let beside = way.profile.map(|profile| &profile.beside);
        Demand::new(
            &self.workload.requests,
            beside,
            way.resource(),
            way.load.milliwatts,
        )
    }
}

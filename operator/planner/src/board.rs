//! What one question to every node found, kept up to date as nodes are booked.

use crate::check::{Reject, Score, Verdict};
use crate::index::NodeId;
use crate::outcome::ReasonCode;
use crate::survey::{Closeness, Finding, Group, NAMED_NODES, closeness, until};
use std::collections::{BTreeMap, BTreeSet};

/// Verdicts by node, and the nodes by verdict.
#[derive(Default)]
pub(crate) struct Board {
    /// None for a node that is not among the workload's.
    verdicts: Vec<Option<Verdict>>,
    feasible: BTreeSet<(Score, NodeId)>,
    possible: BTreeSet<NodeId>,
    rejected: BTreeMap<Closeness, BTreeSet<NodeId>>,
    caught_up: usize,
}

impl Board {
    /// Looks at every node at first, later at those that were booked since.
    pub fn catch_up(&mut self, touched: &[NodeId], nodes: &[NodeId], look: impl Fn(NodeId) -> Verdict) {
        if self.verdicts.is_empty() {
            self.look_at_all(nodes, look);
        } else {
            let since: BTreeSet<NodeId> = touched[self.caught_up..].iter().copied().collect();
            for node in since {
                if let Some(before) = self.verdicts.get(node).copied().flatten() {
                    self.replace(node, before, look(node));
                }
            }
        }
        self.caught_up = touched.len();
    }

    fn look_at_all(&mut self, nodes: &[NodeId], look: impl Fn(NodeId) -> Verdict) {
        let verdicts: Vec<(NodeId, Verdict)> = nodes.iter().map(|node| (*node, look(*node))).collect();
        self.verdicts = vec![None; nodes.last().map_or(0, |last| last + 1)];
        for (node, verdict) in &verdicts {
            self.verdicts[*node] = Some(*verdict);
        }
        // Sets are built from whole sequences, which is much faster than one by one.
        let scored = verdicts
            .iter()
            .filter_map(|(node, verdict)| Some((verdict.outcome.ok()?, *node)));
        self.feasible = scored.collect();
        self.possible = verdicts
            .iter()
            .filter(|(_, verdict)| verdict.possible)
            .map(|(node, _)| *node)
            .collect();
        let mut rejected: BTreeMap<Closeness, Vec<NodeId>> = BTreeMap::new();
        for (node, verdict) in &verdicts {
            if let Err(reject) = verdict.outcome {
                rejected.entry(closeness(reject)).or_default().push(*node);
            }
        }
        self.rejected = rejected
            .into_iter()
            .map(|(why, nodes)| (why, nodes.into_iter().collect()))
            .collect();
    }

    fn replace(&mut self, node: NodeId, before: Verdict, after: Verdict) {
        match before.outcome {
            Ok(score) => self.feasible.remove(&(score, node)),
            Err(reject) => self.rejected.entry(closeness(reject)).or_default().remove(&node),
        };
        match after.outcome {
            Ok(score) => self.feasible.insert((score, node)),
            Err(reject) => self.rejected.entry(closeness(reject)).or_default().insert(node),
        };
        match after.possible {
            true => self.possible.insert(node),
            false => self.possible.remove(&node),
        };
        self.verdicts[node] = Some(after);
    }

    /// Nodes that will do, best first.
    pub fn feasible(&self) -> impl Iterator<Item = NodeId> {
        self.feasible.iter().map(|(_, node)| *node)
    }

    /// What was found on nodes other than a slot's own. `refuse` says what the site of a node
    /// holds against it.
    pub fn report(
        &self,
        own: &[NodeId],
        finding: &mut Finding,
        rejected: &mut BTreeMap<Closeness, Group>,
        refuse: impl Fn(NodeId) -> Option<Reject>,
    ) {
        let others = |node: &NodeId| !own.contains(node);
        let mut refused: Option<Group> = None;
        for node in self.feasible().filter(others) {
            let Some(reject) = refuse(node) else {
                finding.feasible = Some(node);
                break;
            };
            let group = refused.get_or_insert_with(|| Group::empty(reject.code()));
            group.count += 1;
            if group.first.len() < NAMED_NODES {
                group.first.push((node, reject));
            }
        }
        if let Some(group) = refused.filter(|_| finding.feasible.is_none())
            && let Some((_, reject)) = group.first.first()
        {
            rejected.insert(closeness(*reject), group);
        }
        let possible = self.possible.iter().copied().filter(others);
        finding.possible = possible
            .into_iter()
            .find(|node| refuse(*node).is_none_or(|reject| matches!(reject, Reject::Unable { .. })));
        for (closeness, nodes) in &self.rejected {
            let count = nodes.len() - own.iter().filter(|node| nodes.contains(node)).count();
            if count == 0 {
                continue;
            }
            let reject_of = |node: &NodeId| self.verdicts[*node].and_then(|verdict| verdict.outcome.err());
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

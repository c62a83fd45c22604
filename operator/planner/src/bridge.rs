//! Moves in which what serves is in the way of the target: bridged, held, or with a gap.

use crate::attempt::next_attempt;
use crate::check::Scene;
use crate::device::is_device_dead;
use crate::index::{NodeId, OwnPod};
use crate::ledger::Release;
use crate::outcome::{Reason, ReasonCode};
use crate::steps::{Means, Turn};
use crate::survey::Terms;
use crate::ways::{Way, place_of};
use crate::world::{Liveness, Role};
use perwatt_crds::workload::OnGap;

impl<'w> Turn<'_, 'w> {
    /// The slot's pods are in the way of the target.
    pub fn make_way(&mut self, place: usize, node: NodeId) {
        let slot = self.slot;
        if slot.ready().next().is_none() {
            self.reserve(place, node);
            for own in slot.live() {
                self.delete(
                    own,
                    None,
                    format!("it is not ready, and in the way of {}", self.ways[place].label()),
                );
            }
            return;
        }
        let starting = slot.live().find(|own| self.may_become_bridge(own, place, node));
        if let Some(bridge) = starting {
            self.reserve(place, node);
            self.drop_starting(Some(bridge.name()));
            return self.note_cannot_start(bridge);
        }
        match self.find_bridge(place, node) {
            Some((bridge, at)) => {
                match next_attempt(slot, &self.ways[bridge].variant.name, Role::Bridge, self.now) {
                    Ok(attempt) => self.create(bridge, at, Role::Bridge, attempt),
                    Err(back_off) => self.note_back_off(back_off),
                }
                self.reserve(place, node);
            }
            None if self.means == Means::Near => self.steps.held = true,
            None => self.cannot_bridge(place, node),
        }
        for own in slot.live().filter(|own| own.is_bridge() && !own.is_ready()) {
            self.delete(own, None, "it cannot bridge the move from where it is".to_owned());
        }
        self.drop_starting(None);
    }

    fn cannot_bridge(&mut self, place: usize, node: NodeId) {
        self.reserve(place, node);
        let target = format!("{} on {}", self.ways[place].label(), self.index.name(node));
        if self.slot.workload.on_gap == OnGap::Allow && !self.would_gain_nothing(place) {
            for own in self.slot.ready() {
                let why = format!("onGap is Allow, and no bridge fits on the way to {target}");
                self.delete(own, None, why);
            }
            return;
        }
        let message = format!(
            "{target} needs what the serving pod holds, and no device-less variant fits beside it: \
             free CPU or memory on the node, or set placement.onGap to Allow"
        );
        self.steps.problem = Some(Reason {
            code: ReasonCode::CannotBridge,
            message,
        });
        self.steps.changing = !self.steps.changes.is_empty();
    }

    /// A pod of this revision that is ready although it should go has a dead device and serves
    /// from its stand-in: a device-less target serves no better, and is not worth a gap.
    fn would_gain_nothing(&self, place: usize) -> bool {
        let revision = &self.slot.workload.revision;
        self.ways[place].is_device_less() && self.slot.ready().any(|own| own.owned.revision == *revision)
    }

    /// The first device-less variant that fits beside what serves, and leaves room for the target:
    /// on the target's node or the serving pod's, and for a replica on any other.
    fn find_bridge(&mut self, place: usize, node: NodeId) -> Option<(usize, NodeId)> {
        let serving = self
            .slot
            .ready()
            .filter_map(|own| own.node)
            .filter(|at| *at != node);
        let nodes: Vec<NodeId> = std::iter::once(node).chain(serving).collect();
        let usable = |way: &Way| way.is_device_less() && way.ruled_out.is_none();
        let bridges: Vec<usize> = (0..self.ways.len())
            .filter(|bridge| usable(&self.ways[*bridge]))
            .collect();
        let pairs = bridges
            .iter()
            .flat_map(|bridge| nodes.iter().map(|at| (*bridge, *at)));
        let near = pairs
            .into_iter()
            .find(|(bridge, at)| self.can_bridge(*bridge, *at, place, node));
        if near.is_some() || self.means == Means::Near {
            return near;
        }
        bridges
            .into_iter()
            .find_map(|bridge| self.find_far_bridge(bridge, place, node))
    }

    fn can_bridge(&self, bridge: usize, at: NodeId, place: usize, node: NodeId) -> bool {
        let mut release = self.slot.release_on(node);
        if at == node {
            release.amounts = release.amounts.minus(self.demand(bridge).amounts);
        }
        self.fits(bridge, at, &Release::default()) && self.fits(place, node, &release)
    }

    fn find_far_bridge(&mut self, bridge: usize, place: usize, node: NodeId) -> Option<(usize, NodeId)> {
        let scene = Scene {
            index: self.index,
            ledger: self.ledger,
            now: self.now,
        };
        let terms = Terms {
            release_own: false,
            ..self.terms()
        };
        let at = self
            .survey
            .find(scene, self.slot, self.ways, bridge, terms)
            .feasible?;
        self.can_bridge(bridge, at, place, node).then_some((bridge, at))
    }

    /// Whether what starts already, be it on a device, can serve while the others change places. Dropped
    /// for a bridge, it would be made again as soon as the target is out of reach once more.
    fn may_become_bridge(&self, own: &OwnPod<'w>, place: usize, node: NodeId) -> bool {
        let way = place_of(self.ways, &own.owned.variant, own.owned.profile.as_deref());
        let may_serve = way.is_some_and(|way| self.ways[way].ruled_out.is_none())
            && !is_device_dead(self.index, self.slot, own, self.now)
            && !self.slot.inabilities.gives_up(own);
        let on_ready_node = own
            .node
            .is_some_and(|at| self.index.node(at).liveness == Liveness::Ready);
        may_serve
            && on_ready_node
            && !own.is_ready()
            && own.owned.revision == self.slot.workload.revision
            && self.fits(place, node, &self.slot.release_but(node, Some(own.name())))
    }
}

//! The next safe steps of one slot from the pods that it has to the pod that it should have.
//!
//! Each pass emits what is safe given what is seen, and the next pass goes on from what it sees
//! then; no memory is kept. While a pod of the slot is ready, none is deleted without a survivor
//! that is ready too, unless `onGap: Allow` says so and no bridge fits.
//!
//! | the slot's own pod for the target | and | steps |
//! |---|---|---|
//! | is ready | | delete all others |
//! | starts | | wait; drop pods that start for an older target |
//! | is missing | fits beside what is there | create it |
//! | is missing | its agent restarts | wait |
//! | is missing | fits once stopping pods are gone | wait |
//! | is missing | nothing is ready | delete what is in its way |
//! | is missing | a ready pod may stay meanwhile | delete the others, that one survives |
//! | is missing | a bridge fits | create the bridge |
//! | is missing | no bridge fits | hold, or delete (`onGap`) |

use crate::agent::{describe as describe_silence, silent_since};
use crate::attempt::{BackOff, next_attempt};
use crate::check::{Scene, check};
use crate::choose::Choice;
use crate::explain::{self, cut};
use crate::index::{Index, NodeId, OwnPod};
use crate::keep::Kept;
use crate::ledger::{Demand, Ledger, Release};
use crate::name::pod_name;
use crate::outcome::{Assignment, Change, PodDelete, PodPlan, Reason, ReasonCode};
use crate::power::Beside;
use crate::slot::Slot;
use crate::survey::{Survey, Terms};
use crate::ways::{Way, stand_ins};
use crate::world::{PodState, Role};
use jiff::Timestamp;

/// What is to be done for a slot now.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub changes: Vec<Change>,
    pub problem: Option<Reason>,
    pub changing: bool,
    pub wake_at: Option<Timestamp>,
    /// Nothing was determined: the move cannot be bridged by the means that were allowed.
    pub held: bool,
}

/// By what means a move may be bridged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// A bridge on the node of the target or of what serves.
    Near,
    /// That, or a bridge on any node, or a gap where `onGap: Allow` says so.
    Any,
}

/// What the steps of a slot are determined from.
pub(crate) struct Turn<'a, 'w> {
    pub index: &'a Index<'w>,
    pub ledger: &'a mut Ledger<'w>,
    pub now: Timestamp,
    pub slot: &'a Slot<'w>,
    pub ways: &'a [Way<'w>],
    pub survey: &'a mut Survey<'w>,
    pub choice: &'a Choice,
    pub means: Means,
    pub steps: Steps,
}

/// How the target can be made.
enum Room<'a, 'w> {
    /// At once.
    Now,
    /// When the kubelet offers the device that the slot holds again.
    AfterAgent,
    /// When the pods that stop are gone.
    AfterStopping,
    /// When the slot's pods but this one are gone.
    Beside(&'a OwnPod<'w>),
    /// When a bridge serves in place of the slot's pods.
    AfterBridge,
}

impl<'a, 'w> Turn<'a, 'w> {
    /// Determines the steps. `kept` is the pod that already is on the target, if any.
    pub fn determine(mut self, kept: Option<Kept<'w>>) -> Steps {
        for own in self
            .slot
            .pods
            .iter()
            .filter(|own| self.slot.stuck.contains(&own.pod.name.as_str()))
        {
            self.delete(own, None, "the room that it waits for was taken".to_owned());
        }
        let revision = &self.slot.workload.revision;
        self.clear_failed(|own| own.owned.revision != *revision);
        match (self.choice.target, kept) {
            (None, _) => self.give_up(),
            (Some(_), Some(kept)) if kept.own.is_ready() => self.settle(&kept.own),
            (Some(_), Some(kept)) => self.wait_for(&kept.own),
            (Some((place, node)), None) => self.approach(place, node),
        }
        self.note_waiting();
        self.steps
    }

    /// The target serves: everything else goes.
    fn settle(&mut self, target: &OwnPod<'w>) {
        let slot = self.slot;
        for own in slot.live().filter(|own| own.name() != target.name()) {
            let why = format!("{} serves {}", target.name(), slot.name);
            self.delete(own, Some(target.name()), why);
        }
        self.clear_failed(|_| true);
    }

    /// The target starts: what serves stays until it is ready.
    fn wait_for(&mut self, target: &OwnPod<'w>) {
        self.steps.changing = true;
        self.drop_starting(Some(target.name()));
        self.clear_failed(|_| true);
        self.note_cannot_start(target);
    }

    /// The target has no pod yet.
    fn approach(&mut self, place: usize, node: NodeId) {
        self.steps.changing = true;
        let variant = &self.ways[place].variant.name;
        let attempt = match next_attempt(self.slot, variant, Role::Serving, self.now) {
            Ok(attempt) => attempt,
            Err(back_off) => return self.back_off(back_off, place, node),
        };
        match self.determine_room(place, node) {
            Room::AfterAgent => self.hold_for_agent(place, node),
            Room::Now => {
                self.create(place, node, Role::Serving, attempt);
                self.drop_starting(None);
                self.clear_failed(|own| own.owned.variant != *variant);
            }
            Room::AfterStopping => self.reserve(place, node),
            Room::Beside(survivor) => {
                self.reserve(place, node);
                self.free_but(survivor);
            }
            Room::AfterBridge => self.make_way(place, node),
        }
    }

    fn determine_room(&self, place: usize, node: NodeId) -> Room<'a, 'w> {
        let slot = self.slot;
        let of_stopping = Release::of(slot.stopping().filter(|own| own.node == Some(node)));
        if self.fits(place, node, &Release::default()) {
            return Room::Now;
        }
        if !self.is_offered(place, node) {
            return Room::AfterAgent;
        }
        if self.fits(place, node, &of_stopping) {
            return Room::AfterStopping;
        }
        let mut ready: Vec<_> = slot.ready().collect();
        ready.sort_by_key(|own| (own.owned.profile.is_some(), !own.is_bridge()));
        let beside = ready
            .into_iter()
            .find(|own| self.fits(place, node, &slot.release_but(node, Some(own.name()))));
        beside.map_or(Room::AfterBridge, Room::Beside)
    }

    pub fn fits(&self, place: usize, node: NodeId, release: &Release<'w>) -> bool {
        let terms = self.terms();
        let way = &self.ways[place];
        check(self.scene(), node, way, self.slot.ask(way, release, terms))
            .outcome
            .is_ok()
    }

    /// Whether the kubelet will offer the device of a way once the slot's own pods are gone.
    fn is_offered(&self, place: usize, node: NodeId) -> bool {
        if self.silent_agent(place, node).is_some() {
            return false;
        }
        self.ways[place].resource().is_none_or(|resource| {
            let row = self.ledger.extended(node, resource);
            row.allocatable - row.requested + self.slot.release_on(node).of_resource(resource) >= 1
        })
    }

    /// Since when the agent of a node is silent, for a way on a device that it serves.
    fn silent_agent(&self, place: usize, node: NodeId) -> Option<Timestamp> {
        let of_agent = self.ways[place].profile.is_some_and(|profile| !profile.external);
        silent_since(self.index.world, self.index.node(node), self.now).filter(|_| of_agent)
    }

    /// Every pod of the slot but the survivor gives way to the target.
    fn free_but(&mut self, survivor: &OwnPod<'w>) {
        for own in self.slot.live().filter(|own| own.name() != survivor.name()) {
            let why = format!(
                "{} serves {} while its pods change places",
                survivor.name(),
                self.slot.name
            );
            self.delete(own, Some(survivor.name()), why);
        }
    }

    /// What serves holds the device that the target needs, and the kubelet does not offer it.
    fn hold_for_agent(&mut self, place: usize, node: NodeId) {
        self.reserve(place, node);
        let silent = self.silent_agent(place, node);
        let (way, node) = (self.ways[place].label(), self.index.name(node));
        self.steps.problem = Some(match silent {
            Some(since) => Reason {
                code: ReasonCode::AgentSilent,
                message: format!("{way} waits: {}", describe_silence(node, since)),
            },
            None => Reason {
                code: ReasonCode::DeviceUnhealthy,
                message: format!(
                    "{way} waits: the kubelet on {node} does not offer its device at the moment; if that lasts, \
                     see the node's device-plugin pod"
                ),
            },
        });
    }

    /// Drops pods that start for an older target. Bridges stay until the target serves, and so
    /// does a pod whose runtime has answered before: it may be ready again before the target is.
    pub fn drop_starting(&mut self, but: Option<&str>) {
        let slot = self.slot;
        let starts = |own: &&OwnPod| !own.is_ready() && !own.is_bridge() && own.owned.active.is_none();
        for own in slot.live().filter(starts).filter(|own| Some(own.name()) != but) {
            self.delete(own, None, "its slot is planned elsewhere by now".to_owned());
        }
    }

    /// Deletes failed pods. Those that a back-off counts from stay until their successor is seen.
    fn clear_failed(&mut self, which: impl Fn(&OwnPod<'w>) -> bool) {
        let slot = self.slot;
        for own in slot.failed().filter(|own| which(own)) {
            let deleted =
                |change: &Change| matches!(change, Change::Delete(delete) if delete.uid == own.pod.uid);
            if !self.steps.changes.iter().any(deleted) {
                self.delete(own, None, "it failed".to_owned());
            }
        }
    }

    fn back_off(&mut self, back_off: BackOff, place: usize, node: NodeId) {
        self.note_back_off(back_off);
        self.reserve(place, node);
    }

    pub fn note_back_off(&mut self, back_off: BackOff) {
        self.steps.wake_at = Some(back_off.until);
        self.steps.problem = Some(back_off.reason);
    }

    pub fn note_cannot_start(&mut self, own: &OwnPod<'w>) {
        let PodState::Starting { reason, message } = &own.owned.state else {
            return;
        };
        if reason.is_empty() {
            return;
        }
        let message = cut(format!("pod {} cannot start: {reason}: {message}", own.name()));
        self.steps.problem = Some(Reason {
            code: ReasonCode::PodCannotStart,
            message,
        });
    }

    /// Says why nothing serves the slot, where nothing else has.
    fn note_waiting(&mut self) {
        if self.steps.problem.is_some() || self.slot.ready().next().is_some() {
            return;
        }
        let Some((place, node)) = self.choice.target else {
            return;
        };
        let what = format!("{} on {} starts", self.ways[place].label(), self.index.name(node));
        let created = self
            .steps
            .changes
            .iter()
            .any(|change| matches!(change, Change::Create(_)));
        let stops = self
            .slot
            .stopping()
            .next()
            .filter(|_| !created && self.slot.live().next().is_none());
        let message = match stops {
            Some(own) => format!("{what} when pod {} is gone", own.name()),
            None => what,
        };
        self.steps.problem = Some(Reason {
            code: ReasonCode::PodStarting,
            message,
        });
    }

    pub fn reserve(&mut self, place: usize, node: NodeId) {
        let (demand, release) = (self.demand(place), self.slot.release_on(node));
        self.ledger.reserve(node, demand, &release);
    }

    pub fn create(&mut self, place: usize, node: NodeId, role: Role, attempt: u32) {
        self.ledger.book(node, self.demand(place));
        let way = &self.ways[place];
        let assignment = Assignment {
            node: self.index.name(node).to_owned(),
            variant: way.variant.name.clone(),
            profile: way.profile_name.map(str::to_owned),
            revision: self.slot.workload.revision.clone(),
        };
        let decision = explain::decision(self.scene(), self.ways, self.choice);
        self.steps.changing = true;
        self.steps.changes.push(Change::Create(PodPlan {
            workload: self.slot.key.clone(),
            slot: self.slot.name.clone(),
            name: pod_name(&self.slot.key.name, &self.slot.name, &assignment, role, attempt),
            stand_ins: stand_ins(self.slot.workload, &assignment.variant),
            degraded: self.degraded(place),
            moved: self.choice.is_move,
            unavailable: self.slot.inabilities.known.clone(),
            decision: match role {
                Role::Serving => decision,
                Role::Bridge => cut(format!("{} bridges the move to {decision}", way.label())),
            },
            assignment,
            role,
            attempt,
        }));
    }

    /// Why a pod of this way is not the slot's planned best.
    fn degraded(&self, place: usize) -> Option<Reason> {
        let best = &self.ways[self.choice.best?].variant.name;
        if self.ways[place].variant.name == *best {
            return None;
        }
        self.choice.behind_best.clone().or_else(|| Some(moving(best)))
    }

    pub fn delete(&mut self, own: &OwnPod<'w>, survivor: Option<&str>, why: String) {
        self.steps.changing |= own.is_live();
        self.steps
            .changes
            .push(Change::Delete(delete_pod(own, survivor, why)));
    }

    pub fn demand(&self, place: usize) -> Demand<'w> {
        self.slot.demand(&self.ways[place])
    }

    pub fn terms(&self) -> Terms {
        Terms {
            stable: false,
            respect_wishes: !self.choice.ignored_wishes,
            release_own: true,
            watts: Beside::Nothing,
        }
    }

    fn scene(&self) -> Scene<'_, 'w> {
        Scene {
            index: self.index,
            ledger: self.ledger,
            now: self.now,
        }
    }
}

/// Another variant serves until the slot's pods have changed.
pub(crate) fn moving(best: &str) -> Reason {
    Reason {
        code: ReasonCode::Moving,
        message: format!("the slot is on its way to {best}, which starts"),
    }
}

pub(crate) fn delete_pod(own: &OwnPod<'_>, survivor: Option<&str>, why: String) -> PodDelete {
    PodDelete {
        namespace: own.pod.namespace.clone(),
        name: own.pod.name.clone(),
        uid: own.pod.uid.clone(),
        survivor: survivor.map(str::to_owned),
        why,
    }
}

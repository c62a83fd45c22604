//! What should serve a slot: the best way that may be used now, and what the best would be.

use crate::check::Scene;
use crate::device::is_device_dead;
use crate::explain;
use crate::index::NodeId;
use crate::keep::Kept;
use crate::outcome::{Candidate, Reason, ReasonCode};
use crate::power::Beside;
use crate::slot::Slot;
use crate::survey::{Finding, Survey, Terms};
use crate::ways::{Way, place_of};
use jiff::Timestamp;

/// What was chosen for a slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Place of the way, and the node.
    pub target: Option<(usize, NodeId)>,
    /// Place of the way that would be chosen if every device were healthy.
    pub best: Option<usize>,
    /// Why the best is not the target; none where it is.
    pub behind_best: Option<Reason>,
    /// Where the slot waits for a device to be well, of its best way and of the first that
    /// recovers: places of the ways, and the nodes.
    pub wishes: Vec<(usize, NodeId)>,
    /// When a recovering device is trusted.
    pub wake_at: Option<Timestamp>,
    /// Every way, best first.
    pub candidates: Vec<Candidate>,
    /// It took a device that others wait for, having nothing else.
    pub ignored_wishes: bool,
    /// What is made for it moves the slot from where it is served.
    pub is_move: bool,
}

/// How to choose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub respect_wishes: bool,
    /// The slot's own pods give way to the new one.
    pub release_own: bool,
}

impl Rules {
    pub const USUAL: Self = Self {
        respect_wishes: true,
        release_own: true,
    };
}

/// Chooses for a slot. A slot that nothing serves and that has no other choice may take a device
/// which others wait for.
pub(crate) fn choose<'w>(
    scene: Scene<'_, 'w>,
    slot: &Slot<'w>,
    ways: &[Way<'w>],
    survey: &mut Survey<'w>,
    kept: Option<Kept<'w>>,
) -> Choice {
    let choice = choose_by(scene, slot, ways, survey, kept, Rules::USUAL);
    if choice.target.is_some() || slot.ready().next().is_some() {
        return choice;
    }
    let rules = Rules {
        respect_wishes: false,
        ..Rules::USUAL
    };
    let second = choose_by(scene, slot, ways, survey, kept, rules);
    if second.target.is_some() {
        Choice {
            ignored_wishes: true,
            ..second
        }
    } else {
        choice
    }
}

/// Chooses by the given rules: the first way, best first, that some node can serve. A kept pod
/// gives way only to a way that gains enough.
pub(crate) fn choose_by<'w>(
    scene: Scene<'_, 'w>,
    slot: &Slot<'w>,
    ways: &[Way<'w>],
    survey: &mut Survey<'w>,
    kept: Option<Kept<'w>>,
    rules: Rules,
) -> Choice {
    let mut choice = Choice::default();
    for (place, way) in ways.iter().enumerate() {
        if let Some(kept) = kept.filter(|kept| kept.place == place && choice.target.is_none()) {
            choice.take(place, kept.node, scene, way);
        } else if let Some(reason) = &way.ruled_out {
            choice
                .candidates
                .push(explain::candidate(way, None, Some(reason.clone())));
        } else if choice.target.is_some() {
            choice.candidates.push(explain::candidate(way, None, None));
        } else if let Some(kept) = kept.filter(|kept| !gives_way(kept, way, ways)) {
            let reason = gain_too_small(way, &ways[kept.place]);
            choice.candidates.push(explain::candidate(way, None, reason));
        } else {
            let terms = Terms {
                stable: must_be_stable(scene, slot, ways, way),
                respect_wishes: rules.respect_wishes,
                release_own: rules.release_own,
                watts: if slot.sheds { Beside::Lightest } else { Beside::All },
            };
            let finding = survey.find(scene, slot, ways, place, terms);
            choice.consider(place, &finding, scene, (slot, way));
        }
    }
    choice.best = choice.best.or(choice.target.map(|(place, _)| place));
    choice
}

/// Whether a kept pod gives way to a way: one that gains enough; a bridge, which nobody chose, to any
/// that is better at all.
fn gives_way(kept: &Kept<'_>, way: &Way<'_>, ways: &[Way<'_>]) -> bool {
    let present = &ways[kept.place];
    way.beats(present) || (kept.own.is_bridge() && way.standing < present.standing)
}

/// That a way is better than what serves, by too little; none where the order of variants decides.
fn gain_too_small(way: &Way<'_>, present: &Way<'_>) -> Option<Reason> {
    let (cost, of_present) = way.both_costs(present)?;
    (cost < of_present).then(|| Reason {
        code: ReasonCode::GainTooSmall,
        message: format!(
            "better than {} by {} in a thousand: too little for a move",
            present.label(),
            (u128::from(of_present - cost) * 1000) / u128::from(of_present.max(1))
        ),
    })
}

impl Choice {
    /// The slot stays with a pod, whatever would be better.
    pub fn hold(&mut self, kept: Kept<'_>, reason: Reason) {
        self.target = Some((kept.place, kept.node));
        self.is_move = false;
        for (place, candidate) in self.candidates.iter_mut().enumerate() {
            if candidate.chosen {
                candidate.rejected = Some(reason.clone());
            }
            candidate.chosen = place == kept.place;
        }
        if let Some(candidate) = self.candidates.get_mut(kept.place) {
            candidate.rejected = None;
        }
        self.behind_best = Some(reason);
    }

    fn take(&mut self, place: usize, node: NodeId, scene: Scene<'_, '_>, way: &Way<'_>) {
        self.target = Some((place, node));
        self.candidates.push(explain::chosen(scene, way, node));
    }

    fn consider(
        &mut self,
        place: usize,
        finding: &Finding,
        scene: Scene<'_, '_>,
        (slot, way): (&Slot<'_>, &Way<'_>),
    ) {
        if let Some(node) = finding.feasible {
            return self.take(place, node, scene, way);
        }
        let (reason, node) = explain::rejection(scene, way, finding);
        let until = finding.groups.iter().filter_map(|group| group.until).min();
        if let Some(possible) = finding.possible {
            let is_best = self.best.is_none();
            if is_best {
                self.best = Some(place);
                self.behind_best = Some(reason.clone());
            }
            // A device that is well, and on which this slot's model cannot be run, is others' to have.
            let name = scene.index.name(possible);
            let is_able = slot.inabilities.on_node(way, name, scene.now).is_none();
            if is_able && (is_best || (until.is_some() && self.wake_at.is_none())) {
                self.wishes.push((place, possible));
            }
        }
        self.wake_at = self.wake_at.into_iter().chain(until).min();
        self.candidates.push(explain::candidate(way, node, Some(reason)));
    }
}

/// Whether a way is a return to something better than what serves the slot now. A slot that
/// nothing serves takes what there is at once; a pod whose device is dead serves from a stand-in.
fn must_be_stable(scene: Scene<'_, '_>, slot: &Slot<'_>, ways: &[Way<'_>], way: &Way<'_>) -> bool {
    let serves_as_well = |variant: &str, profile: Option<&str>| {
        let same = || ways.iter().find(|way| way.variant.name == variant);
        let present = place_of(ways, variant, profile)
            .map(|place| &ways[place])
            .or_else(same);
        present.is_some_and(|present| present.standing <= way.standing)
            || (profile.is_some() && profile == way.profile_name)
    };
    let mut ready = slot.ready().peekable();
    ready.peek().is_some()
        && !ready.any(|own| {
            !is_device_dead(scene.index, slot, own, scene.now)
                && !slot.inabilities.gives_up(own)
                && serves_as_well(&own.owned.variant, own.owned.profile.as_deref())
        })
}

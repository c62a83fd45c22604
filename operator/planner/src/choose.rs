//! What should serve a slot: the best way that may be used now, and what the best would be.

use crate::check::Scene;
use crate::device::is_device_dead;
use crate::explain;
use crate::index::NodeId;
use crate::keep::Kept;
use crate::outcome::{Candidate, Reason};
use crate::slot::Slot;
use crate::survey::{Finding, Survey, Terms};
use crate::ways::Way;
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
/// gives way only to a better variant.
pub(crate) fn choose_by<'w>(
    scene: Scene<'_, 'w>,
    slot: &Slot<'w>,
    ways: &[Way<'w>],
    survey: &mut Survey<'w>,
    kept: Option<Kept<'w>>,
    rules: Rules,
) -> Choice {
    let kept_rank = kept.map(|kept| ways[kept.place].rank);
    let mut choice = Choice::default();
    for (place, way) in ways.iter().enumerate() {
        if let Some(kept) = kept.filter(|kept| kept.place == place && choice.target.is_none()) {
            choice.take(place, kept.node, scene, way);
        } else if let Some(reason) = &way.ruled_out {
            choice
                .candidates
                .push(explain::candidate(way, None, Some(reason.clone())));
        } else if choice.target.is_some() || kept_rank.is_some_and(|rank| rank <= way.rank) {
            choice.candidates.push(explain::candidate(way, None, None));
        } else {
            let terms = Terms {
                stable: must_be_stable(scene, slot, ways, way),
                respect_wishes: rules.respect_wishes,
                release_own: rules.release_own,
            };
            let finding = survey.find(scene, slot, ways, place, terms);
            choice.consider(place, &finding, scene, way);
        }
    }
    choice.best = choice.best.or(choice.target.map(|(place, _)| place));
    choice
}

impl Choice {
    fn take(&mut self, place: usize, node: NodeId, scene: Scene<'_, '_>, way: &Way<'_>) {
        self.target = Some((place, node));
        let candidate = explain::candidate(way, Some(scene.index.name(node)), None);
        self.candidates.push(Candidate {
            chosen: true,
            ..candidate
        });
    }

    fn consider(&mut self, place: usize, finding: &Finding, scene: Scene<'_, '_>, way: &Way<'_>) {
        if let Some(node) = finding.feasible {
            return self.take(place, node, scene, way);
        }
        let (reason, node) = explain::rejection(scene, way, finding);
        let until = finding.groups.iter().filter_map(|group| group.until).min();
        if let Some(possible) = finding.possible {
            if self.best.is_none() {
                self.best = Some(place);
                self.behind_best = Some(reason.clone());
                self.wishes.push((place, possible));
            } else if until.is_some() && self.wake_at.is_none() {
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
        let rank = ways
            .iter()
            .find(|way| way.variant.name == variant)
            .map(|way| way.rank);
        rank.is_some_and(|rank| rank <= way.rank) || (profile.is_some() && profile == way.profile_name)
    };
    let mut ready = slot.ready().peekable();
    ready.peek().is_some()
        && !ready.any(|own| {
            !is_device_dead(scene.index, slot, own, scene.now)
                && serves_as_well(&own.owned.variant, own.owned.profile.as_deref())
        })
}

//! Models that a runtime cannot run on a device that is well.
//!
//! A pod whose runtime has served from another variant for a minute, because the planned one does not load, hangs or
//! fails, is given up: its slot goes to another device, or settles on its fallback. It does not go back before a
//! cool-down is over, which doubles each time. That is written on every pod that is made for the slot since then, so
//! that a new operator knows it; a new revision starts anew, for it may be what mends the model.

use crate::check::Reject;
use crate::index::{Index, OwnPod};
use crate::slot::Slot;
use crate::ways::Way;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a runtime may serve from another variant than the planned one before its slot moves.
pub const UNAVAILABLE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a slot keeps from where its model could not be run; it doubles each time.
pub const COOL_DOWN_FIRST: Duration = Duration::from_secs(600);
/// The longest that it does.
pub const COOL_DOWN_LONGEST: Duration = Duration::from_secs(12 * 3600);
/// A variant that could not be run in so many places of a profile is at fault itself.
pub const ENOUGH_PLACES: usize = 3;

/// Why a runtime cannot run a variant, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inability {
    /// It cannot be loaded.
    LoadFailed,
    /// Its calls hang.
    Hung,
    /// It failed several times in a row.
    BreakerOpen,
}

impl Inability {
    /// What a runtime's reason says of a model; nothing where it speaks of something else.
    #[must_use]
    pub fn of(reason: &str) -> Option<Self> {
        [Self::LoadFailed, Self::Hung, Self::BreakerOpen]
            .into_iter()
            .find(|known| known.as_str() == reason)
    }

    /// The word as runtimes write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoadFailed => "LoadFailed",
            Self::Hung => "Hung",
            Self::BreakerOpen => "BreakerOpen",
        }
    }
}

/// Where a slot's model could not be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unavailable {
    /// The variant.
    pub variant: String,
    /// The profile of the device.
    pub profile: String,
    /// The node.
    pub node: String,
    /// The device; any of that profile on the node where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why.
    pub reason: Inability,
    /// Since when its runtime had said so, by the clock of whoever told.
    pub since: Timestamp,
    /// Until when the slot does not go there.
    pub until: Timestamp,
    /// How often it was so.
    pub times: u32,
}

impl Unavailable {
    fn is_of(&self, own: &OwnPod<'_>) -> bool {
        self.variant == own.owned.variant
            && own.owned.profile.as_ref() == Some(&self.profile)
            && own.pod.node.as_ref() == Some(&self.node)
    }

    fn same_place(&self, other: &Self) -> bool {
        (&self.variant, &self.profile, &self.node, &self.device)
            == (&other.variant, &other.profile, &other.node, &other.device)
    }

    /// When it counts for the next cool-down no more.
    fn forgotten_at(&self) -> Timestamp {
        let wait = cool_down(self.times);
        self.until.saturating_add(wait).unwrap_or(Timestamp::MAX)
    }
}

/// What a slot knows of where its model could not be run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inabilities<'w> {
    /// For the pods that are made for the slot.
    pub known: Vec<Unavailable>,
    /// Names of pods that are given up.
    pub given_up: Vec<&'w str>,
    /// When that changes by itself.
    pub change: Option<Timestamp>,
}

impl<'w> Inabilities<'w> {
    /// What the pods of a slot tell.
    pub fn find(index: &Index<'w>, slot: &Slot<'w>, now: Timestamp) -> Self {
        let mut found = Self::default();
        let current = slot
            .pods
            .iter()
            .filter(|own| own.owned.revision == slot.workload.revision);
        for told in current.clone().flat_map(|own| &own.owned.unavailable) {
            if told.forgotten_at() > now {
                found.remember(told.clone());
            }
        }
        let told = found.known.clone();
        for own in current.filter(|own| own.is_live()) {
            if told.iter().any(|told| told.is_of(own) && !is_aware(own, told)) {
                found.given_up.push(own.pod.name.as_str());
                continue;
            }
            let Some((reason, since)) = said(own) else {
                continue;
            };
            let end = since
                .saturating_add(UNAVAILABLE_PATIENCE)
                .unwrap_or(Timestamp::MAX);
            if end > now {
                found.change = found.change.into_iter().chain([end]).min();
                continue;
            }
            found.given_up.push(own.pod.name.as_str());
            let judged = found.judge(index, slot, own, (reason, since), end);
            found.known.extend(judged);
        }
        let ends = found.known.iter().map(|known| known.until);
        let ends = ends.filter(|until| *until > now);
        found.change = ends.chain(found.change).min();
        found
    }

    /// Of two that speak of one place the later counts.
    fn remember(&mut self, told: Unavailable) {
        match self.known.iter_mut().find(|known| known.same_place(&told)) {
            Some(known) if (known.times, known.until) >= (told.times, told.until) => {}
            Some(known) => *known = told,
            None => self.known.push(told),
        }
    }

    /// The model cannot be run where a pod is; what was known of that place goes into it.
    fn judge(
        &mut self,
        index: &Index<'w>,
        slot: &Slot<'w>,
        own: &OwnPod<'w>,
        (reason, since): (Inability, Timestamp),
        end: Timestamp,
    ) -> Option<Unavailable> {
        let mut judged = Unavailable {
            variant: own.owned.variant.clone(),
            profile: own.owned.profile.clone()?,
            node: own.pod.node.clone()?,
            device: device_of(index, slot, own),
            reason,
            since,
            until: end,
            times: 1,
        };
        let before = self.known.iter().position(|known| known.same_place(&judged));
        if let Some(before) = before.map(|place| self.known.swap_remove(place)) {
            judged.times = before.times.saturating_add(1);
        }
        // From when it was clear, not from now: the same as long as nothing happens.
        judged.until = end
            .saturating_add(cool_down(judged.times))
            .unwrap_or(Timestamp::MAX);
        Some(judged)
    }

    /// Whether a pod is given up.
    pub fn gives_up(&self, own: &OwnPod<'_>) -> bool {
        self.given_up.contains(&own.name())
    }

    /// What keeps the slot from a device of a node, or from the way there where the device is not said.
    pub fn on_device(&self, way: &Way<'_>, node: &str, device: &str, now: Timestamp) -> Option<Reject> {
        let mut here = self.of(way, now).filter(|known| known.node == node);
        let found = here.find(|known| known.device.as_deref().is_none_or(|known| known == device));
        self.anywhere(way, now).or_else(|| found.map(build_reject))
    }

    /// What keeps the slot from a way on a node where it has no pod: the kubelet might pick that very device.
    pub fn on_node(&self, way: &Way<'_>, node: &str, now: Timestamp) -> Option<Reject> {
        let found = self.of(way, now).find(|known| known.node == node);
        self.anywhere(way, now).or_else(|| found.map(build_reject))
    }

    /// Where it could not be run in several places, it is the model: it is tried nowhere else.
    fn anywhere(&self, way: &Way<'_>, now: Timestamp) -> Option<Reject> {
        let places = self.of(way, now).count();
        let first = self.of(way, now).min_by_key(|known| known.until)?;
        (places >= ENOUGH_PLACES).then_some(Reject::Unable {
            why: first.reason,
            until: first.until,
            places,
        })
    }

    /// Where a way could not be run, and is not to be tried yet.
    fn of(&self, way: &Way<'_>, now: Timestamp) -> impl Iterator<Item = &Unavailable> {
        let known = self.known.iter().filter(move |known| known.until > now);
        known.filter(|known| {
            known.variant == way.variant.name && way.profile_name == Some(known.profile.as_str())
        })
    }
}

fn build_reject(known: &Unavailable) -> Reject {
    Reject::Unable {
        why: known.reason,
        until: known.until,
        places: 1,
    }
}

/// Whether a pod was made in the knowledge of that: it is the successor of the pod that was given up.
fn is_aware(own: &OwnPod<'_>, told: &Unavailable) -> bool {
    let known = own.owned.unavailable.iter();
    known
        .filter(|known| known.same_place(told))
        .any(|known| known.times >= told.times)
}

/// What its runtime says that keeps a pod's model from its device, and since when. What its predecessor said, which the
/// pod was made for, is not its own.
fn said(own: &OwnPod<'_>) -> Option<(Inability, Timestamp)> {
    let active = own.owned.active.as_ref()?;
    let reason = Inability::of(&active.reason)?;
    own.owned.profile.as_ref()?;
    let since = active.since.filter(|_| active.name != own.owned.variant)?;
    let before = own.owned.unavailable.iter().filter(|known| known.is_of(own));
    let is_news = before.map(|known| known.since).max() < Some(since);
    is_news.then_some((reason, since))
}

/// The device of a pod, where the slot's runtimes say that they hold but one there.
fn device_of(index: &Index<'_>, slot: &Slot<'_>, own: &OwnPod<'_>) -> Option<String> {
    let devices = &index.node(own.node?).devices;
    let mut held = devices.iter().filter(|device| {
        let of_slot = device
            .held_by
            .as_ref()
            .is_some_and(|(key, name)| key == slot.key && *name == slot.name);
        of_slot && own.owned.profile.as_ref() == Some(&device.profile)
    });
    let device = held.next()?;
    held.next().is_none().then(|| device.id.clone())
}

fn cool_down(times: u32) -> Duration {
    let doublings = times.saturating_sub(1).min(16);
    COOL_DOWN_FIRST
        .saturating_mul(2_u32.pow(doublings))
        .min(COOL_DOWN_LONGEST)
}

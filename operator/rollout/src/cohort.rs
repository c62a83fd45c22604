//! Cohorts, and which slots are in which.

use perwatt_verdict::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a new revision reaches the slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// In the order in which they get it. The last one takes what no other has.
    pub cohorts: Vec<Cohort>,
    /// What is judged; nothing where cohorts pass by time alone.
    pub analysis: Option<Settings>,
    /// What to do where a deadline passes without a verdict.
    pub on_inconclusive: OnInconclusive,
}

/// What to do where a deadline passes without a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnInconclusive {
    /// Wait.
    #[default]
    Hold,
    /// Go back.
    Rollback,
}

/// Slots that get a revision together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cohort {
    /// Its name.
    pub name: String,
    /// Which slots it takes of those that are left.
    pub selector: Selector,
    /// The shortest time that it runs the revision.
    pub bake: Duration,
    /// The longest time, from its opening, to wait for a verdict.
    pub deadline: Duration,
    /// A person must let the revision in.
    pub manual: bool,
}

/// Which slots a cohort takes: those that fit all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels of the slot's EdgeSite.
    pub sites: Option<BTreeMap<String, String>>,
    /// Labels of the slot's node.
    pub nodes: Option<BTreeMap<String, String>>,
    /// Profiles, one of which serves the slot.
    pub profiles: Option<Vec<String>>,
    /// At most so many thousandths of all slots.
    pub share_permille: Option<u32>,
}

/// What cohorts are chosen by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotFacts {
    /// Name of the slot.
    pub name: String,
    /// Labels of its node.
    pub node: BTreeMap<String, String>,
    /// Labels of its EdgeSite.
    pub site: BTreeMap<String, String>,
    /// Profile of the device that serves it.
    pub profile: Option<String>,
}

impl Selector {
    fn fits(&self, slot: &SlotFacts) -> bool {
        let has = |wanted: &Option<BTreeMap<String, String>>, labels: &BTreeMap<String, String>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
        };
        has(&self.sites, &slot.site)
            && has(&self.nodes, &slot.node)
            && self.profiles.as_ref().is_none_or(|profiles| {
                slot.profile
                    .as_ref()
                    .is_some_and(|profile| profiles.contains(profile))
            })
    }
}

/// The slots of every cohort but the last, which has all others: those too that appear later.
#[must_use]
pub fn members(cohorts: &[Cohort], slots: &[SlotFacts]) -> Vec<BTreeSet<String>> {
    let mut left: Vec<&SlotFacts> = slots.iter().collect();
    left.sort_by_key(|slot| (scatter(&slot.name), &slot.name));
    let but_last = cohorts.len().saturating_sub(1);
    cohorts
        .iter()
        .take(but_last)
        .map(|cohort| {
            let most = cohort.selector.share_permille.map_or(usize::MAX, |permille| {
                (slots.len() * permille as usize).div_ceil(1_000)
            });
            let mut taken = BTreeSet::new();
            left.retain(|slot| {
                let takes = taken.len() < most && cohort.selector.fits(slot);
                if takes {
                    taken.insert(slot.name.clone());
                }
                !takes
            });
            taken
        })
        .collect()
}

/// An order of names that has nothing to do with how they are given (FNV-1a): a tenth of `edge-1`…`edge-9` is not
/// always `edge-1`, and is the same for everybody.
fn scatter(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

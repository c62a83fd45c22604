//! The ways in which a workload may be served: its variants on the profiles that they can use,
//! best first by the objective.

use crate::cost::{Expected, gains_enough};
use crate::load::{Load, load_of_way};
use crate::outcome::{Reason, ReasonCode};
use crate::rules::{Case, check_accuracy, check_way, must_leave, support_notice};
use crate::world::{Needs, Profile, Variant, Workload, World};
use jiff::Timestamp;
use perwatt_crds::workload::Objective;

/// One variant on one profile, or on none.
#[derive(Clone, Debug)]
pub(crate) struct Way<'w> {
    /// Place of the variant in the workload's order: lower is better.
    pub rank: usize,
    pub variant: &'w Variant,
    /// Name of the profile, for a variant that needs a device.
    pub profile_name: Option<&'w str>,
    pub profile: Option<&'w Profile>,
    /// Why no node can serve it, whatever its devices.
    pub ruled_out: Option<Reason>,
    /// A pod that serves in this way must leave it.
    pub must_leave: bool,
    /// What is known of it.
    pub expected: Expected,
    /// What the objective makes of that: lower is better.
    pub cost: Option<u64>,
    pub standing: Standing,
    /// What it adds to what its node draws, in milliwatts.
    pub load: Load,
    /// Something that a reader should know.
    pub note: Option<String>,
    objective: Objective,
}

/// Where a way stands among the others: lower is better, and equals are equally good.
///
/// Ways without a figure keep their place, and no way passes one of them: between two of them the
/// figures decide, across them the order of variants does. So a missing figure never makes a way
/// better or worse than its author said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Standing {
    run: usize,
    cost: u64,
}

impl<'w> Way<'w> {
    /// The extended resource that its pods request.
    pub fn resource(&self) -> Option<&'w str> {
        self.profile.map(|profile| profile.resource.as_str())
    }

    pub fn is_device_less(&self) -> bool {
        self.variant.needs == Needs::Nothing
    }

    /// The variant, and the profile that it runs on.
    pub fn label(&self) -> String {
        match self.profile_name {
            Some(profile) => format!("{} on {profile}", self.variant.name),
            None => self.variant.name.clone(),
        }
    }

    /// Whether a slot that is served in the way `other` moves for this one.
    pub fn beats(&self, other: &Self) -> bool {
        match self.both_costs(other) {
            Some((own, others)) => gains_enough(self.objective, own, others),
            None => self.rank < other.rank,
        }
    }

    /// The figures by which the two are compared; none where the order of variants decides.
    pub fn both_costs(&self, other: &Self) -> Option<(u64, u64)> {
        let comparable = self.standing.run == other.standing.run;
        self.cost.zip(other.cost).filter(|_| comparable)
    }

    fn is(&self, variant: &str, profile: Option<&str>) -> bool {
        self.variant.name == variant && self.profile_name == profile
    }
}

/// Place of the way that a pod was planned for.
pub(crate) fn place_of(ways: &[Way<'_>], variant: &str, profile: Option<&str>) -> Option<usize> {
    ways.iter().position(|way| way.is(variant, profile))
}

/// Every way to serve a workload, best first.
pub(crate) fn build_ways<'w>(world: &'w World, workload: &'w Workload, now: Timestamp) -> Vec<Way<'w>> {
    let mut ways = Vec::new();
    for (rank, variant) in workload.variants.iter().enumerate() {
        let mut add = |profile: Option<(&'w str, Option<&'w Profile>)>, missing: Option<Reason>| {
            ways.push(build_way(workload, (rank, variant), profile, missing, now));
        };
        match &variant.needs {
            Needs::Nothing => add(None, None),
            Needs::Profiles(names) => {
                for name in names {
                    let profile = world.profiles.get(name);
                    let missing = profile.is_none().then(|| profile_not_found(name));
                    add(Some((name, profile)), missing);
                }
            }
            Needs::Class(class) => {
                let of_class = |profile: &&Profile| profile.class == *class;
                let mut found = world
                    .profiles
                    .iter()
                    .filter(|(_, profile)| of_class(profile))
                    .peekable();
                if found.peek().is_none() {
                    let message = format!(
                        "no HardwareProfile is of class {}: `kubectl get hardwareprofiles` lists what there is",
                        class.as_str()
                    );
                    let code = ReasonCode::ProfileNotFound;
                    add(None, Some(Reason { code, message }));
                }
                for (name, profile) in found {
                    add(Some((name, Some(profile))), None);
                }
            }
        }
    }
    rank_ways(&mut ways);
    ways
}

fn build_way<'w>(
    workload: &'w Workload,
    (rank, variant): (usize, &'w Variant),
    profile: Option<(&'w str, Option<&'w Profile>)>,
    missing: Option<Reason>,
    now: Timestamp,
) -> Way<'w> {
    let known = profile.and_then(|(name, profile)| Some((name, profile?)));
    let expected = Expected::of(workload, variant, known);
    let case = Case {
        workload,
        variant,
        profile: known,
        expected: &expected,
        now,
    };
    Way {
        rank,
        variant,
        profile_name: profile.map(|(name, _)| name),
        profile: known.map(|(_, profile)| profile),
        ruled_out: check_way(case).or(missing),
        must_leave: must_leave(case),
        expected,
        cost: expected.cost(workload.objective, variant),
        standing: Standing::default(),
        load: load_of_way(workload, known.map(|(_, profile)| profile), &expected),
        note: support_notice(known, now),
        objective: workload.objective,
    }
}

/// Gives each way its standing, and sorts.
fn rank_ways(ways: &mut [Way<'_>]) {
    let mut run = 0;
    let mut before: Option<(bool, usize)> = None;
    for way in ways.iter_mut() {
        if way.ruled_out.is_some() {
            // It serves nothing new, so it stands between nobody.
            let by_figures = before.is_some_and(|(by_figures, _)| by_figures);
            way.standing = Standing {
                run,
                cost: if by_figures { u64::MAX } else { 0 },
            };
            continue;
        }
        let by_figures = way.cost.is_some();
        let goes_on = |(figures, rank): (bool, usize)| figures == by_figures && (figures || rank == way.rank);
        if !before.is_none_or(goes_on) {
            run += 1;
        }
        before = Some((by_figures, way.rank));
        way.standing = Standing {
            run,
            cost: way.cost.unwrap_or(0),
        };
    }
    ways.sort_by_key(|way| way.standing);
}

/// Whether a variant is accurate enough to serve.
pub(crate) fn is_accurate(variant: &Variant, workload: &Workload) -> bool {
    check_accuracy(variant, workload).is_none()
}

/// The variants that may stand in inside a pod after its planned one: device-less, in order. Where
/// figures may have put the planned one before those that are listed first, these come last.
#[must_use]
pub fn stand_ins(workload: &Workload, planned: &str) -> Vec<String> {
    let place = workload
        .variants
        .iter()
        .position(|variant| variant.name == planned);
    let Some(place) = place else {
        return Vec::new();
    };
    let (first, after) = workload.variants.split_at(place);
    let before = if workload.objective == Objective::Order {
        &[]
    } else {
        first
    };
    after
        .iter()
        .skip(1)
        .chain(before)
        .filter(|variant| variant.needs == Needs::Nothing && is_accurate(variant, workload))
        .map(|variant| variant.name.clone())
        .collect()
}

fn profile_not_found(name: &str) -> Reason {
    Reason {
        code: ReasonCode::ProfileNotFound,
        message: format!(
            "there is no HardwareProfile `{name}`: `kubectl get hardwareprofiles` lists what there is"
        ),
    }
}

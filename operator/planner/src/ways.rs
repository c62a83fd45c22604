//! The ways in which a workload may be served: its variants on the profiles that they can use.

use crate::outcome::{Reason, ReasonCode};
use crate::world::{Needs, Profile, Variant, Workload, World};

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
}

/// Every way to serve a workload, best first.
pub(crate) fn build_ways<'w>(world: &'w World, workload: &'w Workload) -> Vec<Way<'w>> {
    let mut ways = Vec::new();
    for (rank, variant) in workload.variants.iter().enumerate() {
        let way = |profile_name, profile, ruled_out: Option<Reason>| Way {
            rank,
            variant,
            profile_name,
            profile,
            ruled_out: check_accuracy(variant, workload).or(ruled_out),
        };
        match &variant.needs {
            Needs::Nothing => ways.push(way(None, None, None)),
            Needs::Profiles(names) => ways.extend(names.iter().map(|name| {
                let profile = world.profiles.get(name);
                way(
                    Some(name.as_str()),
                    profile,
                    profile.is_none().then(|| profile_not_found(name)),
                )
            })),
            Needs::Class(class) => {
                let before = ways.len();
                let of_class = world
                    .profiles
                    .iter()
                    .filter(|(_, profile)| profile.class == *class);
                ways.extend(of_class.map(|(name, profile)| way(Some(name.as_str()), Some(profile), None)));
                if ways.len() == before {
                    let message = format!(
                        "no HardwareProfile is of class {}: `kubectl get hardwareprofiles` lists what there is",
                        class.as_str()
                    );
                    ways.push(way(
                        None,
                        None,
                        Some(Reason {
                            code: ReasonCode::ProfileNotFound,
                            message,
                        }),
                    ));
                }
            }
        }
    }
    ways
}

/// Whether a variant is accurate enough to serve.
pub(crate) fn is_accurate(variant: &Variant, workload: &Workload) -> bool {
    check_accuracy(variant, workload).is_none()
}

/// The variants that may stand in inside a pod after its planned one: device-less, in order.
#[must_use]
pub fn stand_ins(workload: &Workload, planned: &str) -> Vec<String> {
    let after = workload
        .variants
        .iter()
        .skip_while(|variant| variant.name != planned)
        .skip(1);
    after
        .filter(|variant| variant.needs == Needs::Nothing && is_accurate(variant, workload))
        .map(|variant| variant.name.clone())
        .collect()
}

fn check_accuracy(variant: &Variant, workload: &Workload) -> Option<Reason> {
    let (minimum, accuracy) = (workload.minimum_accuracy_permille?, variant.accuracy_permille?);
    (accuracy < minimum).then(|| Reason {
        code: ReasonCode::BelowMinimumAccuracy,
        message: format!(
            "accuracy is {accuracy} per mille, fallback.minimumAccuracyPermille asks for {minimum}"
        ),
    })
}

fn profile_not_found(name: &str) -> Reason {
    Reason {
        code: ReasonCode::ProfileNotFound,
        message: format!(
            "there is no HardwareProfile `{name}`: `kubectl get hardwareprofiles` lists what there is"
        ),
    }
}

//! What a pod adds to what its node draws.

use crate::cost::Expected;
use crate::figure::band;
use crate::index::{Index, OwnPod};
use crate::outcome::DrawSource;
use crate::world::{Profile, Workload};
use jiff::Timestamp;
use std::time::Duration;

/// What a busy core adds to what its node draws, where nobody says what a CPU variant costs: cores of
/// small boards draw 1 to 2 watts, those of servers 5 to 10. It counts for budgets alone: no variant
/// is chosen by it.
pub const CPU_MILLIWATTS_PER_CORE: i64 = 5000;

/// How long a measured draw counts.
pub const DRAW_FRESH: Duration = Duration::from_secs(120);

/// What a pod adds to what its node draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub milliwatts: i64,
    pub source: DrawSource,
}

/// What a pod of a workload adds in one way.
pub(crate) fn load_of_way(workload: &Workload, profile: Option<&Profile>, expected: &Expected) -> Load {
    let load = |milliwatts: i64, source| Load {
        milliwatts: milliwatts.max(0),
        source,
    };
    let most = profile.and_then(|profile| Some(i64::from(profile.power.max_milliwatts?) - base(profile)));
    if let Some(microwatts) = expected.microwatts {
        let milliwatts = i64::try_from(microwatts.div_ceil(1000)).unwrap_or(i64::MAX);
        return load(milliwatts.min(most.unwrap_or(i64::MAX)), DrawSource::Modelled);
    }
    let milliwatts = match profile {
        Some(profile) => {
            let power = &profile.power;
            let typical = power
                .typical_milliwatts
                .or(power.max_milliwatts)
                .or(power.idle_milliwatts);
            i64::from(typical.unwrap_or_default()) - base(profile)
        }
        None => (workload.requests.cpu_millis).saturating_mul(CPU_MILLIWATTS_PER_CORE) / 1000,
    };
    load(milliwatts, DrawSource::Nameplate)
}

/// What a device draws while nobody uses it.
pub(crate) fn base(profile: &Profile) -> i64 {
    let power = &profile.power;
    i64::from(
        power
            .sleep_milliwatts
            .or(power.idle_milliwatts)
            .unwrap_or_default(),
    )
}

/// What a foreign pod on a device adds: the most that the device can draw.
pub(crate) fn load_of_foreign(profile: &Profile) -> i64 {
    let power = &profile.power;
    let most = power
        .max_milliwatts
        .or(power.typical_milliwatts)
        .or(power.idle_milliwatts);
    (i64::from(most.unwrap_or_default()) - base(profile)).max(0)
}

/// What a pod of ours adds: as its device was measured, else as its way says, else by nameplate.
pub(crate) fn load_of_pod(index: &Index<'_>, own: &OwnPod<'_>, now: Timestamp) -> Load {
    let owned = own.owned;
    let profile = owned
        .profile
        .as_ref()
        .and_then(|name| index.world.profiles.get(name));
    if let Some((node, profile)) = own.node.zip(profile) {
        let is_own = |holder: &(_, String)| holder.0 == owned.workload && holder.1 == owned.slot;
        let held = index.node(node).devices.iter().find(|device| {
            Some(&device.profile) == owned.profile.as_ref() && device.held_by.as_ref().is_some_and(is_own)
        });
        let draw = held.and_then(|device| device.draw);
        if let Some(draw) = draw.filter(|draw| is_fresh(draw.at, now)) {
            return Load {
                milliwatts: (banded(draw.milliwatts) - base(profile)).max(0),
                source: DrawSource::Measured,
            };
        }
    }
    let ways = index.ways_of_pod(owned);
    match crate::ways::place_of(ways, &owned.variant, owned.profile.as_deref()) {
        Some(place) => ways[place].load,
        None => match profile {
            Some(profile) => nameplate(load_of_foreign(profile)),
            None => nameplate(
                own.pod
                    .requests
                    .cpu_millis
                    .saturating_mul(CPU_MILLIWATTS_PER_CORE)
                    / 1000,
            ),
        },
    }
}

pub(crate) fn nameplate(milliwatts: i64) -> Load {
    Load {
        milliwatts,
        source: DrawSource::Nameplate,
    }
}

/// The band of a measured draw.
pub(crate) fn banded(milliwatts: u32) -> i64 {
    i64::try_from(band(u64::from(milliwatts))).unwrap_or(i64::MAX)
}

pub(crate) fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    at.saturating_add(DRAW_FRESH).unwrap_or(Timestamp::MAX) > now
}

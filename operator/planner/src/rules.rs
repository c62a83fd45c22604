//! What rules a way out whatever the nodes are: priority class, accuracy, latency, precision, memory, locality,
//! the end of support. Each rule is a function from what is known to a reason or nothing.

use crate::cost::{Expected, microseconds};
use crate::explain::time;
use crate::outcome::{Reason, ReasonCode};
use crate::world::{Profile, Variant, Workload};
use jiff::Timestamp;
use perwatt_crds::workload::Locality;

/// A pod that serves leaves only when its latency misses the target by more than this.
pub const LATENCY_SLACK_PERMILLE: u64 = 100;

/// How long before the end of its support a device is warned of.
pub const SUPPORT_NOTICE: std::time::Duration = std::time::Duration::from_secs(90 * 24 * 3600);

/// What the rules look at.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub workload: &'a Workload,
    pub variant: &'a Variant,
    pub profile: Option<(&'a str, &'a Profile)>,
    pub expected: &'a Expected,
    pub now: Timestamp,
}

/// The first rule that rules a way out.
pub(crate) fn check_way(case: Case<'_>) -> Option<Reason> {
    check_priority(case.workload)
        .or_else(|| check_accuracy(case.variant, case.workload))
        .or_else(|| check_locality(case))
        .or_else(|| check_precision(case))
        .or_else(|| check_memory(case))
        .or_else(|| check_latency(case, 0))
        .or_else(|| check_support(case))
}

/// Whether a pod that serves in this way must leave it: what it was let in by may waver, or have
/// been stricter since, and that alone moves nothing that serves.
pub(crate) fn must_leave(case: Case<'_>) -> bool {
    check_accuracy(case.variant, case.workload).is_some()
        || check_locality(case).is_some()
        || check_latency(case, LATENCY_SLACK_PERMILLE).is_some()
}

fn check_priority(workload: &Workload) -> Option<Reason> {
    let message = workload.priority_refused.clone()?;
    Some(Reason {
        code: ReasonCode::PriorityClassRefused,
        message,
    })
}

pub(crate) fn check_accuracy(variant: &Variant, workload: &Workload) -> Option<Reason> {
    let (minimum, accuracy) = (workload.minimum_accuracy_permille?, variant.accuracy_permille?);
    (accuracy < minimum).then(|| Reason {
        code: ReasonCode::BelowMinimumAccuracy,
        message: format!(
            "accuracy is {accuracy} per mille, fallback.minimumAccuracyPermille asks for {minimum}"
        ),
    })
}

fn check_locality(case: Case<'_>) -> Option<Reason> {
    let locality = match case.workload.locality {
        Locality::Any => return None,
        Locality::Node => "Node",
        Locality::Site => "Site",
    };
    case.variant.remote.then(|| Reason {
        code: ReasonCode::LocalityForbids,
        message: format!("it sends data to a server elsewhere, and placement.locality is {locality}"),
    })
}

fn check_precision(case: Case<'_>) -> Option<Reason> {
    let (precision, (name, profile)) = (case.variant.precision?, case.profile?);
    let has = profile.precisions.is_empty() || profile.precisions.contains(&precision);
    (!has).then(|| {
        let has: Vec<_> = profile.precisions.iter().map(|other| other.as_str()).collect();
        Reason {
            code: ReasonCode::PrecisionNotSupported,
            message: format!(
                "it computes in {}, {name} in {}",
                precision.as_str(),
                has.join(", ")
            ),
        }
    })
}

fn check_memory(case: Case<'_>) -> Option<Reason> {
    let (needed, (name, profile)) = (case.variant.memory_bytes?, case.profile?);
    let has = profile.memory_bytes?;
    (needed > has).then(|| Reason {
        code: ReasonCode::DeviceMemoryTooSmall,
        message: format!(
            "it takes {} of device memory, {name} has {}",
            mebi(needed),
            mebi(has)
        ),
    })
}

fn mebi(bytes: i64) -> String {
    const KIB: i64 = 1024;
    if bytes % (KIB * KIB) == 0 {
        format!("{}Mi", bytes / (KIB * KIB))
    } else {
        format!("{}Ki", bytes / KIB)
    }
}

fn check_latency(case: Case<'_>, slack_permille: u64) -> Option<Reason> {
    let target = microseconds(case.workload.latency_p99?);
    let found = case.expected.p99_microseconds?;
    let most = u128::from(target) * u128::from(1000 + slack_permille) / 1000;
    (u128::from(found.value) > most).then(|| Reason {
        code: ReasonCode::LatencyTargetMissed,
        message: format!(
            "p99 is {} ({}), placement.latency.p99 asks for {}",
            millis(found.value),
            found.words(),
            millis(target)
        ),
    })
}

/// Microseconds as milliseconds.
pub(crate) fn millis(microseconds: u64) -> String {
    let (whole, thousandths) = (microseconds / 1000, microseconds % 1000);
    let text = format!("{whole}.{thousandths:03}");
    format!("{}ms", text.trim_end_matches('0').trim_end_matches('.'))
}

fn check_support(case: Case<'_>) -> Option<Reason> {
    let (name, profile) = case.profile?;
    let until = profile.supported_until.filter(|until| *until <= case.now)?;
    Some(Reason {
        code: ReasonCode::SupportEnded,
        message: format!(
            "support of {name} ended {}: it keeps what it serves, and gets nothing new",
            time(until)
        ),
    })
}

/// That the support of a device ends soon, or ended.
pub(crate) fn support_notice(profile: Option<(&str, &Profile)>, now: Timestamp) -> Option<String> {
    let (name, profile) = profile?;
    let until = profile.supported_until?;
    let soon = now.saturating_add(SUPPORT_NOTICE).unwrap_or(Timestamp::MAX);
    let verb = if until <= now { "ended" } else { "ends" };
    (until <= soon).then(|| format!("support of {name} {verb} {}", time(until)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_read_well() {
        assert_eq!(millis(3_000), "3ms");
        assert_eq!(millis(12_340), "12.34ms");
        assert_eq!(millis(7), "0.007ms");
    }
}

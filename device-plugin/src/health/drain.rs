//! A device that a person takes out of use, whatever it says of itself.
//!
//! Put over what is shown, and no finding among others: it needs no settling, a device that is lost
//! or silent is drained all the same, and one that is put back is at once what it is. What the device
//! itself is stays known: its runtime may go on with one that works.

use super::View;
use crate::discovery::Found;
use perwatt_crds::inventory::{DeviceHealth, HealthDimension, HealthReason, Recovery};
use perwatt_crds::text::tidy;

/// The view of a device, drained where a person wants it so.
pub(super) fn drain(found: &Found, view: View) -> View {
    let Some(why) = &found.drained else {
        return view;
    };
    let because = match why.trim() {
        "" => String::new(),
        why => format!(" ({why})"),
    };
    let message = format!(
        "device {} is taken out of use{because}: put it back with `kubectl perwatt uncordon-device NODE/{0}`",
        found.id
    );
    let drained = HealthReason {
        dimension: HealthDimension::Drained,
        message: tidy(&message, 1024),
        recovery: Recovery::Person,
    };
    View {
        health: DeviceHealth::Unhealthy,
        usable: false,
        reasons: std::iter::once(drained).chain(view.reasons).collect(),
        ..view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::health::Judge;
    use crate::paths::Paths;
    use std::path::Path;
    use std::time::Instant;

    #[test]
    fn a_drained_device_is_unhealthy_until_it_is_put_back_and_then_at_once_what_it_is() {
        let mut found = fixtures::found(&Paths::below(Path::new("/nowhere")));
        let mut judge = Judge::default();
        let now = Instant::now();
        let mut judged = |found: &Found| judge.judge(found, fixtures::well(), now).view;
        assert!(judged(&found).usable);
        found.drained = Some("its fan is changed".into());
        let view = judged(&found);
        assert_eq!((view.health, view.usable), (DeviceHealth::Unhealthy, false));
        assert_eq!(view.own_health, DeviceHealth::Healthy);
        let reason = &view.reasons[0];
        assert_eq!(
            (reason.dimension, reason.recovery),
            (HealthDimension::Drained, Recovery::Person)
        );
        assert!(reason.message.contains("(its fan is changed)"), "{reason:?}");
        found.drained = None;
        let view = judged(&found);
        assert_eq!((view.health, view.usable), (DeviceHealth::Healthy, true));
        assert_eq!(view.reasons, vec![]);
    }

    #[test]
    fn a_drained_device_without_answer_is_not_merely_unknown() {
        let mut found = fixtures::found(&Paths::below(Path::new("/nowhere")));
        found.drained = Some(String::new());
        let silent = crate::discovery::Reading::stale("no answer".into());
        let view = Judge::resume(true).judge(&found, silent, Instant::now()).view;
        assert_eq!((view.health, view.usable), (DeviceHealth::Unhealthy, false));
        assert_eq!(view.own_health, DeviceHealth::Unknown);
        let dimensions: Vec<_> = view.reasons.iter().map(|reason| reason.dimension).collect();
        assert_eq!(
            dimensions,
            [HealthDimension::Drained, HealthDimension::Unmonitored]
        );
    }
}

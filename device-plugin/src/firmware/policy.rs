//! What a profile says of firmware and driver, and whether a device keeps to it. Pure.

use super::Version;
use perwatt_crds::profile::{DriverPolicy, FirmwarePolicy};

/// How a device breaks the policy of its profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Set when the device must not be used at all; else it keeps its pods and gets no new ones.
    pub forbidden: bool,
    /// What is wrong and what to do, for a person; begins with `firmware` or `driver`.
    pub text: String,
}

/// What is wrong with the firmware of a device, the gravest first; nothing where the policy is kept.
#[must_use]
pub fn check(policy: &FirmwarePolicy, firmware: Option<&str>, driver: Option<&str>) -> Option<Violation> {
    check_blocked(policy, firmware)
        .or_else(|| check_driver(policy, firmware, driver))
        .or_else(|| check_range(policy, firmware))
}

fn forbids(text: String) -> Option<Violation> {
    Some(Violation {
        forbidden: true,
        text,
    })
}

fn warns(text: String) -> Option<Violation> {
    Some(Violation {
        forbidden: false,
        text,
    })
}

fn check_blocked(policy: &FirmwarePolicy, firmware: Option<&str>) -> Option<Violation> {
    let firmware = firmware?;
    let version = Version::parse(firmware);
    let is_blocked = |blocked: &&String| {
        blocked.trim() == firmware.trim() || version.is_some() && Version::parse(blocked) == version
    };
    let blocked = policy.blocked.iter().find(is_blocked)?;
    forbids(format!(
        "firmware {firmware} is blocked by the profile (firmware.blocked has {blocked}); install another one"
    ))
}

fn check_driver(policy: &FirmwarePolicy, firmware: Option<&str>, driver: Option<&str>) -> Option<Violation> {
    if policy.driver != DriverPolicy::MustMatch {
        return None;
    }
    let (Some(firmware), Some(driver)) = (firmware, driver) else {
        let missing = if firmware.is_none() { "firmware" } else { "driver" };
        return warns(format!(
            "{missing} version is not told by the kernel, and the profile wants driver and firmware to match (firmware.driver MustMatch); leave the rule out, or have a probe tell the version"
        ));
    };
    match (Version::parse(firmware), Version::parse(driver)) {
        (Some(one), Some(two)) if one.matches(&two) => None,
        (Some(_), Some(_)) => forbids(format!(
            "driver {driver} does not match firmware {firmware}, as the profile demands (firmware.driver MustMatch); install the two of one release"
        )),
        (one, _) => {
            let (name, text) = if one.is_none() {
                ("firmware", firmware)
            } else {
                ("driver", driver)
            };
            warns(format!(
                "{name} version {text:?} cannot be compared: it is no row of numbers; the profile wants driver and firmware to match"
            ))
        }
    }
}

fn check_range(policy: &FirmwarePolicy, firmware: Option<&str>) -> Option<Violation> {
    let bounds: Vec<_> = [("minimum", &policy.minimum), ("maximum", &policy.maximum)]
        .into_iter()
        .filter_map(|(name, bound)| Some((name, bound.as_deref()?)))
        .collect();
    let (name, bound) = *bounds.first()?;
    let Some(firmware) = firmware else {
        return warns(format!(
            "firmware version is not told by the kernel, and the profile has a firmware.{name} of {bound}; leave the rule out, or have a probe tell the version"
        ));
    };
    let Some(version) = Version::parse(firmware) else {
        return warns(format!(
            "firmware version {firmware:?} cannot be compared with the firmware.{name} {bound} of the profile: it is no row of numbers"
        ));
    };
    bounds
        .into_iter()
        .find_map(|(name, bound)| check_bound(name, bound, firmware, &version))
}

fn check_bound(name: &str, text: &str, firmware: &str, version: &Version) -> Option<Violation> {
    let Some(bound) = Version::parse(text) else {
        return warns(format!(
            "firmware.{name} {text:?} of the profile is no version: write one such as \"4.17.0\""
        ));
    };
    let (older, word) = match name {
        "minimum" if *version < bound => ("older", "oldest"),
        "maximum" if *version > bound && !version.matches(&bound) => ("newer", "newest"),
        _ => return None,
    };
    let why = version
        .difference(&bound)
        .map_or(String::new(), |(place, one, two)| {
            let (more, nth) = (if one < two { "less" } else { "more" }, ordinal(place));
            format!(" (its {nth} number, {one}, is {more} than {two})")
        });
    warns(format!(
        "firmware {firmware} is {older} than {text}, the {word} that the profile allows (firmware.{name}){why}; install another one"
    ))
}

fn ordinal(place: usize) -> String {
    match place {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        other => format!("{other}th"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(yaml: &str) -> FirmwarePolicy {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn check_text(yaml: &str, firmware: Option<&str>, driver: Option<&str>) -> (bool, String) {
        let found = check(&policy(yaml), firmware, driver).unwrap();
        (found.forbidden, found.text)
    }

    const HAILO: &str = "{minimum: '4.17.0', maximum: '4.20', blocked: ['4.18.1'], driver: MustMatch}";

    #[test]
    fn what_keeps_to_the_policy_is_no_finding() {
        for firmware in ["4.17.0 (release,app)", "4.19.3", "4.20.9"] {
            assert_eq!(
                check(&policy(HAILO), Some(firmware), Some(firmware)),
                None,
                "{firmware}"
            );
        }
        assert_eq!(check(&FirmwarePolicy::default(), None, None), None);
        assert_eq!(check(&policy("{minimum: '9.0'}"), Some("10.0"), None), None);
    }

    #[test]
    fn a_blocked_or_mismatched_one_is_forbidden() {
        let (forbidden, text) = check_text(HAILO, Some("4.18.1"), Some("4.18.1"));
        assert!(forbidden && text.contains("blocked"), "{text}");
        let (forbidden, text) = check_text(HAILO, Some("4.17.0 (release,app)"), Some("4.18.0"));
        assert!(
            forbidden && text.starts_with("driver 4.18.0 does not match firmware 4.17.0"),
            "{text}"
        );
        // Even one that is no version can be blocked, by its very text.
        assert!(check_text("{blocked: [beef]}", Some("beef"), None).0);
    }

    #[test]
    fn one_out_of_range_says_which_number_decides() {
        let (forbidden, text) = check_text("{minimum: '10.0'}", Some("9.1"), None);
        assert!(!forbidden, "it keeps its pods");
        assert!(
            text.contains("9.1 is older than 10.0") && text.contains("first number, 9, is less than 10"),
            "{text}"
        );
        let (_, text) = check_text("{maximum: '4.20'}", Some("4.21.0"), None);
        assert!(
            text.contains("newer than 4.20") && text.contains("second number, 21, is more than 20"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_told_or_not_understood_never_passes() {
        for yaml in ["{minimum: '1.0'}", "{maximum: '1.0'}", "{driver: MustMatch}"] {
            let (_, text) = check_text(yaml, None, Some("1.0"));
            assert!(text.contains("not told"), "{text}");
            let (_, text) = check_text(yaml, Some("Jan 23 2025"), Some("1.0"));
            assert!(text.contains("cannot be compared"), "{text}");
        }
        let (_, text) = check_text("{minimum: 'Jan 23 2025'}", Some("1.0"), None);
        assert!(text.contains("is no version"), "{text}");
    }
}

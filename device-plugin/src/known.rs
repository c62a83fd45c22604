//! What the agent knows from the API server: its node and the hardware profiles.

use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::profile::Provider;
use perwatt_crds::text::tidy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is kept of the reason of a drain, in bytes.
const DRAIN_REASON_BYTES: usize = 200;

/// The node that the agent runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Name of the Node object.
    pub name: String,
    /// Its uid, by which the inventory is owned.
    #[serde(default)]
    pub uid: Option<String>,
    /// Its labels, which profiles choose nodes by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Devices that a person takes out of use, by id, each with the reason that they gave.
    #[serde(default)]
    pub drained: BTreeMap<String, String>,
}

/// The devices that a node's annotations take out of use.
#[must_use]
pub fn read_drained(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let devices = annotations.iter().filter_map(|(name, reason)| {
        let id = name.strip_prefix(perwatt_crds::names::ANNOTATION_DRAIN)?;
        Some((id.to_owned(), tidy(reason, DRAIN_REASON_BYTES)))
    });
    devices.collect()
}

/// Everything that decides which devices this node serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// The node.
    pub node: NodeFacts,
    /// Every profile, by name.
    pub profiles: BTreeMap<String, HardwareProfileSpec>,
}

/// The profiles by what this agent does with their devices.
#[derive(Clone, Debug, Default)]
pub struct Split<'a> {
    /// It registers them.
    pub served: BTreeMap<&'a str, &'a HardwareProfileSpec>,
    /// Another plugin registers them; they are found and reported.
    pub observed: BTreeMap<&'a str, &'a HardwareProfileSpec>,
    /// It must not register them although they ask for it: each with the reason.
    pub refused: Vec<String>,
}

impl<'a> Split<'a> {
    /// Those whose devices are looked for.
    #[must_use]
    pub fn found(&self) -> BTreeMap<&'a str, &'a HardwareProfileSpec> {
        let all = self.served.iter().chain(&self.observed);
        all.map(|(name, spec)| (*name, *spec)).collect()
    }
}

impl Known {
    /// The profiles by what this agent does with their devices.
    #[must_use]
    pub fn split_profiles(&self) -> Split<'_> {
        let mut split = Split::default();
        let mut resources: BTreeMap<String, &str> = BTreeMap::new();
        for (name, spec) in &self.profiles {
            if spec.provider == Provider::External {
                split.observed.insert(name.as_str(), spec);
                continue;
            }
            let resource = resource_name(name, spec);
            match resources.get(&resource) {
                Some(first) => split.refused.push(format!(
                    "profile {name} is not served: its resource {resource} is already that of profile {first}; give one of them another resourceName"
                )),
                None => {
                    resources.insert(resource, name);
                    split.served.insert(name.as_str(), spec);
                }
            }
        }
        split
    }
}

/// The extended resource under which the kubelet knows the devices of a profile.
#[must_use]
pub fn resource_name(profile: &str, spec: &HardwareProfileSpec) -> String {
    spec.resource_name
        .clone()
        .unwrap_or_else(|| format!("{}/{profile}", perwatt_crds::names::GROUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::profile;

    #[test]
    fn a_reason_of_a_drain_is_one_short_line() {
        let annotation = |id: &str, reason: &str| (format!("drain.perwatt.dev/{id}"), reason.to_owned());
        let annotations = [
            annotation("chip-0", "a fan\n\u{1b}[2Jis changed\n"),
            annotation("chip-1", &"é".repeat(100_000)),
            annotation("chip-2", "\0"),
        ];
        let drained = read_drained(&annotations.into());
        assert_eq!(drained["chip-0"], "a fan  [2Jis changed");
        assert!(drained["chip-1"].len() <= 200 && drained["chip-1"].ends_with("é…"));
        assert_eq!(drained["chip-2"], "");
    }

    #[test]
    fn a_resource_is_served_once_and_external_profiles_never() {
        let mut known = Known::default();
        known.profiles.insert("one".into(), profile(1));
        let mut same = profile(1);
        same.resource_name = Some("perwatt.dev/one".into());
        known.profiles.insert("two".into(), same);
        let mut external = profile(1);
        external.provider = Provider::External;
        external.resource_name = Some("nvidia.com/gpu".into());
        known.profiles.insert("gpu".into(), external);
        let Split {
            served,
            observed,
            refused,
        } = known.split_profiles();
        assert_eq!(served.keys().copied().collect::<Vec<_>>(), ["one"]);
        assert_eq!(observed.keys().copied().collect::<Vec<_>>(), ["gpu"]);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].contains("profile two"), "{refused:?}");
    }
}

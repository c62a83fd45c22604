//! What a workload's PriorityClass means: a number for the planner, or why it is refused.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::ResourceExt;
use perwatt_crds::{InferenceWorkloadSpec, names};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The cluster's PriorityClasses. A cluster has some of its own: none means that nobody read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Priorities(BTreeMap<String, Class>);

/// One class.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    value: i32,
    /// What kube-scheduler does for its pods where nothing is free.
    preemption_policy: String,
    is_default: bool,
}

impl Priorities {
    /// The priorities that these classes give.
    #[must_use]
    pub fn of(classes: &[Arc<PriorityClass>]) -> Self {
        let classes = classes.iter().map(|class| {
            let known = Class {
                value: class.value,
                preemption_policy: class
                    .preemption_policy
                    .clone()
                    .unwrap_or_else(|| "PreemptLowerPriority".to_owned()),
                is_default: class.global_default.unwrap_or(false),
            };
            (class.name_any(), known)
        });
        Self(classes.collect())
    }

    /// The class of a workload's pods: the one that it names, else the chart's ordinary one where
    /// that exists, because a pod without a class may preempt others.
    #[must_use]
    pub fn class<'a>(&self, spec: &'a InferenceWorkloadSpec) -> Option<&'a str> {
        let named = spec.runtime.priority_class_name.as_deref();
        let usual = names::PRIORITY_CLASS_NORMAL;
        named.or_else(|| self.0.contains_key(usual).then_some(usual))
    }

    /// Whether a workload goes before another: the higher value does.
    ///
    /// # Errors
    /// Why its class must not be used, for a person.
    pub fn resolve(&self, spec: &InferenceWorkloadSpec) -> Result<i32, String> {
        let Some(name) = self.class(spec).filter(|_| !self.0.is_empty()) else {
            let default = self.0.values().find(|class| class.is_default);
            return Ok(default.map_or(0, |class| class.value));
        };
        let Some(class) = self.0.get(name) else {
            return Err(format!(
                "there is no PriorityClass `{name}`: `kubectl get priorityclasses` lists what there is"
            ));
        };
        if class.preemption_policy != "Never" {
            return Err(format!(
                "PriorityClass `{name}` has preemptionPolicy {}, by which kube-scheduler ends what serves without \
                 a bridge: name {}, {} or {}, or one of your own with preemptionPolicy Never",
                class.preemption_policy,
                names::PRIORITY_CLASS_LOW,
                names::PRIORITY_CLASS_NORMAL,
                names::PRIORITY_CLASS_HIGH,
            ));
        }
        Ok(class.value)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn classes() -> Priorities {
        let class = |name: &str, value: i32, policy: Option<&str>| {
            Arc::new(
                serde_json::from_value::<PriorityClass>(
                    json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": policy}),
                )
                .unwrap(),
            )
        };
        Priorities::of(&[
            class("perwatt-normal", 2000, Some("Never")),
            class("calm", 70, Some("Never")),
            class("pushy", 90, None),
        ])
    }

    fn spec(class: Option<&str>) -> InferenceWorkloadSpec {
        serde_json::from_value(json!({
            "model": {"image": "registry.example/gate@sha256:0"},
            "variants": [],
            "runtime": {"priorityClassName": class},
        }))
        .unwrap()
    }

    #[test]
    fn a_workload_has_the_value_of_its_class_and_of_the_ordinary_one_where_it_names_none() {
        let classes = classes();
        assert_eq!(classes.resolve(&spec(Some("calm"))), Ok(70));
        assert_eq!(classes.resolve(&spec(None)), Ok(2000));
        assert_eq!(classes.class(&spec(None)), Some("perwatt-normal"));
    }

    #[test]
    fn a_class_that_preempts_or_does_not_exist_is_refused_with_what_to_do() {
        let pushy = classes().resolve(&spec(Some("pushy"))).unwrap_err();
        assert!(pushy.contains("preemptionPolicy PreemptLowerPriority"), "{pushy}");
        assert!(
            pushy.contains("name perwatt-low, perwatt-normal or perwatt-high"),
            "{pushy}"
        );
        let missing = classes().resolve(&spec(Some("gone"))).unwrap_err();
        assert!(missing.contains("there is no PriorityClass `gone`"), "{missing}");
    }

    #[test]
    fn where_nobody_read_the_classes_none_is_refused() {
        let unread = Priorities::default();
        assert_eq!(unread.resolve(&spec(Some("calm"))), Ok(0));
        assert_eq!(unread.class(&spec(None)), None);
    }
}

//! Bugs between the operator and the server, planted to see that they are caught.

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bug {
    /// A create is answered, and not carried out.
    DropCreate,
    /// A delete is answered, and not carried out.
    DropDelete,
    /// A status is answered, and not written.
    DropStatus,
    /// A service is answered, and not written.
    DropService,
    /// A disruption budget is answered, and not written.
    DropBudget,
    /// A revision is answered, and not written.
    DropRevision,
    /// Pods are made without their owner.
    ForgetOwner,
    /// Pods are made without the device they were planned on.
    ForgetDevice,
    /// Pods are made out of reach of their Service.
    ForgetTraffic,
    /// Pods are made for any node.
    ForgetNode,
    /// Pods are made without their slot.
    ForgetSlot,
    /// The status tells of no generation.
    ForgetGeneration,
    /// Every pod is made twice.
    CreateTwice,
    /// A slot's old pod goes when its new one is made, not when it serves.
    DeleteFirst,
    /// Every status is written with a change of its own.
    HotLoop,
    /// What was seen of devices is never seen again.
    MissDevices,
    /// What was seen of workloads is never seen again.
    MissWorkloads,
    /// What was seen of services is never seen again.
    MissServices,
    /// What was seen of disruption budgets is never seen again.
    MissBudgets,
    /// What was seen of nodes is never seen again.
    MissNodes,
    /// A list of pods is answered as if there were none.
    EmptyLists,
    /// A pod is deleted though it changed since it was seen.
    DeleteChanged,
    /// A survivor is said to serve whether it does or not.
    TrustSurvivor,
    /// A status is written with a change to what the user wants.
    WriteSpec,
    /// Pods run the model that the first revision ran.
    KeepModel,
    /// Pods of one workload are made for the other.
    MixOwners,
}

/// All of them.
pub const ALL: [Bug; 26] = [
    Bug::DropCreate,
    Bug::DropDelete,
    Bug::DropStatus,
    Bug::DropService,
    Bug::DropBudget,
    Bug::DropRevision,
    Bug::ForgetOwner,
    Bug::ForgetDevice,
    Bug::ForgetTraffic,
    Bug::ForgetNode,
    Bug::ForgetSlot,
    Bug::ForgetGeneration,
    Bug::CreateTwice,
    Bug::DeleteFirst,
    Bug::HotLoop,
    Bug::MissDevices,
    Bug::MissWorkloads,
    Bug::MissServices,
    Bug::MissBudgets,
    Bug::MissNodes,
    Bug::EmptyLists,
    Bug::DeleteChanged,
    Bug::TrustSurvivor,
    Bug::WriteSpec,
    Bug::KeepModel,
    Bug::MixOwners,
];

impl Bug {
    /// Spoils a pod that is to be made.
    pub fn spoil(self, pod: &mut Value, first_image: &str, other_owner: &Value) {
        match self {
            Self::ForgetTraffic => pod["metadata"]["labels"]["perwatt.dev/traffic"] = json!("false"),
            Self::ForgetNode => pod["spec"]["affinity"] = json!({}),
            Self::ForgetSlot => pod["metadata"]["annotations"]["perwatt.dev/slot"] = json!(""),
            Self::ForgetOwner => pod["metadata"]["ownerReferences"] = json!([]),
            Self::ForgetDevice => pod["spec"]["containers"][0]["resources"] = json!({}),
            Self::KeepModel => {
                for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
                    if !volume["image"].is_null() {
                        volume["image"]["reference"] = json!(first_image);
                    }
                }
            }
            Self::MixOwners if !other_owner.is_null() => {
                pod["metadata"]["ownerReferences"][0]["uid"] = other_owner["metadata"]["uid"].clone();
                pod["metadata"]["ownerReferences"][0]["name"] = other_owner["metadata"]["name"].clone();
            }
            _ => {}
        }
    }

    /// Spoils a status that is to be written; `version` is no other's.
    pub fn spoil_status(self, workload: &mut Value, version: u64) {
        match self {
            Self::ForgetGeneration => workload["status"]["observedGeneration"] = json!(0),
            Self::HotLoop => workload["status"]["revision"] = json!(version.to_string()),
            Self::WriteSpec => workload["spec"]["replicas"] = json!(1),
            _ => {}
        }
    }
}

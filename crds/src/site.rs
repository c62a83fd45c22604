//! `EdgeSite`: nodes that stand in one place and share its power.

use crate::profile::NodeLabels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nodes that stand in one place and share its power. A cluster with one site needs none.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "perwatt.dev",
    version = "v1alpha1",
    kind = "EdgeSite",
    plural = "edgesites",
    shortname = "site",
    category = "perwatt",
    status = "EdgeSiteStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Nodes that stand in one place and share its power. A cluster with one site needs none. Cluster-scoped.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name is a value of the node label topology.kubernetes.io/zone: use at most 63 characters"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes", description = "Nodes of the site"),
    printcolumn(name = "Planned mW", type_ = "integer", json_path = ".status.plannedMilliwatts", description = "What its devices and inference on its CPUs are planned to draw"),
    printcolumn(name = "Budget mW", type_ = "integer", json_path = ".spec.power.siteMilliwatts", description = "What they may draw"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.status", description = "What is wrong, or Ready"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EdgeSiteSpec {
    /// Nodes of the site. Left out: those whose label topology.kubernetes.io/zone is the site's name. A node that a site
    /// selects belongs to it whatever its label says; no two sites may select one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeLabels>,
    /// What the site and each of its nodes may draw, as planned: no hardware is told to keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<SitePower>,
}

/// Power budgets. Counted are devices (those of foreign pods at their maximum) and what inference costs on CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.siteMilliwatts) || has(self.nodeMilliwatts)").message("power holds a budget: give siteMilliwatts or nodeMilliwatts, or leave power out"))]
pub struct SitePower {
    /// All nodes of the site together, in milliwatts.
    #[schemars(range(min = 1, max = 2_000_000_000_u64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_milliwatts: Option<u64>,
    /// Each node of the site, in milliwatts.
    #[schemars(range(min = 1, max = 2_000_000_000_u64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_milliwatts: Option<u64>,
}

/// What a site holds and draws.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeSiteStatus {
    /// The generation of the site that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes of the site.
    #[serde(default)]
    pub nodes: u32,
    /// What its devices and inference on its CPUs are planned to draw, in milliwatts.
    #[serde(default)]
    pub planned_milliwatts: u64,
    /// What is wrong in one word, or Ready.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub status: String,
    /// Ready.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The node label that names a site where no `EdgeSite` selects the node.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl EdgeSite {
    /// Whether a node with these labels is of this site by its own selector.
    #[must_use]
    pub fn selects(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.spec
            .nodes
            .as_ref()
            .is_some_and(|nodes| nodes.matches(labels))
    }
}

//! Figures of latency and energy: what a workload declares, and what its runtimes measured.

use crate::schema;
use kube::KubeSchema;
use kube::core::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a figure comes from.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum FigureSource {
    /// A sensor.
    Measured,
    /// A model of the device.
    Modelled,
    /// The maker's data sheet.
    #[default]
    Nameplate,
}

impl FigureSource {
    /// The name as people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Modelled => "modelled",
            Self::Nameplate => "nameplate",
        }
    }
}

/// What a variant costs, as its author knows it. What runtimes measure counts more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.p99) || has(self.microjoulesPerInference)").message("performance holds a figure: give p99 (such as 3ms) or microjoulesPerInference, or leave performance out"))]
pub struct Performance {
    /// Latency of an inference, 99th percentile, such as 3ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_duration")]
    pub p99: Option<Duration>,
    /// Energy of an inference, in microjoules; of a CPU, what it draws beyond an idle one.
    #[schemars(range(min = 0, max = 1_000_000_000_000_u64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microjoules_per_inference: Option<u64>,
    /// Where these figures come from.
    #[serde(default)]
    pub source: FigureSource,
}

/// What the runtimes of a workload found of one variant on one kind of device, in bands of a tenth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeasuredFigure {
    /// The variant.
    #[schemars(length(min = 1, max = 32))]
    pub variant: String,
    /// The profile of the device; `-` for a variant without one.
    #[schemars(length(min = 1, max = 63))]
    pub profile: String,
    /// Energy of an inference, in microjoules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microjoules_per_inference: Option<u64>,
    /// Latency of an inference, 99th percentile, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_microseconds: Option<u64>,
    /// Where the energy comes from.
    #[serde(default)]
    pub source: FigureSource,
    /// Whether the device is emulated: then no energy is measured.
    #[serde(default)]
    pub emulated: bool,
}

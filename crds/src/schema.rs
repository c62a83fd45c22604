//! Schema fragments shared by the custom resources.

use kube::core::Duration as KubeDuration;
use schemars::{Schema, SchemaGenerator, json_schema};
use std::time::Duration;

/// A duration as Kubernetes writes it (`1m30s`), not negative.
#[must_use]
pub fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$",
    })
}

/// The same, for an optional field.
#[must_use]
pub fn optional_duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "nullable": true,
        "maxLength": 32,
        "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$",
    })
}

/// A label selector with its lists bounded.
#[must_use]
pub fn match_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

/// An API duration as a standard one; a negative value (the schema refuses it) counts as zero.
#[must_use]
pub fn to_std(duration: &KubeDuration) -> Duration {
    if duration.is_negative() {
        Duration::ZERO
    } else {
        Duration::from(*duration)
    }
}

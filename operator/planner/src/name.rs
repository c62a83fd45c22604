//! Names that are functions of what they name.

use crate::outcome::Assignment;
use crate::world::Role;
use sha2::{Digest, Sha256};

/// Name of a pod: a function of its slot, revision, variant, node, role and attempt, so that a
/// repeated create is refused. At most 63 characters for a workload's name of 48.
#[must_use]
pub fn pod_name(workload: &str, slot: &str, assignment: &Assignment, role: Role, attempt: u32) -> String {
    let parts = [
        slot,
        &assignment.revision,
        &assignment.variant,
        &assignment.node,
        role.as_str(),
    ];
    format!("{workload}-{}-{attempt}", hash(&parts, 4))
}

/// A slot as a label value: ten hexadecimal digits, whatever the slot's length.
#[must_use]
pub fn slot_hash(slot: &str) -> String {
    hash(&[slot], 5)
}

fn hash(parts: &[&str], bytes: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(bytes)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

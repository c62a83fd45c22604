//! NVIDIA's XID errors: which of them say that a GPU must not be used, by NVIDIA's catalogue
//! (<https://docs.nvidia.com/deploy/xid-errors/>). Errors of an application are none of ours.

use crate::discovery::Fault;
use nvml_wrapper::enums::event::XidError;
use perwatt_crds::inventory::{DeviceHealth, Recovery};

/// What an XID means.
const KNOWN: [(u64, bool, &str); 8] = [
    (48, true, "a memory error that cannot be mended"),
    (63, false, "a memory row that waits to be replaced"),
    (64, true, "a memory row that could not be replaced"),
    (79, true, "it has fallen off its bus"),
    (94, false, "a memory error that one application alone saw"),
    (95, true, "a memory error that all applications may have seen"),
    (119, true, "its own processor gives no answer"),
    (120, true, "its own processor stopped with an error"),
];

/// The number of an event.
pub(super) fn number(event: Option<XidError>) -> Option<u64> {
    match event? {
        XidError::Value(number) => Some(number),
        XidError::Unknown => None,
    }
}

/// 2 where the GPU must not be used, 1 where it must be reset some time, 0 for all else.
pub(super) fn gravity(number: u64) -> u8 {
    match KNOWN.iter().find(|(known, ..)| *known == number) {
        Some((_, true, _)) => 2,
        Some((_, false, _)) => 1,
        None => 0,
    }
}

/// What an XID makes of the GPU; nothing where an application caused it.
pub(super) fn fault(number: u64) -> Option<Fault> {
    let (_, grave, what) = KNOWN.iter().find(|(known, ..)| *known == number)?;
    let health = if *grave {
        DeviceHealth::Unhealthy
    } else {
        DeviceHealth::Degraded
    };
    Some(Fault {
        health,
        recovery: Recovery::Reboot,
        text: format!("reported XID {number} ({what}): reset it, or restart the node"),
    })
}

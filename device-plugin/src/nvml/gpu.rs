//! What NVIDIA's library tells of one GPU. Called by the library's thread alone.

use super::xid;
use crate::discovery::{Fault, Field, Reading};
use crate::telemetry::{Busy, EnergyCounter, Memory, Telemetry, Throttle};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use perwatt_crds::inventory::{DeviceHealth, Recovery};
use perwatt_crds::text::tidy;

/// The library writes eight digits of domain where sysfs writes four.
pub(super) fn address(bus_id: &str) -> String {
    let id = bus_id.to_ascii_lowercase();
    match id.strip_prefix("0000").filter(|rest| rest.find(':') == Some(4)) {
        Some(rest) => rest.to_owned(),
        None => id,
    }
}

/// What the GPU at `address` tells, and what its last grave event makes of it.
pub(super) fn read(nvml: &Nvml, address: &str, xid: Option<u64>) -> Result<Reading, NvmlError> {
    let device = match nvml.device_by_pci_bus_id(address) {
        Err(NvmlError::GpuLost) => return Ok(lost()),
        device => device?,
    };
    // Asked first: a GPU that is lost answers nothing else either.
    let temperature = match device.temperature(TemperatureSensor::Gpu) {
        Err(NvmlError::GpuLost) => return Ok(lost()),
        Err(error @ (NvmlError::NotFound | NvmlError::Uninitialized | NvmlError::DriverNotLoaded)) => {
            return Err(error);
        }
        told => field(told, "temperature", |degrees| {
            i32::try_from(degrees).ok()?.checked_mul(1000)
        }),
    };
    let mut complaints = Vec::new();
    let telemetry = telemetry(&device, &mut complaints);
    let mut faults: Vec<_> = xid.and_then(xid::fault).into_iter().collect();
    faults.extend(memory_faults(&device));
    Ok(Reading {
        present: Field::Value(true),
        temperature,
        power: field(device.power_usage(), "power", |milliwatts| {
            (milliwatts <= 2_000_000).then_some(milliwatts)
        }),
        firmware: field(device.vbios_version(), "VBIOS version", |version| {
            Some(tidy(&version, 64))
        }),
        bus: crate::bus::Bus {
            driver: Some(Some("nvidia".into())),
            driver_version: nvml.sys_driver_version().ok().map(|version| tidy(&version, 64)),
            ..Default::default()
        },
        telemetry: Telemetry {
            complaints,
            ..telemetry
        },
        faults,
        ..Reading::silent(Ok((0, 0)))
    })
}

/// Of a GPU that its driver has lost: it does not come back by itself.
fn lost() -> Reading {
    gone(
        Recovery::Reboot,
        "is lost: NVIDIA's driver cannot reach it any more (GPU_IS_LOST); restart the node, and check power and seat if it comes again",
    )
}

/// Of a GPU that its driver listed before, and does not any more: it may come back.
pub(super) fn unlisted() -> Reading {
    gone(
        Recovery::Replug,
        "is gone: NVIDIA's driver does not list it any more",
    )
}

fn gone(recovery: Recovery, text: &str) -> Reading {
    let fault = Fault {
        health: DeviceHealth::Unhealthy,
        recovery,
        text: text.to_owned(),
    };
    Reading {
        present: Field::Value(false),
        faults: vec![fault],
        ..Reading::silent(Ok((0, 0)))
    }
}

/// What a GPU does not support it does not tell; any other error is a complaint.
fn field<T, U>(told: Result<T, NvmlError>, what: &str, convert: impl Fn(T) -> Option<U>) -> Field<U> {
    match told {
        Ok(value) => convert(value).map_or_else(
            || Field::Invalid(format!("NVIDIA's library tells a {what} that cannot be")),
            Field::Value,
        ),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => {
            Field::Absent
        }
        Err(error) => Field::Invalid(format!("NVIDIA's library tells no {what}: {error}")),
    }
}

fn telemetry(device: &Device<'_>, complaints: &mut Vec<String>) -> Telemetry {
    let mut keep = |what: &str, told: Result<u64, NvmlError>| {
        crate::telemetry::files::keep(field(told, what, Some), complaints)
    };
    let clock = keep("clock", device.clock_info(Clock::SM).map(u64::from));
    let limit = keep("fastest clock", device.max_clock_info(Clock::SM).map(u64::from));
    // The library counts millijoules.
    let energy = keep("energy", device.total_energy_consumption());
    let busy = keep(
        "utilisation",
        device.utilization_rates().map(|rates| rates.gpu.into()),
    );
    let shutdown = device.temperature_threshold(TemperatureThreshold::Shutdown);
    let critical = shutdown.ok().filter(|degrees| (20..=200).contains(degrees));
    Telemetry {
        energy: energy.map(|millijoules| EnergyCounter {
            microjoules: millijoules.saturating_mul(1000),
            range: None,
        }),
        busy: busy.and_then(|percent| Some(Busy::Permille(u16::try_from(percent.min(100)).ok()? * 10))),
        clock_hertz: clock.map(|megahertz| megahertz.saturating_mul(1_000_000)),
        clock_limit_hertz: limit.map(|megahertz| megahertz.saturating_mul(1_000_000)),
        memory: device.memory_info().ok().map(|memory| Memory {
            used: memory.used,
            total: Some(memory.total),
        }),
        throttles: device.current_throttle_reasons().ok().map(throttles),
        critical_millicelsius: critical.and_then(|degrees| i32::try_from(degrees * 1000).ok()),
        ..Telemetry::default()
    }
}

/// Idling, and clocks that somebody set, are no throttling.
fn throttles(reasons: ThrottleReasons) -> Vec<Throttle> {
    let thermal = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    let named = [
        (thermal, Throttle::Thermal),
        (ThrottleReasons::SW_POWER_CAP, Throttle::Power),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, Throttle::Current),
        (ThrottleReasons::SYNC_BOOST, Throttle::Other),
    ];
    let mut found: Vec<_> = named
        .into_iter()
        .filter(|(bits, _)| reasons.intersects(*bits))
        .map(|(_, throttle)| throttle)
        .collect();
    // It comes with the reason that it has; alone it has one that is not told.
    if found.is_empty() && reasons.contains(ThrottleReasons::HW_SLOWDOWN) {
        found.push(Throttle::Other);
    }
    found
}

fn memory_faults(device: &Device<'_>) -> Vec<Fault> {
    let degraded = |text: String| Fault {
        health: DeviceHealth::Degraded,
        recovery: Recovery::Reboot,
        text,
    };
    let mut faults = Vec::new();
    match device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile) {
        Ok(count) if count > 0 => faults.push(degraded(format!(
            "had {count} memory errors that cannot be mended since its driver was loaded: reset it, or restart the node"
        ))),
        _ => {}
    }
    if device.are_pages_pending_retired().is_ok_and(|pending| pending) {
        faults.push(degraded(
            "has memory pages that wait to be retired: reset it, or restart the node".to_owned(),
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_sysfs() {
        assert_eq!(address("00000000:01:00.0"), "0000:01:00.0");
        assert_eq!(address("0000000A:C1:00.0"), "000a:c1:00.0");
        assert_eq!(address("odd"), "odd");
    }
}

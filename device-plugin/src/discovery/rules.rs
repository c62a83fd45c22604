//! Whether a profile's rules hold for a device that was seen. Pure.

use super::sighting::{Identity, PciIds, Sighting};
use perwatt_crds::discovery::{
    AccelRule, DeviceNodeRule, DeviceTreeRule, Discovery, PciRule, PlatformRule, UsbIds, UsbRule,
};

/// NVIDIA's PCI vendor id.
const NVIDIA: u16 = 0x10de;

/// Base class of display controllers.
const DISPLAY: u32 = 0x03;

/// The class of device nodes of the kernel's accel subsystem.
pub(crate) const ACCEL: &str = "accel";

/// How far a rule holds for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Holds; the more it asks, the higher.
    Holds(u32),
    /// Does not hold.
    Fails {
        /// How much of it holds; nothing is another kind of device altogether.
        near: u32,
        /// On what it fails.
        text: String,
    },
}

impl Fit {
    fn rank(&self) -> (bool, u32) {
        match self {
            Self::Holds(points) => (true, *points),
            Self::Fails { near, .. } => (false, *near),
        }
    }
}

/// Of all rules the one that fits best; nothing where there is no rule for such a device.
#[must_use]
pub fn fit(discovery: &Discovery, sighting: &Sighting) -> Option<Fit> {
    let mut fits = Vec::new();
    match &sighting.identity {
        Identity::Pci(ids) => {
            fits.extend(discovery.pci.iter().map(|rule| fit_pci(rule, ids)));
            fits.extend(discovery.nvml.iter().map(|_| fit_nvml(ids, sighting)));
        }
        Identity::Usb { vendor, product } => {
            fits.extend(discovery.usb.iter().map(|rule| fit_usb(rule, *vendor, *product)));
        }
        Identity::Platform { name, compatible } => {
            fits.extend(
                discovery
                    .device_tree
                    .iter()
                    .map(|rule| fit_tree(rule, compatible)),
            );
            fits.extend(
                discovery
                    .platform
                    .iter()
                    .map(|rule| fit_platform(rule, name, sighting)),
            );
        }
        Identity::Node(path) => {
            fits.extend(discovery.device_nodes.iter().map(|rule| fit_node(rule, path)));
        }
    }
    if sighting.nodes.iter().any(|node| node.class == ACCEL) {
        fits.extend(discovery.accel.iter().map(|rule| fit_accel(rule, sighting)));
    }
    fits.into_iter().max_by_key(Fit::rank)
}

/// One thing that a rule asks.
struct Ask {
    what: &'static str,
    wanted: Option<String>,
    has: String,
    holds: bool,
    points: u32,
}

fn number(what: &'static str, wanted: Option<&String>, has: Option<u16>, points: u32) -> Ask {
    let parsed = wanted.and_then(|text| u16::from_str_radix(text, 16).ok());
    Ask {
        what,
        wanted: wanted.cloned(),
        has: has.map_or("none".to_owned(), |has| format!("{has:04x}")),
        holds: parsed.is_some() && parsed == has,
        points,
    }
}

fn text(what: &'static str, wanted: Option<&String>, has: Option<&str>, points: u32) -> Ask {
    Ask {
        what,
        wanted: wanted.cloned(),
        has: has.unwrap_or("none").to_owned(),
        holds: wanted.map(String::as_str) == has,
        points,
    }
}

/// All must hold; the first that does not is what the rule fails on.
fn judge(asks: impl IntoIterator<Item = Ask>) -> Fit {
    let mut points = 0;
    for ask in asks {
        let Some(wanted) = ask.wanted else { continue };
        if !ask.holds {
            return Fit::Fails {
                near: points,
                text: format!("{} is {} and not {wanted}", ask.what, ask.has),
            };
        }
        points += ask.points;
    }
    Fit::Holds(points)
}

fn fit_pci(rule: &PciRule, ids: &PciIds) -> Fit {
    let class = format!("{:06x}", ids.class);
    judge([
        number("vendor", Some(&rule.vendor), Some(ids.vendor), 10),
        number("device", rule.device.as_ref(), Some(ids.device), 10),
        Ask {
            what: "class",
            wanted: rule.class.clone(),
            holds: rule
                .class
                .as_ref()
                .is_some_and(|wanted| class.starts_with(wanted.as_str())),
            has: class,
            points: 3,
        },
        number(
            "subsystem vendor",
            rule.subsystem_vendor.as_ref(),
            ids.subsystem.map(|(vendor, _)| vendor),
            5,
        ),
        number(
            "subsystem device",
            rule.subsystem_device.as_ref(),
            ids.subsystem.map(|(_, device)| device),
            5,
        ),
    ])
}

fn fit_usb(rule: &UsbRule, vendor: u16, product: u16) -> Fit {
    let ids = |vendor_id: &String, product_id: Option<&String>| {
        judge([
            number("vendor", Some(vendor_id), Some(vendor), 10),
            number("product", product_id, Some(product), 10),
        ])
    };
    let before = |earlier: &UsbIds| ids(&earlier.vendor, Some(&earlier.product));
    let loaded = ids(&rule.vendor, rule.product.as_ref());
    rule.before.iter().map(before).fold(
        loaded,
        |best, next| {
            if next.rank() > best.rank() { next } else { best }
        },
    )
}

fn fit_tree(rule: &DeviceTreeRule, compatible: &[String]) -> Fit {
    match compatible.iter().position(|text| *text == rule.compatible) {
        // The first is the most specific.
        Some(index) => Fit::Holds(20_u32.saturating_sub(u32::try_from(index).unwrap_or(20))),
        None => {
            let vendor = |text: &str| text.split_once(',').map(|(vendor, _)| vendor.to_owned());
            let wanted = vendor(&rule.compatible);
            let kin = wanted.is_some() && compatible.iter().any(|text| vendor(text) == wanted);
            Fit::Fails {
                near: u32::from(kin),
                text: format!(
                    "it is compatible with {} and not {}",
                    compatible.first().map_or("nothing", String::as_str),
                    rule.compatible
                ),
            }
        }
    }
}

fn fit_platform(rule: &PlatformRule, name: &str, sighting: &Sighting) -> Fit {
    judge([
        text("name", rule.name.as_ref(), Some(name), 10),
        text("driver", rule.driver.as_ref(), sighting.driver.as_deref(), 10),
    ])
}

fn fit_accel(rule: &AccelRule, sighting: &Sighting) -> Fit {
    match judge([text("driver", Some(&rule.driver), sighting.driver.as_deref(), 10)]) {
        Fit::Fails { text, .. } => Fit::Fails { near: 1, text },
        holds => holds,
    }
}

fn fit_node(rule: &DeviceNodeRule, path: &str) -> Fit {
    if path_fits(&rule.path, path) {
        return Fit::Holds(5);
    }
    Fit::Fails {
        near: 0,
        text: format!("path is {path} and not {}", rule.path),
    }
}

fn fit_nvml(ids: &PciIds, sighting: &Sighting) -> Fit {
    let fails = |near, text: String| Fit::Fails { near, text };
    if ids.vendor != NVIDIA {
        return fails(0, format!("vendor is {:04x} and not 10de", ids.vendor));
    }
    if ids.class >> 16 != DISPLAY {
        return fails(5, format!("class is {:06x} and not 03", ids.class));
    }
    match sighting.driver.as_deref() {
        Some("nvidia") => Fit::Holds(15),
        other => fails(
            10,
            format!("driver is {} and not nvidia", other.unwrap_or("none")),
        ),
    }
}

/// Whether a path of a device node fits one with `*` for any characters but `/`.
#[must_use]
pub fn path_fits(wanted: &str, path: &str) -> bool {
    let options = glob::MatchOptions {
        require_literal_separator: true,
        ..glob::MatchOptions::new()
    };
    glob::Pattern::new(wanted).is_ok_and(|pattern| pattern.matches_with(path, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::sighting::Bus;
    use serde_json::{Value, json};

    fn rules(value: Value) -> Discovery {
        serde_json::from_value(value).unwrap()
    }

    fn sighting(bus: Bus, identity: Identity) -> Sighting {
        Sighting {
            bus,
            address: "somewhere".into(),
            sysfs: "/sys/somewhere".into(),
            driver: Some("hailo".into()),
            numa_node: None,
            identity,
            nodes: vec![],
        }
    }

    fn chip() -> Sighting {
        let ids = PciIds {
            vendor: 0x1e60,
            device: 0x2864,
            subsystem: Some((0x1e60, 0x2864)),
            class: 0x0b_4000,
        };
        sighting(Bus::Pci, Identity::Pci(ids))
    }

    fn fails_on(discovery: Value, sighting: &Sighting) -> String {
        match fit(&rules(discovery), sighting) {
            Some(Fit::Fails { text, .. }) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_more_a_rule_asks_the_more_specific_it_is() {
        let points = |rule: Value| match fit(&rules(json!({"pci": [rule]})), &chip()) {
            Some(Fit::Holds(points)) => points,
            other => panic!("{other:?}"),
        };
        let class = points(json!({"vendor": "1e60", "class": "0b"}));
        let device = points(json!({"vendor": "1e60", "device": "2864"}));
        let board = points(json!({"vendor": "1e60", "device": "2864", "subsystemVendor": "1e60"}));
        assert!(class < device && device < board);
    }

    #[test]
    fn a_rule_that_fails_names_the_first_thing_it_fails_on() {
        let pci = |rule: Value| fails_on(json!({"pci": [rule]}), &chip());
        assert_eq!(
            pci(json!({"vendor": "1e60", "device": "45c4"})),
            "device is 2864 and not 45c4"
        );
        assert_eq!(
            pci(json!({"vendor": "1e60", "class": "1200"})),
            "class is 0b4000 and not 1200"
        );
        assert_eq!(
            pci(json!({"vendor": "8086", "device": "2864"})),
            "vendor is 1e60 and not 8086"
        );
        // The nearer of two rules is the one to tell of.
        let two = json!({"pci": [{"vendor": "8086", "device": "1"}, {"vendor": "1e60", "device": "45c4"}]});
        assert_eq!(fails_on(two, &chip()), "device is 2864 and not 45c4");
    }

    #[test]
    fn a_usb_device_is_the_same_before_its_firmware_is_loaded() {
        let rule = rules(json!({"usb": [
            {"vendor": "18d1", "product": "9302", "before": [{"vendor": "1a6e", "product": "089a"}]}
        ]}));
        let usb = |vendor, product| sighting(Bus::Usb, Identity::Usb { vendor, product });
        assert!(matches!(fit(&rule, &usb(0x18d1, 0x9302)), Some(Fit::Holds(20))));
        assert!(matches!(fit(&rule, &usb(0x1a6e, 0x089a)), Some(Fit::Holds(20))));
        assert!(matches!(
            fit(&rule, &usb(0x18d1, 0x4ee7)),
            Some(Fit::Fails { near: 10, .. })
        ));
    }

    #[test]
    fn devicetree_platform_accel_and_nvml() {
        let npu = Identity::Platform {
            name: "fdab0000.npu".into(),
            compatible: vec!["rockchip,rk3588-rknpu".into(), "rockchip,rknpu".into()],
        };
        let npu = sighting(Bus::Platform, npu);
        let tree = |text: &str| fit(&rules(json!({"deviceTree": [{"compatible": text}]})), &npu);
        assert_eq!(tree("rockchip,rk3588-rknpu"), Some(Fit::Holds(20)));
        assert_eq!(tree("rockchip,rknpu"), Some(Fit::Holds(19)));
        assert!(matches!(
            tree("rockchip,rk3568-rknpu"),
            Some(Fit::Fails { near: 1, .. })
        ));
        let both = json!({"platform": [{"name": "fdab0000.npu", "driver": "RKNPU"}]});
        assert_eq!(fails_on(both, &npu), "driver is hailo and not RKNPU");
        // No node of class accel: such a rule says nothing of it.
        assert_eq!(fit(&rules(json!({"accel": [{"driver": "hailo"}]})), &npu), None);
        let mut gpu = chip();
        let Identity::Pci(ids) = &mut gpu.identity else {
            unreachable!()
        };
        (ids.vendor, ids.class) = (0x10de, 0x03_0200);
        assert_eq!(
            fails_on(json!({"nvml": {}}), &gpu),
            "driver is hailo and not nvidia"
        );
        gpu.driver = Some("nvidia".into());
        assert_eq!(fit(&rules(json!({"nvml": {}})), &gpu), Some(Fit::Holds(15)));
    }

    #[test]
    fn a_star_does_not_cross_a_folder() {
        assert!(path_fits("/dev/dri/renderD*", "/dev/dri/renderD128"));
        assert!(!path_fits("/dev/*", "/dev/dri/renderD128"));
        assert!(!path_fits("/dev/akida*", "/dev/xakida0"));
        assert!(!path_fits("/dev/***", "/dev/x"));
    }
}

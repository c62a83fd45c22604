//! The profiles that the product ships: the chart's, compiled in, so that `scan` works on a machine
//! without Kubernetes.

use perwatt_crds::{HardwareProfile, HardwareProfileSpec};
use std::collections::BTreeMap;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Name and manifest of every profile.
        pub const FILES: &[(&str, &str)] = &[$((
            $name,
            include_str!(concat!("../../../charts/perwatt/catalogue/", $name, ".yaml")),
        )),*];
    };
}

files![
    "akida-akd1000",
    "coral-pcie",
    "coral-usb",
    "hailo-8",
    "hailo-8l",
    "intel-gpu",
    "intel-loihi-2",
    "intel-npu",
    "nvidia-gpu",
    "nvidia-jetson-orin",
    "rockchip-rknpu",
    "rockchip-rocket",
    "synsense-speck",
];

/// Why a manifest is no profile.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is not one that this version understands.
    #[error("{name} is no HardwareProfile: {source}")]
    Manifest {
        /// The file.
        name: String,
        /// What is wrong.
        source: serde_yaml::Error,
    },
    /// It has no name.
    #[error("{name} holds a HardwareProfile without metadata.name")]
    Unnamed {
        /// The file.
        name: String,
    },
}

/// The shipped profiles by name.
///
/// # Errors
/// When a manifest is wrong; a test holds that none is.
pub fn profiles() -> Result<BTreeMap<String, HardwareProfileSpec>, CatalogueError> {
    FILES.iter().map(|(name, text)| parse(name, text)).collect()
}

/// A profile from its manifest; `name` is told where it is wrong.
///
/// # Errors
/// When the text is no profile.
pub fn parse(name: &str, text: &str) -> Result<(String, HardwareProfileSpec), CatalogueError> {
    let profile: HardwareProfile = serde_yaml::from_str(text).map_err(|source| CatalogueError::Manifest {
        name: name.to_owned(),
        source,
    })?;
    let own = profile.metadata.name.ok_or_else(|| CatalogueError::Unnamed {
        name: name.to_owned(),
    })?;
    Ok((own, profile.spec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_catalogue_is_the_charts() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/perwatt/catalogue");
        let files: BTreeSet<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let compiled: BTreeSet<_> = FILES.iter().map(|(name, _)| format!("{name}.yaml")).collect();
        assert_eq!(files, compiled);
        let names: Vec<_> = profiles().unwrap().into_keys().collect();
        let expected: Vec<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names, expected, "a profile is called as its file");
    }

    #[test]
    fn every_profile_says_where_it_is_from_and_claims_no_trial() {
        for (name, spec) in profiles().unwrap() {
            assert!(!spec.sources.is_empty() && !spec.verified, "{name}");
            assert!(spec.discovery.is_some() && spec.vendor.is_some(), "{name}");
        }
    }
}

//! Texts that people write: `model.yaml`, and the configuration of a variant.

use super::model;
use perwatt_model::Manifest;
use perwatt_runtime::config::Config;

pub fn model_yaml(input: &[u8]) -> bool {
    str::from_utf8(input).is_ok_and(|text| Manifest::parse(text).is_ok())
}

pub fn config(input: &[u8]) -> bool {
    let (Ok(text), Ok(manifest)) = (str::from_utf8(input), model()) else {
        return false;
    };
    Config::parse(text, &manifest).is_ok()
}

//! `safeValue`: what a reply carries where no variant answers. It is always flagged as such.

use crate::manifest::{Datatype, ManifestError, TensorSpec, field};
use crate::names::TensorName;
use serde::{Deserialize, Serialize};

/// The safe value of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SafeValue {
    /// The output.
    pub output: TensorName,
    /// One value for all elements, or one for each in row-major order.
    pub value: SafeElements,
}

/// One value for all elements, or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SafeElements {
    /// For all elements.
    All(Scalar),
    /// For each element.
    Each(Vec<Scalar>),
}

/// One element.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)] // the names say all
pub enum Scalar {
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

/// Longest text of an element, in bytes.
const MAX_TEXT: usize = 4096;

impl Scalar {
    fn fits(&self, datatype: Datatype) -> bool {
        use Datatype as D;
        let within = |least: i64, most: i64| matches!(self, Self::Integer(n) if (least..=most).contains(n));
        match datatype {
            D::Bool => matches!(self, Self::Bool(_)),
            D::Uint8 => within(0, u8::MAX.into()),
            D::Uint16 => within(0, u16::MAX.into()),
            D::Uint32 => within(0, u32::MAX.into()),
            D::Uint64 => within(0, i64::MAX),
            D::Int8 => within(i8::MIN.into(), i8::MAX.into()),
            D::Int16 => within(i16::MIN.into(), i16::MAX.into()),
            D::Int32 => within(i32::MIN.into(), i32::MAX.into()),
            D::Int64 => within(i64::MIN, i64::MAX),
            D::Fp16 => self.is_number_within(65504.0),
            D::Fp32 | D::Bf16 => self.is_number_within(f64::from(f32::MAX)),
            D::Fp64 => self.is_number_within(f64::MAX),
            D::Bytes => matches!(self, Self::Text(text) if text.len() <= MAX_TEXT),
        }
    }

    fn is_number_within(&self, most: f64) -> bool {
        match self {
            Self::Integer(n) => (*n as f64).abs() <= most,
            Self::Number(n) => n.abs() <= most,
            _ => false,
        }
    }
}

impl SafeValue {
    /// One scalar for each element of the output.
    pub fn elements(&self, spec: &TensorSpec) -> Vec<Scalar> {
        match &self.value {
            SafeElements::All(value) => vec![value.clone(); spec.elements()],
            SafeElements::Each(values) => values.clone(),
        }
    }

    fn check(&self, at: &str, spec: &TensorSpec) -> Result<(), ManifestError> {
        let values = match &self.value {
            SafeElements::All(value) => std::slice::from_ref(value),
            SafeElements::Each(values) if values.len() == spec.elements() => values,
            SafeElements::Each(values) => {
                let problem = format!(
                    "{} values are not one, nor one for each of {} elements",
                    values.len(),
                    spec.elements()
                );
                return Err(field(format!("{at}.value"), problem));
            }
        };
        match values.iter().position(|value| !value.fits(spec.datatype)) {
            None => Ok(()),
            Some(i) => Err(field(
                format!("{at}.value"),
                format!("value {i} is no {}", spec.datatype.as_str()),
            )),
        }
    }
}

/// Either no output has a safe value, or each has one that fits.
pub(crate) fn check(values: &[SafeValue], outputs: &[TensorSpec]) -> Result<(), ManifestError> {
    for (i, value) in values.iter().enumerate() {
        let at = format!("safeValue[{i}]");
        let Some(spec) = outputs.iter().find(|output| output.name == value.output) else {
            let name = value.output.as_str();
            return Err(field(
                format!("{at}.output"),
                format!("no output is named {name:?}"),
            ));
        };
        if values.iter().take(i).any(|other| other.output == value.output) {
            return Err(field(format!("{at}.output"), "it is there twice"));
        }
        value.check(&at, spec)?;
    }
    if values.is_empty() || values.len() == outputs.len() {
        return Ok(());
    }
    Err(field(
        "safeValue",
        "name every output, or leave safeValue out: half a reply is none",
    ))
}

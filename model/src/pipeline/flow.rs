//! A tensor on its way through a pipeline: its type, and as much of its shape as is known beforehand.

use crate::manifest::{Datatype, MAX_ELEMENTS, TensorSpec};
use perwatt_signal::SignalError;
use std::fmt;

const IMAGE: &str = "an image [height, width, channels] of 1 or 3 channels";

/// Length of an axis; nothing where only the request tells, such as the width of a photo.
pub type Axis = Option<u32>;

/// What flows from one step to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Type of the elements.
    pub datatype: Datatype,
    /// Length of every axis.
    pub shape: Vec<Axis>,
}

/// Why a step does not fit where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It needs another tensor than it gets.
    #[error("it expects {expected}, and gets {found}")]
    Flow {
        /// What it takes.
        expected: String,
        /// What comes.
        found: String,
    },
    /// A field of it is out of its range.
    #[error("{0}")]
    Parameter(String),
    /// The arithmetic refuses it.
    #[error(transparent)]
    Signal(#[from] SignalError),
}

impl From<&TensorSpec> for Flow {
    fn from(spec: &TensorSpec) -> Self {
        Self::known(spec.datatype, &spec.shape)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axis = |axis: &Axis| axis.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let axes: Vec<_> = self.shape.iter().map(axis).collect();
        write!(f, "{} [{}]", self.datatype.as_str(), axes.join(", "))
    }
}

impl Flow {
    /// A tensor of known shape.
    pub fn known(datatype: Datatype, shape: &[u32]) -> Self {
        Self {
            datatype,
            shape: shape.iter().copied().map(Some).collect(),
        }
    }

    /// The same shape with another type.
    pub(super) fn with(&self, datatype: Datatype) -> Self {
        Self {
            datatype,
            shape: self.shape.clone(),
        }
    }

    /// This flow is not what a step takes.
    pub(super) fn unfit(&self, expected: impl Into<String>) -> StepError {
        StepError::Flow {
            expected: expected.into(),
            found: self.to_string(),
        }
    }

    /// Refuses BYTES.
    pub(super) fn numbers(&self) -> Result<(), StepError> {
        if self.datatype == Datatype::Bytes {
            return Err(self.unfit("numbers"));
        }
        Ok(())
    }

    /// The shape, where all of it is known and its size is within bounds.
    pub(super) fn sizes(&self) -> Result<Vec<u32>, StepError> {
        let sizes: Option<Vec<u32>> = self.shape.iter().copied().collect();
        sizes.ok_or_else(|| {
            self.unfit("a tensor of known shape (Resize and Crop with height and width make one)")
        })
    }

    /// The last axis.
    pub(super) fn last(&self) -> Result<u32, StepError> {
        let sizes = self.sizes()?;
        sizes
            .last()
            .copied()
            .ok_or_else(|| self.unfit("a tensor with one axis or more"))
    }

    /// Steps in time and channels: the last axis is channels, all before it are time.
    pub(super) fn rows(&self) -> Result<(u32, u32), StepError> {
        self.numbers()?;
        let sizes = self.sizes()?;
        let (&channels, outer) = sizes
            .split_last()
            .ok_or_else(|| self.unfit("a tensor with one axis or more, the last one the channels"))?;
        let rows = outer.iter().try_fold(1u32, |product, &n| product.checked_mul(n));
        Ok((rows.ok_or_else(|| too_large(self))?, channels))
    }

    /// Samples of one signal: every axis but the last has length 1.
    pub(super) fn samples(&self) -> Result<u32, StepError> {
        match self.rows()? {
            (1, samples) => Ok(samples),
            _ => Err(self.unfit("one signal: every axis but the last of length 1")),
        }
    }

    /// Height, width, channels of an image.
    pub(super) fn image(&self) -> Result<(Axis, Axis, u32), StepError> {
        match self.shape[..] {
            _ if self.datatype == Datatype::Bytes => Err(self.unfit(IMAGE)),
            [height, width, Some(channels @ (1 | 3))] => Ok((height, width, channels)),
            _ => Err(self.unfit(IMAGE)),
        }
    }

    /// Place of an axis, counted from the end where it is negative.
    pub(super) fn axis(&self, axis: i8) -> Result<usize, StepError> {
        let rank = self.shape.len();
        let place = if axis < 0 {
            rank.checked_sub(usize::from(axis.unsigned_abs()))
        } else {
            usize::try_from(axis).ok()
        };
        place
            .filter(|place| *place < rank)
            .ok_or_else(|| self.unfit(format!("a tensor that has axis {axis}")))
    }

    /// Refuses what has too many elements, or an axis without any.
    pub(super) fn bounded(self) -> Result<Self, StepError> {
        let product = self
            .shape
            .iter()
            .flatten()
            .try_fold(1u64, |product, &n| product.checked_mul(u64::from(n)));
        match product {
            Some(1..=MAX_ELEMENTS) => Ok(self),
            _ => Err(too_large(&self)),
        }
    }

    /// Whether the tensor at the end of a pipeline is `to`; axes of length 1 may be there or not.
    pub(super) fn check_fits(&self, to: &TensorSpec) -> Result<(), String> {
        let wanted = Self::from(to);
        let squeezed = |flow: &Self| {
            flow.shape
                .iter()
                .copied()
                .filter(|n| *n != Some(1))
                .collect::<Vec<_>>()
        };
        let problem = format!("the steps give {self}, {:?} is {wanted}", to.name.as_str());
        if self.shape.contains(&None) {
            return Err(format!(
                "{problem}: Resize and Crop with height and width fix the size"
            ));
        }
        if squeezed(self) != squeezed(&wanted) {
            return Err(problem);
        }
        if self.datatype != to.datatype {
            return Err(format!("{problem}: Cast or Quantize changes the type"));
        }
        Ok(())
    }
}

fn too_large(flow: &Flow) -> StepError {
    StepError::Parameter(format!(
        "it would make {flow}: between 1 and {MAX_ELEMENTS} elements are allowed"
    ))
}

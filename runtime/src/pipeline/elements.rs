//! Elements of any type as numbers and back, and steps that only move elements.

use crate::tensor::{Data, with_numbers};
use perwatt_model::Datatype;
use perwatt_oip::half::{bf16, f16};
use perwatt_signal::{SignalError, tensor};
use std::borrow::Cow;

/// A number of any type.
trait Number: Copy {
    fn to_f64(self) -> f64;
    /// The nearest number of this type, ties to even, cut to its range.
    fn from_f64(value: f64) -> Self;
}

impl Number for bool {
    fn to_f64(self) -> f64 {
        f64::from(u8::from(self))
    }
    fn from_f64(value: f64) -> Self {
        value != 0.0
    }
}

macro_rules! integers {
    ($($rust:ty),*) => {
        $(impl Number for $rust {
            fn to_f64(self) -> f64 {
                self as f64
            }
            // `as` cuts to the range of the type.
            fn from_f64(value: f64) -> Self {
                value.round_ties_even() as $rust
            }
        })*
    };
}
integers!(u8, u16, u32, u64, i8, i16, i32, i64);

macro_rules! halves {
    ($($rust:ty),*) => {
        $(impl Number for $rust {
            fn to_f64(self) -> f64 {
                <$rust>::to_f64(self)
            }
            fn from_f64(value: f64) -> Self {
                <$rust>::from_f64(value)
            }
        })*
    };
}
halves!(f16, bf16);

impl Number for f32 {
    fn to_f64(self) -> f64 {
        self.into()
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Number for f64 {
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(value: f64) -> Self {
        value
    }
}

fn doubles(data: &Data) -> Result<Vec<f64>, String> {
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match data {
                $(Data::$variant(values) => Ok(values.iter().map(|v| Number::to_f64(*v)).collect()),)*
                Data::Bytes(_) => Err("BYTES are not numbers".into()),
            }
        };
    }
    with_numbers!(by_type)
}

/// The elements as FP32.
pub fn floats(data: &Data) -> Result<Cow<'_, [f32]>, String> {
    match data {
        Data::F32(values) => Ok(Cow::Borrowed(values)),
        Data::U8(values) => Ok(values.iter().map(|v| f32::from(*v)).collect()),
        other => Ok(doubles(other)?.into_iter().map(|v| v as f32).collect()),
    }
}

/// The elements as integers.
pub fn integers(data: &Data) -> Result<Cow<'_, [i64]>, String> {
    match data {
        Data::I64(values) => Ok(Cow::Borrowed(values)),
        Data::I32(values) => Ok(values.iter().map(|v| i64::from(*v)).collect()),
        _ => Err(format!("{} are not INT64 or INT32", data.datatype().as_str())),
    }
}

/// The elements as another type.
pub fn cast(data: &Data, to: Datatype) -> Result<Data, String> {
    let values = doubles(data)?;
    let is_float = matches!(
        to,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64
    );
    if !is_float && values.iter().any(|v| v.is_nan()) {
        return Err(format!("NaN is no {}", to.as_str()));
    }
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match to {
                $(Datatype::$datatype => {
                    Ok(Data::$variant(values.iter().map(|v| <$rust as Number>::from_f64(*v)).collect()))
                })*
                Datatype::Bytes => Err("numbers do not become BYTES".into()),
            }
        };
    }
    with_numbers!(by_type)
}

/// What is done with elements whatever their type.
pub trait Move {
    /// Does it.
    ///
    /// # Errors
    /// When the elements do not fit.
    fn apply<T: Copy>(&self, values: &[T]) -> Result<Vec<T>, SignalError>;
}

/// Axes in another order.
pub struct Transposed<'a> {
    /// The shape before.
    pub shape: &'a [usize],
    /// Place of each new axis among the old ones.
    pub axes: &'a [usize],
}

impl Move for Transposed<'_> {
    fn apply<T: Copy>(&self, values: &[T]) -> Result<Vec<T>, SignalError> {
        tensor::transpose(values, self.shape, self.axes)
    }
}

/// A part of an axis.
pub struct Sliced<'a> {
    /// The shape before.
    pub shape: &'a [usize],
    /// The axis.
    pub axis: usize,
    /// First entry.
    pub start: usize,
    /// Number of entries.
    pub count: usize,
}

impl Move for Sliced<'_> {
    fn apply<T: Copy>(&self, values: &[T]) -> Result<Vec<T>, SignalError> {
        tensor::slice(values, self.shape, self.axis, self.start, self.count)
    }
}

/// Moves elements of any type but BYTES.
pub fn moved(data: &Data, how: &impl Move) -> Result<Data, String> {
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match data {
                $(Data::$variant(values) => how.apply(values).map(Data::$variant).map_err(|e| e.to_string()),)*
                Data::Bytes(_) => Err("BYTES stay where they are".into()),
            }
        };
    }
    with_numbers!(by_type)
}

/// Two tensors of one type put together along an axis, which has `a` and `b` entries before `inner` elements.
pub fn joined(first: &Data, second: &Data, a: usize, b: usize, inner: usize) -> Result<Data, String> {
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match (first, second) {
                $((Data::$variant(x), Data::$variant(y)) => {
                    tensor::join(x, y, a, b, inner).map(Data::$variant).map_err(|e| e.to_string())
                })*
                _ => Err("the two have different types".into()),
            }
        };
    }
    with_numbers!(by_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_rounds_to_even_and_stays_in_range() {
        let values = Data::F32(vec![0.5, 1.5, -0.5, 300.0, -300.0, f32::INFINITY]);
        assert_eq!(
            cast(&values, Datatype::Int8),
            Ok(Data::I8(vec![0, 2, 0, 127, -128, 127]))
        );
        assert_eq!(
            cast(&values, Datatype::Uint8),
            Ok(Data::U8(vec![0, 2, 0, 255, 0, 255]))
        );
        let large = Data::I64(vec![(1 << 40) + 1]);
        assert_eq!(cast(&large, Datatype::Uint64), Ok(Data::U64(vec![(1 << 40) + 1])));
        assert!(cast(&Data::F32(vec![f32::NAN]), Datatype::Int32).is_err());
        assert!(cast(&Data::F32(vec![f32::NAN]), Datatype::Fp16).is_ok());
        assert!(cast(&Data::Bytes(vec![]), Datatype::Fp32).is_err());
    }
}

//! Tensor data in JSON: flat or nested arrays, checked against datatype and shape while they are read.
//!
//! FP16 and BF16 are numbers here, rounded to the nearest; BYTES are texts.

use crate::error::DataError;
use crate::tensor::{Data, with_numbers};
use bytes::Bytes;
use half::{bf16, f16};
use perwatt_model::Datatype;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;

/// Reads `json` as the elements of a tensor of `shape`.
///
/// # Errors
/// With what is wrong: a value that is not of the type, too few or too many, a nesting that is not the shape's.
pub fn decode(json: &RawValue, datatype: Datatype, shape: &[usize]) -> Result<Data, DataError> {
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match datatype {
                $(Datatype::$datatype => elements::<$rust>(json, datatype, shape).map(Data::$variant),)*
                Datatype::Bytes => elements::<Bytes>(json, datatype, shape).map(Data::Bytes),
            }
        };
    }
    with_numbers!(by_type)
}

/// A value of JSON as an element; nothing where it does not fit.
trait Element: Sized {
    /// The text of a number; nothing also where another way must look at it.
    fn from_number(_: &str) -> Option<Self> {
        None
    }
    fn from_bool(_: bool) -> Option<Self> {
        None
    }
    fn from_u64(_: u64) -> Option<Self> {
        None
    }
    fn from_i64(_: i64) -> Option<Self> {
        None
    }
    fn from_f64(_: f64) -> Option<Self> {
        None
    }
    fn from_text(_: &str) -> Option<Self> {
        None
    }
}

impl Element for bool {
    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Element for Bytes {
    fn from_text(text: &str) -> Option<Self> {
        Some(Self::copy_from_slice(text.as_bytes()))
    }
}

macro_rules! integers {
    ($($rust:ty),*) => {
        $(impl Element for $rust {
            fn from_number(text: &str) -> Option<Self> {
                text.parse().ok()
            }
            fn from_u64(value: u64) -> Option<Self> {
                Self::try_from(value).ok()
            }
            fn from_i64(value: i64) -> Option<Self> {
                Self::try_from(value).ok()
            }
        })*
    };
}
integers!(u8, u16, u32, u64, i8, i16, i32, i64);

macro_rules! floats {
    ($($rust:ty),*) => {
        $(impl Element for $rust {
            fn from_number(text: &str) -> Option<Self> {
                text.parse().ok().filter(|value: &Self| value.is_finite())
            }
            fn from_u64(value: u64) -> Option<Self> {
                Some(value as $rust)
            }
            fn from_i64(value: i64) -> Option<Self> {
                Some(value as $rust)
            }
            fn from_f64(value: f64) -> Option<Self> {
                Some(value as $rust).filter(|value| value.is_finite())
            }
        })*
    };
}
floats!(f32, f64);

macro_rules! halves {
    ($($rust:ty),*) => {
        $(impl Element for $rust {
            fn from_number(text: &str) -> Option<Self> {
                <Self as Element>::from_f64(text.parse().ok()?)
            }
            fn from_u64(value: u64) -> Option<Self> {
                <Self as Element>::from_f64(value as f64)
            }
            fn from_i64(value: i64) -> Option<Self> {
                <Self as Element>::from_f64(value as f64)
            }
            fn from_f64(value: f64) -> Option<Self> {
                Some(<$rust>::from_f64(value)).filter(|value| value.is_finite())
            }
        })*
    };
}
halves!(f16, bf16);

fn elements<T: Element>(json: &RawValue, datatype: Datatype, shape: &[usize]) -> Result<Vec<T>, DataError> {
    let count = shape.iter().product();
    match flat_numbers(json.get(), count) {
        Some(values) => Ok(values),
        None => flatten(json.get(), datatype, shape),
    }
}

/// The usual case, read without a general reader's detours: a flat array of numbers that fits. Whatever
/// else it may be, or be wrong with it, is nothing here and found by [`flatten`].
fn flat_numbers<T: Element>(json: &str, count: usize) -> Option<Vec<T>> {
    let inside = json.trim_ascii().strip_prefix('[')?.strip_suffix(']')?;
    // An element takes two characters at least, with its comma.
    let mut values = Vec::with_capacity(count.min(inside.len() / 2 + 1));
    for text in inside.split(',') {
        if values.len() == count {
            return None;
        }
        values.push(T::from_number(text.trim_ascii())?);
    }
    (values.len() == count).then_some(values)
}

fn flatten<T: Element>(json: &str, datatype: Datatype, shape: &[usize]) -> Result<Vec<T>, DataError> {
    let count = shape.iter().product();
    let mut flat = Flat {
        values: Vec::with_capacity(std::cmp::min(count, json.len() / 2 + 1)),
        count,
        depth: None,
        shape,
        datatype,
    };
    let mut json = serde_json::Deserializer::from_str(json);
    Level {
        flat: &mut flat,
        depth: 0,
    }
    .deserialize(&mut json)
    .map_err(|e| DataError::Json(e.to_string()))?;
    if flat.values.len() != count {
        return Err(DataError::Count {
            found: flat.values.len(),
            expected: count,
            shape: shape.to_vec(),
        });
    }
    Ok(flat.values)
}

struct Flat<'a, T> {
    values: Vec<T>,
    count: usize,
    /// Depth at which the values stand: 1 in a flat array, the shape's rank in a nested one.
    depth: Option<usize>,
    shape: &'a [usize],
    datatype: Datatype,
}

struct Level<'l, 'a, T> {
    flat: &'l mut Flat<'a, T>,
    depth: usize,
}

impl<T: Element> Level<'_, '_, T> {
    fn push<E: Error>(self, value: Option<T>, found: Unexpected<'_>) -> Result<(), E> {
        let flat = self.flat;
        let Some(value) = value else {
            return Err(E::invalid_value(found, &flat.datatype.as_str()));
        };
        let allowed = self.depth == 1 || self.depth == flat.shape.len();
        if !allowed || *flat.depth.get_or_insert(self.depth) != self.depth {
            return Err(E::custom(format!(
                "the nesting is not that of shape {:?}",
                flat.shape
            )));
        }
        if flat.values.len() == flat.count {
            return Err(E::custom(format!(
                "there are more elements than the shape {:?} has, {}",
                flat.shape, flat.count
            )));
        }
        flat.values.push(value);
        Ok(())
    }
}

impl<'de, T: Element> DeserializeSeed<'de> for Level<'_, '_, T> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Element> Visitor<'de> for Level<'_, '_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {}", self.flat.datatype.as_str())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.push(T::from_bool(value), Unexpected::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.push(T::from_u64(value), Unexpected::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.push(T::from_i64(value), Unexpected::Signed(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.push(T::from_f64(value), Unexpected::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.push(T::from_text(value), Unexpected::Other("a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { flat, depth } = self;
        // A flat array is one level even of a scalar.
        if depth >= flat.shape.len().max(1) {
            return Err(A::Error::custom(format!(
                "it is nested deeper than the shape {:?}",
                flat.shape
            )));
        }
        let mut length = 0;
        while seq
            .next_element_seed(Level {
                flat: &mut *flat,
                depth: depth + 1,
            })?
            .is_some()
        {
            length += 1;
        }
        let is_nested = flat.depth.is_some_and(|at| at > 1);
        if is_nested && flat.shape.get(depth) != Some(&length) {
            return Err(A::Error::custom(format!(
                "a level has {length} entries where the shape {:?} has another length",
                flat.shape
            )));
        }
        Ok(())
    }
}

/// The index of the first element that JSON cannot carry: BYTES that are no text.
#[must_use]
pub fn first_unwritable(data: &Data) -> Option<usize> {
    match data {
        Data::Bytes(texts) => texts.iter().position(|text| std::str::from_utf8(text).is_err()),
        _ => None,
    }
}

/// Elements as a flat JSON array. A number that JSON cannot express (NaN, infinity) is `null`; BYTES that are
/// no text are an error, see [`first_unwritable`].
impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        macro_rules! plainly {
            ($($variant:ident),*) => {
                match self {
                    $(Self::$variant(values) => serializer.collect_seq(values),)*
                    Self::F16(values) => serializer.collect_seq(values.iter().map(|v| v.to_f32())),
                    Self::Bf16(values) => serializer.collect_seq(values.iter().map(|v| v.to_f32())),
                    Self::Bytes(texts) => {
                        let texts = texts.iter().map(|text| std::str::from_utf8(text));
                        let texts = texts.collect::<Result<Vec<_>, _>>().map_err(serde::ser::Error::custom)?;
                        serializer.collect_seq(texts)
                    }
                }
            };
        }
        plainly!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, datatype: Datatype, shape: &[usize]) -> Result<Data, DataError> {
        decode(&RawValue::from_string(json.into()).unwrap(), datatype, shape)
    }

    #[test]
    fn flat_and_nested_arrays_are_the_same_tensor() {
        let expected = Ok(Data::F32(vec![1.0, 2.5, -3.0, 4e-3]));
        assert_eq!(read("[1, 2.5, -3, 4e-3]", Datatype::Fp32, &[2, 2]), expected);
        assert_eq!(read("[[1, 2.5], [-3, 0.004]]", Datatype::Fp32, &[2, 2]), expected);
        assert_eq!(
            read("[[[1, 2.5], [-3, 0.004]]]", Datatype::Fp32, &[1, 2, 2]),
            expected
        );
        assert_eq!(
            read("[true, false]", Datatype::Bool, &[2]),
            Ok(Data::Bool(vec![true, false]))
        );
        assert_eq!(read("[7]", Datatype::Int64, &[]), Ok(Data::I64(vec![7])));
        assert_eq!(
            read("[[\"a\"], [\"\\u00e4,\\\"\"]]", Datatype::Bytes, &[2, 1]),
            Ok(Data::Bytes(vec!["a".into(), "ä,\"".into()]))
        );
        assert_eq!(
            read("[0.1, -65504]", Datatype::Fp16, &[2]),
            Ok(Data::F16(vec![f16::from_f32(0.1), f16::MIN]))
        );
    }

    #[test]
    fn whatever_is_not_the_tensor_is_refused() {
        use Datatype::{Bf16, Bool, Bytes, Fp16, Fp32, Int8, Int32, Uint8, Uint64};
        for (json, datatype, shape, says) in [
            ("[1, 2, 3]", Fp32, &[4][..], "3 elements"),
            ("[1, 2, 3, 4, 5]", Fp32, &[4], "more elements"),
            ("[]", Fp32, &[4], "0 elements"),
            ("[[1, 2], [3]]", Fp32, &[2, 2], "another length"),
            ("[[1, 2, 3], [4]]", Fp32, &[2, 2], "another length"),
            ("[[1, 2], 3, 4]", Fp32, &[2, 2], "nesting"),
            ("[1, [2, 3], 4]", Fp32, &[2, 2], "nesting"),
            ("[[[1, 2], [3, 4]]]", Fp32, &[2, 2], "deeper"),
            ("[[1, 2, 3, 4]]", Fp32, &[1, 2, 2], "nesting"),
            ("1", Fp32, &[2], "nesting"),
            ("[null]", Fp32, &[1], "null"),
            ("[\"1\"]", Fp32, &[1], "string"),
            ("[true]", Fp32, &[1], "FP32"),
            ("[1e39]", Fp32, &[1], "FP32"),
            ("[{}]", Fp32, &[1], "map"),
            ("[1.5]", Int32, &[1], "INT32"),
            ("[1.0]", Int32, &[1], "INT32"),
            ("[128]", Int8, &[1], "INT8"),
            ("[-1]", Uint8, &[1], "UINT8"),
            ("[18446744073709551616]", Uint64, &[1], "UINT64"),
            ("[1]", Bool, &[1], "BOOL"),
            ("[65536]", Fp16, &[1], "FP16"),
            ("[1e39]", Bf16, &[1], "BF16"),
            ("[1]", Bytes, &[1], "BYTES"),
            ("[\"a\", \"b\"]", Bytes, &[1], "more elements"),
        ] {
            let error = read(json, datatype, shape).unwrap_err().to_string();
            assert!(error.contains(says), "{json} as {datatype:?}: {error}");
        }
    }

    #[test]
    fn deep_nesting_ends_at_the_shape() {
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        let error = read(&deep, Datatype::Fp32, &[1]).unwrap_err();
        assert!(error.to_string().contains("deeper"));
    }

    #[test]
    fn a_shape_that_lies_allocates_nothing() {
        let error = read("[1]", Datatype::Fp64, &[1 << 26]).unwrap_err();
        assert!(error.to_string().contains("1 elements"));
    }

    #[test]
    fn outputs_are_written_as_they_are_read() {
        for (data, shape) in [
            (Data::F32(vec![0.1, 1.0, f32::MIN_POSITIVE]), [3]),
            (Data::F64(vec![0.1, 5e-324, f64::MAX]), [3]),
            (Data::U64(vec![0, 1, u64::MAX]), [3]),
            (Data::Bytes(vec!["".into(), "\"".into(), "é".into()]), [3]),
            (
                Data::F16(vec![f16::from_f32(0.1), f16::MAX, f16::MIN_POSITIVE]),
                [3],
            ),
            (
                Data::Bf16(vec![bf16::from_f32(0.1), bf16::MAX, bf16::MIN_POSITIVE]),
                [3],
            ),
        ] {
            let json = serde_json::to_string(&data).unwrap();
            assert_eq!(read(&json, data.datatype(), &shape), Ok(data), "{json}");
        }
        assert_eq!(
            serde_json::to_string(&Data::F32(vec![f32::NAN])).unwrap(),
            "[null]"
        );
        assert_eq!(
            first_unwritable(&Data::Bytes(vec!["a".into(), vec![0xff].into()])),
            Some(1)
        );
    }
}

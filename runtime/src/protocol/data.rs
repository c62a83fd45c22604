//! Tensor data in JSON: flat or nested arrays, checked against datatype and shape while they are read.

use crate::tensor::{Data, with_elements};
use perwatt_model::Datatype;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;

/// Reads `json` as the elements of a tensor of `shape`.
///
/// # Errors
/// With what is wrong: a value that is not of the type, too few or too many, a nesting that is not the shape's.
pub fn decode(json: &str, datatype: Datatype, shape: &[usize]) -> Result<Data, String> {
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match datatype {
                $(Datatype::$datatype => flatten::<$rust>(json, datatype, shape).map(Data::$variant),)*
                Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
                    Err(format!("{} cannot be sent as JSON to this server yet", datatype.as_str()))
                }
            }
        };
    }
    with_elements!(by_type)
}

/// A number or truth value of JSON as an element; nothing where it does not fit.
trait Element: Copy {
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
}

impl Element for bool {
    fn from_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

macro_rules! integers {
    ($($rust:ty),*) => {
        $(impl Element for $rust {
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
            fn from_u64(value: u64) -> Option<Self> {
                Some(value as $rust)
            }
            fn from_i64(value: i64) -> Option<Self> {
                Some(value as $rust)
            }
            fn from_f64(value: f64) -> Option<Self> {
                let value = value as $rust;
                value.is_finite().then_some(value)
            }
        })*
    };
}
floats!(f32, f64);

fn flatten<T: Element>(json: &str, datatype: Datatype, shape: &[usize]) -> Result<Vec<T>, String> {
    let count = shape.iter().product();
    let mut flat = Flat {
        values: Vec::with_capacity(count),
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
    .map_err(|e| e.to_string())?;
    json.end().map_err(|e| e.to_string())?;
    if flat.values.len() != count {
        return Err(format!(
            "{} elements do not fill the shape {shape:?}, which has {count}",
            flat.values.len()
        ));
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

/// Elements as a flat JSON array. A value that JSON cannot express (NaN, infinity) is `null`.
impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        macro_rules! by_type {
            ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
                match self { $(Data::$variant(values) => serializer.collect_seq(values)),* }
            };
        }
        with_elements!(by_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_and_nested_arrays_are_the_same_tensor() {
        let expected = Ok(Data::F32(vec![1.0, 2.5, -3.0, 4e-3]));
        assert_eq!(decode("[1, 2.5, -3, 4e-3]", Datatype::Fp32, &[2, 2]), expected);
        assert_eq!(
            decode("[[1, 2.5], [-3, 0.004]]", Datatype::Fp32, &[2, 2]),
            expected
        );
        assert_eq!(
            decode("[[[1, 2.5], [-3, 0.004]]]", Datatype::Fp32, &[1, 2, 2]),
            expected
        );
        assert_eq!(
            decode("[true, false]", Datatype::Bool, &[2]),
            Ok(Data::Bool(vec![true, false]))
        );
        assert_eq!(decode("[7]", Datatype::Int64, &[]), Ok(Data::I64(vec![7])));
    }

    #[test]
    fn whatever_is_not_the_tensor_is_refused() {
        use Datatype::{Bool, Bytes, Fp16, Fp32, Int8, Int32, Uint8, Uint64};
        for (json, datatype, shape, says) in [
            ("[1, 2, 3]", Fp32, &[4][..], "3 elements"),
            ("[1, 2, 3, 4, 5]", Fp32, &[4], "more elements"),
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
            ("[NaN]", Fp32, &[1], "expected"),
            ("[1] 2", Fp32, &[1], "trailing"),
            ("[{}]", Fp32, &[1], "map"),
            ("[1.5]", Int32, &[1], "INT32"),
            ("[1.0]", Int32, &[1], "INT32"),
            ("[128]", Int8, &[1], "INT8"),
            ("[-1]", Uint8, &[1], "UINT8"),
            ("[18446744073709551616]", Uint64, &[1], "UINT64"),
            ("[1]", Bool, &[1], "BOOL"),
            ("[1]", Fp16, &[1], "FP16"),
            ("[\"a\"]", Bytes, &[1], "BYTES"),
        ] {
            let error = decode(json, datatype, shape).unwrap_err();
            assert!(error.contains(says), "{json} as {datatype:?}: {error}");
        }
    }

    #[test]
    fn deep_nesting_ends_at_the_shape() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(
            decode(&deep, Datatype::Fp32, &[1])
                .unwrap_err()
                .contains("deeper")
        );
    }

    #[test]
    fn outputs_are_written_as_they_are_read() {
        let data = Data::F32(vec![0.1, 1.0, f32::MIN_POSITIVE]);
        let json = serde_json::to_string(&data).unwrap();
        assert_eq!(decode(&json, Datatype::Fp32, &[3]), Ok(data));
        assert_eq!(
            serde_json::to_string(&Data::F32(vec![f32::NAN])).unwrap(),
            "[null]"
        );
    }
}

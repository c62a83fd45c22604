//! Tensor data in the typed fields of a protobuf message: one field for each width of number. FP16 and BF16
//! have none.

use crate::error::DataError;
use crate::grpc::pb::InferTensorContents;
use crate::tensor::Data;
use perwatt_model::Datatype;

/// Takes the elements out of their field.
///
/// # Errors
/// When they lie in another field, one is out of its type's range, or there are not exactly `count`.
pub fn decode(contents: InferTensorContents, datatype: Datatype, shape: &[usize]) -> Result<Data, DataError> {
    check_field(&contents, datatype)?;
    let c = contents;
    let data = match datatype {
        Datatype::Bool => Data::Bool(c.bool_contents),
        Datatype::Uint8 => Data::U8(narrow(&c.uint_contents, datatype)?),
        Datatype::Uint16 => Data::U16(narrow(&c.uint_contents, datatype)?),
        Datatype::Uint32 => Data::U32(c.uint_contents),
        Datatype::Uint64 => Data::U64(c.uint64_contents),
        Datatype::Int8 => Data::I8(narrow(&c.int_contents, datatype)?),
        Datatype::Int16 => Data::I16(narrow(&c.int_contents, datatype)?),
        Datatype::Int32 => Data::I32(c.int_contents),
        Datatype::Int64 => Data::I64(c.int64_contents),
        Datatype::Fp32 => Data::F32(c.fp32_contents),
        Datatype::Fp64 => Data::F64(c.fp64_contents),
        Datatype::Bytes => Data::Bytes(c.bytes_contents),
        // Their field has no place in the message, and so the check above has refused them.
        Datatype::Fp16 => Data::F16(Vec::new()),
        Datatype::Bf16 => Data::Bf16(Vec::new()),
    };
    let expected = shape.iter().product();
    if data.len() == expected {
        return Ok(data);
    }
    Err(DataError::Count {
        found: data.len(),
        expected,
        shape: shape.to_vec(),
    })
}

/// Puts the elements into their field; nothing for FP16 and BF16.
#[must_use]
pub fn encode(data: &Data) -> Option<InferTensorContents> {
    let mut c = InferTensorContents::default();
    match data {
        Data::Bool(v) => c.bool_contents.clone_from(v),
        Data::U8(v) => c.uint_contents = v.iter().map(|&n| n.into()).collect(),
        Data::U16(v) => c.uint_contents = v.iter().map(|&n| n.into()).collect(),
        Data::U32(v) => c.uint_contents.clone_from(v),
        Data::U64(v) => c.uint64_contents.clone_from(v),
        Data::I8(v) => c.int_contents = v.iter().map(|&n| n.into()).collect(),
        Data::I16(v) => c.int_contents = v.iter().map(|&n| n.into()).collect(),
        Data::I32(v) => c.int_contents.clone_from(v),
        Data::I64(v) => c.int64_contents.clone_from(v),
        Data::F32(v) => c.fp32_contents.clone_from(v),
        Data::F64(v) => c.fp64_contents.clone_from(v),
        Data::Bytes(v) => c.bytes_contents.clone_from(v),
        Data::F16(_) | Data::Bf16(_) => return None,
    }
    Some(c)
}

fn field(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => "raw contents",
    }
}

/// Only the datatype's own field may hold anything.
fn check_field(contents: &InferTensorContents, datatype: Datatype) -> Result<(), DataError> {
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    let filled = [
        ("bool_contents", !bool_contents.is_empty()),
        ("int_contents", !int_contents.is_empty()),
        ("int64_contents", !int64_contents.is_empty()),
        ("uint_contents", !uint_contents.is_empty()),
        ("uint64_contents", !uint64_contents.is_empty()),
        ("fp32_contents", !fp32_contents.is_empty()),
        ("fp64_contents", !fp64_contents.is_empty()),
        ("bytes_contents", !bytes_contents.is_empty()),
    ];
    let own = field(datatype);
    let has_place = !matches!(datatype, Datatype::Fp16 | Datatype::Bf16);
    if has_place && filled.iter().all(|&(name, is_filled)| name == own || !is_filled) {
        return Ok(());
    }
    Err(DataError::Field {
        datatype: datatype.as_str(),
        field: own,
    })
}

fn narrow<W: Copy + Into<i64>, N: TryFrom<W>>(values: &[W], datatype: Datatype) -> Result<Vec<N>, DataError> {
    let one = |(index, &value): (usize, &W)| {
        N::try_from(value).map_err(|_| DataError::Range {
            index,
            value: value.into(),
            datatype: datatype.as_str(),
        })
    };
    values.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back_from_its_field() {
        for data in [
            Data::Bool(vec![true, false]),
            Data::U8(vec![0, 255]),
            Data::U16(vec![0, u16::MAX]),
            Data::U32(vec![0, u32::MAX]),
            Data::U64(vec![0, u64::MAX]),
            Data::I8(vec![-128, 127]),
            Data::I16(vec![i16::MIN, i16::MAX]),
            Data::I32(vec![i32::MIN, i32::MAX]),
            Data::I64(vec![i64::MIN, i64::MAX]),
            Data::F32(vec![0.1, f32::INFINITY]),
            Data::F64(vec![0.1, f64::MIN]),
            Data::Bytes(vec!["".into(), vec![0xff].into()]),
        ] {
            let contents = encode(&data).unwrap();
            assert_eq!(decode(contents, data.datatype(), &[2, 1]), Ok(data));
        }
        assert_eq!(encode(&Data::zeros(Datatype::Fp16, 1)), None);
    }

    #[test]
    fn what_is_not_the_tensor_is_refused() {
        let says = |contents: InferTensorContents, datatype, count: usize, word: &str| {
            let error = decode(contents, datatype, &[count]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        let ints = |v: &[i32]| InferTensorContents {
            int_contents: v.to_vec(),
            ..InferTensorContents::default()
        };
        says(ints(&[1]), Datatype::Int32, 2, "1 elements");
        says(ints(&[1, 2, 3]), Datatype::Int32, 2, "3 elements");
        says(ints(&[128]), Datatype::Int8, 1, "128 at 0 is no INT8");
        says(ints(&[1]), Datatype::Fp32, 1, "fp32_contents");
        says(ints(&[1]), Datatype::Fp16, 1, "raw contents");
        says(InferTensorContents::default(), Datatype::Fp16, 0, "raw contents");
        let mut two = ints(&[1]);
        two.fp32_contents.push(1.0);
        says(two, Datatype::Int32, 1, "there alone");
    }
}

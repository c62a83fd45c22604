//! Tensors inside an ONNX file: what they say against what they hold.

use crate::inspect::{Code, quoted};
use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};

/// Most elements of one tensor; a file has at most 2 GiB.
const MAX_ELEMENTS: u64 = 1 << 31;
/// Most axes of a tensor.
const MAX_AXES: usize = 16;

/// What was found in a tensor.
pub enum TensorCheck {
    /// It holds what it says.
    Fine {
        /// Type of its elements.
        datatype: DataType,
        /// How many it has.
        elements: u64,
    },
    /// It cannot be used.
    Wrong(Code, String),
}

/// Compares a tensor's shape and type with its data.
pub fn check(tensor: &TensorProto) -> TensorCheck {
    let datatype = DataType::try_from(tensor.data_type).unwrap_or(DataType::Undefined);
    if !is_supported(datatype) {
        let message = format!("its datatype {} is not supported", type_name(tensor.data_type));
        return TensorCheck::Wrong(Code::Datatype, message);
    }
    if tensor.data_location == Some(DataLocation::External as i32) || !tensor.external_data.is_empty() {
        return TensorCheck::Wrong(Code::ExternalData, external(tensor));
    }
    let elements = match count(&tensor.dims) {
        Ok(elements) => elements,
        Err(message) => return TensorCheck::Wrong(Code::Size, message),
    };
    match held(tensor, datatype) {
        Some(held) if held != elements => TensorCheck::Wrong(
            Code::Shape,
            format!(
                "its shape {:?} means {elements} elements, it holds {held}",
                tensor.dims
            ),
        ),
        _ => TensorCheck::Fine { datatype, elements },
    }
}

fn external(tensor: &TensorProto) -> String {
    let location = tensor.external_data.iter().find(|entry| entry.key == "location");
    let file = location.map_or("another file".into(), |entry| quoted(&entry.value));
    format!(
        "its data lies in {file}: put the weights into the model file itself (onnx.save without external data)"
    )
}

fn count(dims: &[i64]) -> Result<u64, String> {
    let shown: Vec<_> = dims.iter().take(MAX_AXES).collect();
    if dims.len() > MAX_AXES {
        return Err(format!("its {} axes are more than {MAX_AXES}", dims.len()));
    }
    let product = dims
        .iter()
        .try_fold(1u64, |product, &n| product.checked_mul(u64::try_from(n).ok()?));
    match product {
        Some(elements) if elements <= MAX_ELEMENTS => Ok(elements),
        _ => Err(format!(
            "its shape {shown:?} is negative, or has more than {MAX_ELEMENTS} elements"
        )),
    }
}

/// Elements that the data has; nothing where the format leaves it open.
fn held(tensor: &TensorProto, datatype: DataType) -> Option<u64> {
    if !tensor.raw_data.is_empty() {
        let size = element_bytes(datatype)?;
        // A rest that makes no element must not round to the right count.
        return Some((tensor.raw_data.len() as u64).div_ceil(size));
    }
    let held = match datatype {
        DataType::Float => tensor.float_data.len(),
        DataType::Double => tensor.double_data.len(),
        DataType::Int64 => tensor.int64_data.len(),
        DataType::String => tensor.string_data.len(),
        DataType::Uint32 | DataType::Uint64 => return None,
        _ => tensor.int32_data.len(),
    };
    Some(held as u64)
}

fn element_bytes(datatype: DataType) -> Option<u64> {
    match datatype {
        DataType::Bool | DataType::Uint8 | DataType::Int8 => Some(1),
        DataType::Uint16 | DataType::Int16 | DataType::Float16 => Some(2),
        DataType::Uint32 | DataType::Int32 | DataType::Float => Some(4),
        DataType::Uint64 | DataType::Int64 | DataType::Double => Some(8),
        _ => None,
    }
}

/// The types that tract reads.
fn is_supported(datatype: DataType) -> bool {
    element_bytes(datatype).is_some() || datatype == DataType::String
}

fn type_name(number: i32) -> String {
    DataType::try_from(number).map_or_else(|_| number.to_string(), |known| known.as_str_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(dims: &[i64], held: usize) -> TensorProto {
        TensorProto {
            dims: dims.to_vec(),
            data_type: DataType::Float as i32,
            float_data: vec![0.0; held],
            ..TensorProto::default()
        }
    }

    #[test]
    fn a_tensor_holds_what_it_says() {
        assert!(matches!(
            check(&floats(&[2, 3], 6)),
            TensorCheck::Fine { elements: 6, .. }
        ));
        assert!(matches!(
            check(&floats(&[], 1)),
            TensorCheck::Fine { elements: 1, .. }
        ));
        assert!(matches!(
            check(&floats(&[0, 3], 0)),
            TensorCheck::Fine { elements: 0, .. }
        ));
        for (tensor, code) in [
            (floats(&[2, 3], 5), Code::Shape),
            (floats(&[-1], 1), Code::Size),
            (floats(&[1 << 40, 1 << 40], 1), Code::Size),
            (floats(&[1; 40], 1), Code::Size),
            (
                TensorProto {
                    raw_data: vec![0; 23],
                    ..floats(&[2, 2], 0)
                },
                Code::Shape,
            ),
            (
                TensorProto {
                    raw_data: vec![0; 15],
                    ..floats(&[1, 3], 0)
                },
                Code::Shape,
            ),
            (
                TensorProto {
                    data_type: 14,
                    ..floats(&[1], 1)
                },
                Code::Datatype,
            ),
            (
                TensorProto {
                    data_type: 999,
                    ..floats(&[1], 1)
                },
                Code::Datatype,
            ),
            (
                TensorProto {
                    data_location: Some(1),
                    ..floats(&[1], 1)
                },
                Code::ExternalData,
            ),
        ] {
            let TensorCheck::Wrong(found, message) = check(&tensor) else {
                panic!("{tensor:?} is wrong")
            };
            assert_eq!(found, code, "{message}");
        }
    }
}

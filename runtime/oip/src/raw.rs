//! Tensor data as bytes: little-endian elements one after the other, as the binary tensor data extension and
//! gRPC's raw contents have it. BOOL is a byte of 0 or 1; each of BYTES follows its length in four bytes.

use crate::error::DataError;
use crate::tensor::{Data, with_numbers};
use bytes::Bytes;
use half::{bf16, f16};
use perwatt_model::Datatype;

/// Bytes before each element of BYTES.
const LENGTH: usize = 4;

/// Reads `count` elements; BYTES stay views of `content`.
///
/// # Errors
/// When there are not exactly `count`, or one is none.
pub fn decode(content: &Bytes, datatype: Datatype, count: usize) -> Result<Data, DataError> {
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match datatype {
                $(Datatype::$datatype => elements::<$rust>(content, datatype, count).map(Data::$variant),)*
                Datatype::Bytes => texts(content, count).map(Data::Bytes),
            }
        };
    }
    with_numbers!(by_type)
}

/// Puts the elements behind what `out` has.
pub fn encode(data: &Data, out: &mut Vec<u8>) {
    out.reserve(encoded_len(data));
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match data {
                $(Data::$variant(values) => put(values, out),)*
                Data::Bytes(texts) => {
                    for text in texts {
                        // A text beyond 4 GiB cannot come out of a body that is bounded far below.
                        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                        out.extend_from_slice(&length.to_le_bytes());
                        out.extend_from_slice(text.get(..length as usize).unwrap_or_default());
                    }
                }
            }
        };
    }
    with_numbers!(by_type);
}

/// Bytes that [`encode`] will put.
#[must_use]
pub fn encoded_len(data: &Data) -> usize {
    macro_rules! by_type {
        ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
            match data {
                $(Data::$variant(values) => values.len() * <$rust>::SIZE,)*
                Data::Bytes(texts) => texts.iter().map(|text| LENGTH + text.len()).sum(),
            }
        };
    }
    with_numbers!(by_type)
}

/// An element of fixed size.
trait Fixed: Copy + Default {
    const SIZE: usize;
    /// Reads exactly [`Fixed::SIZE`] bytes.
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    /// The first byte that cannot be.
    fn wrong(_: &[u8]) -> Option<DataError> {
        None
    }
}

macro_rules! fixed {
    ($($rust:ty),*) => {
        $(impl Fixed for $rust {
            const SIZE: usize = size_of::<$rust>();
            fn read(bytes: &[u8]) -> Self {
                bytes.try_into().map_or_else(|_| Self::default(), Self::from_le_bytes)
            }
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        })*
    };
}
fixed!(u8, u16, u32, u64, i8, i16, i32, i64, f16, bf16, f32, f64);

impl Fixed for bool {
    const SIZE: usize = 1;
    fn read(bytes: &[u8]) -> Self {
        bytes == [1]
    }
    fn write(self, bytes: &mut [u8]) {
        bytes.fill(u8::from(self));
    }
    fn wrong(content: &[u8]) -> Option<DataError> {
        let index = content.iter().position(|&byte| byte > 1)?;
        let value = content.get(index).copied().unwrap_or_default();
        Some(DataError::Bool { index, value })
    }
}

fn elements<T: Fixed>(content: &[u8], datatype: Datatype, count: usize) -> Result<Vec<T>, DataError> {
    let expected = count.saturating_mul(T::SIZE);
    if content.len() != expected {
        return Err(DataError::Bytes {
            found: content.len(),
            expected,
            count,
            datatype: datatype.as_str(),
        });
    }
    match T::wrong(content) {
        Some(error) => Err(error),
        None => Ok(content.chunks_exact(T::SIZE).map(T::read).collect()),
    }
}

fn put<T: Fixed>(values: &[T], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + values.len() * T::SIZE, 0);
    let place = out.get_mut(start..).unwrap_or_default();
    for (value, bytes) in values.iter().zip(place.chunks_exact_mut(T::SIZE)) {
        value.write(bytes);
    }
}

fn texts(content: &Bytes, count: usize) -> Result<Vec<Bytes>, DataError> {
    let mut texts = Vec::with_capacity(count.min(content.len() / LENGTH));
    let mut rest = content.clone();
    for index in 0..count {
        let head = rest.split_first_chunk::<LENGTH>();
        let (head, _) = head.ok_or(DataError::Overrun { index })?;
        let length = u32::from_le_bytes(*head) as usize;
        let end = LENGTH
            .checked_add(length)
            .filter(|&end| end <= rest.len())
            .ok_or(DataError::Overrun { index })?;
        texts.push(rest.split_to(end).slice(LENGTH..));
    }
    if rest.is_empty() {
        Ok(texts)
    } else {
        Err(DataError::Trailing(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(data: &Data) -> Bytes {
        let mut out = Vec::new();
        encode(data, &mut out);
        assert_eq!(out.len(), encoded_len(data));
        out.into()
    }

    #[test]
    fn the_bytes_are_the_protocols() {
        assert_eq!(bytes(&Data::I16(vec![1, -2])), [1, 0, 0xfe, 0xff][..]);
        assert_eq!(bytes(&Data::F32(vec![1.0])), [0, 0, 0x80, 0x3f][..]);
        assert_eq!(bytes(&Data::F16(vec![f16::from_f32(1.0)])), [0, 0x3c][..]);
        assert_eq!(bytes(&Data::Bf16(vec![bf16::from_f32(1.0)])), [0x80, 0x3f][..]);
        assert_eq!(bytes(&Data::Bool(vec![true, false])), [1, 0][..]);
        let texts = Data::Bytes(vec!["ab".into(), "".into()]);
        assert_eq!(bytes(&texts), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0][..]);
    }

    #[test]
    fn what_is_not_exactly_the_elements_is_refused() {
        let read = |content: &[u8], datatype, count| {
            decode(&Bytes::copy_from_slice(content), datatype, count)
                .unwrap_err()
                .to_string()
        };
        assert!(read(&[0; 7], Datatype::Fp32, 2).contains("7 bytes"));
        assert!(read(&[0; 9], Datatype::Fp32, 2).contains("9 bytes"));
        assert!(read(&[], Datatype::Fp64, usize::MAX).contains("0 bytes"));
        assert!(read(&[1, 2], Datatype::Bool, 2).contains("byte 2 at 1"));
        assert!(read(&[1, 0, 0], Datatype::Bytes, 1).contains("element 0"));
        assert!(read(&[2, 0, 0, 0, 1], Datatype::Bytes, 1).contains("element 0"));
        assert!(read(&[0xff; 4], Datatype::Bytes, 1).contains("element 0"));
        assert!(read(&[0; 4], Datatype::Bytes, 2).contains("element 1"));
        assert!(read(&[0; 9], Datatype::Bytes, 2).contains("1 bytes"));
        assert!(read(&[0; 4], Datatype::Bytes, usize::MAX).contains("element 1"));
    }

    proptest! {
        #[test]
        fn numbers_come_back(values: Vec<i64>) {
            let data = Data::I64(values.clone());
            prop_assert_eq!(decode(&bytes(&data), Datatype::Int64, values.len()), Ok(data));
        }

        #[test]
        fn texts_come_back(texts: Vec<Vec<u8>>) {
            let data = Data::Bytes(texts.iter().cloned().map(Bytes::from).collect());
            prop_assert_eq!(decode(&bytes(&data), Datatype::Bytes, texts.len()), Ok(data));
        }

        #[test]
        fn noise_is_read_or_refused(content: Vec<u8>, count in 0usize..40) {
            if let Ok(data) = decode(&content.clone().into(), Datatype::Bytes, count) {
                prop_assert_eq!(bytes(&data), content);
            }
        }
    }
}

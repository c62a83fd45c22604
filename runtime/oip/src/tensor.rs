//! Tensors as the runtime passes them around: known to neither protocol nor backend.

use bytes::Bytes;
pub use perwatt_model::Datatype;

/// A dense tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data,
}

/// Calls `$then!` with the list of (variant, Rust type, protocol type) of the elements that machines
/// compute with everywhere: all of fixed size but BF16.
#[macro_export]
macro_rules! with_elements {
    ($then:ident) => {
        $then! {
            (Bool, bool, Bool), (U8, u8, Uint8), (U16, u16, Uint16), (U32, u32, Uint32), (U64, u64, Uint64),
            (I8, i8, Int8), (I16, i16, Int16), (I32, i32, Int32), (I64, i64, Int64),
            (F16, $crate::half::f16, Fp16), (F32, f32, Fp32), (F64, f64, Fp64)
        }
    };
}

/// Calls `$then!` with the list of (variant, Rust type, protocol type) of all elements of fixed size:
/// those of [`with_elements!`] and BF16. BYTES is the one type that is not there.
#[macro_export]
macro_rules! with_numbers {
    ($then:ident) => {
        $then! {
            (Bool, bool, Bool), (U8, u8, Uint8), (U16, u16, Uint16), (U32, u32, Uint32), (U64, u64, Uint64),
            (I8, i8, Int8), (I16, i16, Int16), (I32, i32, Int32), (I64, i64, Int64),
            (F16, $crate::half::f16, Fp16), (F32, f32, Fp32), (F64, f64, Fp64), (Bf16, $crate::half::bf16, Bf16)
        }
    };
}
pub use crate::{with_elements, with_numbers};

macro_rules! define_data {
    ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
        /// Elements of a tensor, by type.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)] // the names say all
        pub enum Data {
            $($variant(Vec<$rust>),)*
            Bytes(Vec<Bytes>),
        }

        impl Data {
            /// `count` zeros, or empty texts.
            #[must_use]
            pub fn zeros(datatype: Datatype, count: usize) -> Self {
                match datatype {
                    $(Datatype::$datatype => Self::$variant(vec![<$rust>::default(); count]),)*
                    Datatype::Bytes => Self::Bytes(vec![Bytes::new(); count]),
                }
            }

            /// Type of the elements.
            #[must_use]
            pub fn datatype(&self) -> Datatype {
                match self {
                    $(Self::$variant(_) => Datatype::$datatype,)*
                    Self::Bytes(_) => Datatype::Bytes,
                }
            }

            /// Number of elements.
            #[must_use]
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$variant(v) => v.len(),)*
                    Self::Bytes(v) => v.len(),
                }
            }

            /// `self` followed by `next`; nothing where the types differ.
            #[must_use]
            pub fn joined(&self, next: &Self) -> Option<Self> {
                match (self, next) {
                    $((Self::$variant(a), Self::$variant(b)) => Some(Self::$variant([&a[..], &b[..]].concat())),)*
                    (Self::Bytes(a), Self::Bytes(b)) => Some(Self::Bytes(a.iter().chain(b).cloned().collect())),
                    _ => None,
                }
            }

            /// All of `parts`, one behind the other; nothing where their types differ, or there are none.
            #[must_use]
            pub fn concatenated(parts: &[&Self]) -> Option<Self> {
                match parts.first()? {
                    $(Self::$variant(_) => {
                        let slices = parts.iter().map(|part| match part {
                            Self::$variant(v) => Some(&v[..]),
                            _ => None,
                        });
                        Some(Self::$variant(slices.collect::<Option<Vec<_>>>()?.concat()))
                    })*
                    Self::Bytes(_) => {
                        let slices = parts.iter().map(|part| match part {
                            Self::Bytes(v) => Some(&v[..]),
                            _ => None,
                        });
                        Some(Self::Bytes(slices.collect::<Option<Vec<_>>>()?.concat()))
                    }
                }
            }

            /// `count` parts of the same length; elements that would be left over are dropped.
            #[must_use]
            pub fn split(&self, count: usize) -> Vec<Self> {
                let length = (self.len() / count.max(1)).max(1);
                match self {
                    $(Self::$variant(v) => v.chunks_exact(length).map(|part| Self::$variant(part.to_vec())).collect(),)*
                    Self::Bytes(v) => v.chunks_exact(length).map(|part| Self::Bytes(part.to_vec())).collect(),
                }
            }

            /// The last `count` elements, or all where there are fewer.
            #[must_use]
            pub fn tail(&self, count: usize) -> Self {
                match self {
                    $(Self::$variant(v) => Self::$variant(v[v.len().saturating_sub(count)..].to_vec()),)*
                    Self::Bytes(v) => Self::Bytes(v[v.len().saturating_sub(count)..].to_vec()),
                }
            }
        }
    };
}
with_numbers!(define_data);

impl Data {
    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tensor {
    /// A tensor of zeros, or of empty texts.
    #[must_use]
    pub fn zeros(datatype: Datatype, shape: &[u32]) -> Self {
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let data = Data::zeros(datatype, shape.iter().product());
        Self { shape, data }
    }

    /// `context` put before this window, along the last axis.
    #[must_use]
    pub fn after(&self, context: &Data) -> Option<Self> {
        let mut shape = self.shape.clone();
        *shape.last_mut()? += context.len();
        Some(Self {
            shape,
            data: context.joined(&self.data)?,
        })
    }
}

/// The protocol's spelling of a datatype, read.
#[must_use]
pub fn parse_datatype(text: &str) -> Option<Datatype> {
    use Datatype as D;
    const ALL: [Datatype; 14] = [
        D::Fp32,
        D::Int8,
        D::Uint8,
        D::Bool,
        D::Uint16,
        D::Uint32,
        D::Uint64,
        D::Int16,
        D::Int32,
        D::Int64,
        D::Fp16,
        D::Bf16,
        D::Fp64,
        D::Bytes,
    ];
    ALL.into_iter().find(|datatype| datatype.as_str() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_follows_its_context() {
        let window = Tensor {
            shape: vec![1, 3],
            data: Data::F32(vec![3., 4., 5.]),
        };
        let long = window.after(&Data::F32(vec![1., 2.])).unwrap();
        assert_eq!(
            long,
            Tensor {
                shape: vec![1, 5],
                data: Data::F32(vec![1., 2., 3., 4., 5.])
            }
        );
        assert_eq!(window.data.tail(2), Data::F32(vec![4., 5.]));
        assert_eq!(window.after(&Data::I8(vec![1])), None);
    }

    #[test]
    fn parts_are_put_together_and_taken_apart() {
        let parts = [
            Data::I16(vec![1, 2]),
            Data::I16(vec![3, 4]),
            Data::I16(vec![5, 6]),
        ];
        let all = Data::concatenated(&parts.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(all, Data::I16(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(all.split(3), parts);
        assert_eq!(Data::concatenated(&[&parts[0], &Data::I8(vec![1])]), None);
        assert_eq!(Data::concatenated(&[]), None);
        let texts = Data::Bytes(vec!["a".into(), "b".into()]);
        assert_eq!(texts.split(2)[1], Data::Bytes(vec!["b".into()]));
    }

    #[test]
    fn zeros_have_the_shape() {
        assert_eq!(
            Tensor::zeros(Datatype::Int64, &[2, 3]).data,
            Data::I64(vec![0; 6])
        );
        assert_eq!(Tensor::zeros(Datatype::Bytes, &[2]).data.len(), 2);
    }

    #[test]
    fn every_datatype_is_read_as_it_is_written() {
        macro_rules! check {
            ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
                $(assert_eq!(parse_datatype(Datatype::$datatype.as_str()), Some(Datatype::$datatype));)*
            };
        }
        with_numbers!(check);
        assert_eq!(parse_datatype("BYTES"), Some(Datatype::Bytes));
        assert_eq!(parse_datatype("fp32"), None);
    }
}

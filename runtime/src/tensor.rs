//! Tensors as the runtime passes them around: known to neither protocol nor backend.

use perwatt_model::Datatype;

/// A dense tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data,
}

/// Calls `$then!` with the list of (variant, Rust type, protocol type) of every supported element.
macro_rules! with_elements {
    ($then:ident) => {
        $then! {
            (Bool, bool, Bool), (U8, u8, Uint8), (U16, u16, Uint16), (U32, u32, Uint32), (U64, u64, Uint64),
            (I8, i8, Int8), (I16, i16, Int16), (I32, i32, Int32), (I64, i64, Int64), (F32, f32, Fp32),
            (F64, f64, Fp64)
        }
    };
}
pub(crate) use with_elements;

macro_rules! define_data {
    ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
        /// Elements of a tensor, by type.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)] // the names say all
        pub enum Data {
            $($variant(Vec<$rust>)),*
        }

        impl Data {
            /// `count` zeros; nothing for a type that no backend takes yet.
            pub fn zeros(datatype: Datatype, count: usize) -> Option<Self> {
                match datatype {
                    $(Datatype::$datatype => Some(Self::$variant(vec![<$rust>::default(); count])),)*
                    Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => None,
                }
            }

            /// Type of the elements.
            pub fn datatype(&self) -> Datatype {
                match self { $(Self::$variant(_) => Datatype::$datatype),* }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(v) => v.len()),* }
            }

            /// `self` followed by `next`; nothing where the types differ.
            pub fn joined(&self, next: &Self) -> Option<Self> {
                match (self, next) {
                    $((Self::$variant(a), Self::$variant(b)) => Some(Self::$variant([&a[..], &b[..]].concat())),)*
                    _ => None,
                }
            }

            /// The last `count` elements, or all where there are fewer.
            pub fn tail(&self, count: usize) -> Self {
                match self { $(Self::$variant(v) => Self::$variant(v[v.len().saturating_sub(count)..].to_vec())),* }
            }
        }
    };
}
with_elements!(define_data);

impl Data {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Tensor {
    /// A tensor of zeros; nothing for a type that no backend takes yet.
    pub fn zeros(datatype: Datatype, shape: &[u32]) -> Option<Self> {
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let data = Data::zeros(datatype, shape.iter().product())?;
        Some(Self { shape, data })
    }

    /// `context` put before this window, along the last axis.
    pub fn after(&self, context: &Data) -> Option<Self> {
        let mut shape = self.shape.clone();
        *shape.last_mut()? += context.len();
        Some(Self {
            shape,
            data: context.joined(&self.data)?,
        })
    }
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
    fn zeros_have_the_shape_and_types_without_backend_are_refused() {
        assert_eq!(
            Tensor::zeros(Datatype::Int64, &[2, 3]).unwrap().data,
            Data::I64(vec![0; 6])
        );
        assert_eq!(Tensor::zeros(Datatype::Bytes, &[1]), None);
    }
}

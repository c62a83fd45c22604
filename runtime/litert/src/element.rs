//! Types of tensor elements, as files and the C library number them.

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say all
pub enum Element {
    Float16,
    Float32,
    Float64,
    Bfloat16,
    Int4,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Bool,
    Complex64,
    Complex128,
    /// Text of any length.
    String,
    /// A handle to a variable that the interpreter keeps.
    Resource,
    /// A list of tensors, or something else that only operators know.
    Variant,
}

impl Element {
    /// The type that a file calls `number`.
    pub(crate) fn of_file(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Float32,
            1 => Self::Float16,
            2 => Self::Int32,
            3 => Self::Uint8,
            4 => Self::Int64,
            5 => Self::String,
            6 => Self::Bool,
            7 => Self::Int16,
            8 => Self::Complex64,
            9 => Self::Int8,
            10 => Self::Float64,
            11 => Self::Complex128,
            12 => Self::Uint64,
            13 => Self::Resource,
            14 => Self::Variant,
            15 => Self::Uint32,
            16 => Self::Uint16,
            17 => Self::Int4,
            18 => Self::Bfloat16,
            _ => return None,
        })
    }

    /// The type that the C library calls `number`: it counts otherwise than files do.
    pub(crate) fn of_library(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Float32,
            2 => Self::Int32,
            3 => Self::Uint8,
            4 => Self::Int64,
            5 => Self::String,
            6 => Self::Bool,
            7 => Self::Int16,
            8 => Self::Complex64,
            9 => Self::Int8,
            10 => Self::Float16,
            11 => Self::Float64,
            12 => Self::Complex128,
            13 => Self::Uint64,
            14 => Self::Resource,
            15 => Self::Variant,
            16 => Self::Uint32,
            17 => Self::Uint16,
            18 => Self::Int4,
            19 => Self::Bfloat16,
            _ => return None,
        })
    }

    /// Bytes that `count` elements take; nothing where that is not fixed, or too many for this machine.
    pub fn bytes(self, count: usize) -> Option<usize> {
        let each = match self {
            Self::Int4 => return Some(count.div_ceil(2)),
            Self::Bool | Self::Int8 | Self::Uint8 => 1,
            Self::Float16 | Self::Bfloat16 | Self::Int16 | Self::Uint16 => 2,
            Self::Float32 | Self::Int32 | Self::Uint32 => 4,
            Self::Float64 | Self::Int64 | Self::Uint64 | Self::Complex64 => 8,
            Self::Complex128 => 16,
            Self::String | Self::Resource | Self::Variant => return None,
        };
        count.checked_mul(each)
    }
}

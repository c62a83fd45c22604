//! Tensors, which the wire formats define.

pub use perwatt_oip::tensor::*;

//! Shapes of tensors on their way, and steps that only move elements.

use super::elements::{Sliced, Transposed, joined, moved};
use super::line::{Result, Tool};
use crate::tensor::{Data, Tensor};

/// Length of the last axis: channels, classes or samples.
pub fn last(tensor: &Tensor) -> usize {
    tensor.shape.last().copied().unwrap_or(1)
}

/// Place of an axis that is counted from the end where negative.
pub fn place(axis: i8, tensor: &Tensor) -> usize {
    let from_end = usize::from(axis.unsigned_abs());
    usize::try_from(axis).unwrap_or_else(|_| tensor.shape.len().saturating_sub(from_end))
}

/// Number of elements behind one entry of an axis.
pub fn inner(tensor: &Tensor, axis: usize) -> usize {
    tensor.shape.iter().skip(axis + 1).product()
}

/// Rows of `columns` values.
pub fn matrix(values: Vec<f32>, columns: usize) -> Tensor {
    Tensor {
        shape: vec![values.len() / columns.max(1), columns],
        data: Data::F32(values),
    }
}

/// Other values in the shape of `tensor`.
pub fn same_shape(tensor: &Tensor, values: Vec<f32>) -> Tensor {
    Tensor {
        shape: tensor.shape.clone(),
        data: Data::F32(values),
    }
}

/// The shape of `tensor` with another last axis.
pub fn with_last(tensor: &Tensor, length: usize, data: Data) -> Tensor {
    let mut shape = tensor.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = length;
    }
    Tensor { shape, data }
}

/// Axes in another order.
pub fn transposed(tensor: &Tensor, axes: &[usize]) -> Result<Tensor> {
    let shape = &tensor.shape;
    let data = moved(&tensor.data, &Transposed { shape, axes })?;
    let shape = axes.iter().filter_map(|&axis| shape.get(axis).copied());
    Ok(Tensor {
        shape: shape.collect(),
        data,
    })
}

/// `count` entries of an axis, from `start` on.
pub fn sliced(tensor: &Tensor, axis: usize, start: usize, count: usize) -> Result<Tensor> {
    let how = Sliced {
        shape: &tensor.shape,
        axis,
        start,
        count,
    };
    let data = moved(&tensor.data, &how)?;
    Ok(with_axis(tensor, axis, count, data))
}

/// Another output of the model put behind this one.
pub fn join(tensor: &Tensor, tool: &Tool, all: &[Tensor], axis: usize) -> Result<Tensor> {
    let other = match tool {
        Tool::Output(place) => all.get(*place),
        _ => None,
    };
    let other = other.ok_or("the other output is not there")?;
    let length = |t: &Tensor| t.shape.get(axis).copied().unwrap_or(0);
    let (a, b) = (length(tensor), length(other));
    let data = joined(&tensor.data, &other.data, a, b, inner(tensor, axis))?;
    Ok(with_axis(tensor, axis, a + b, data))
}

fn with_axis(tensor: &Tensor, axis: usize, length: usize, data: Data) -> Tensor {
    let mut shape = tensor.shape.clone();
    if let Some(entry) = shape.get_mut(axis) {
        *entry = length;
    }
    Tensor { shape, data }
}

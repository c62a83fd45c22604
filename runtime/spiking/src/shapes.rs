//! Shapes of what nodes give, and the sizes of convolutions and poolings.

use crate::conv::{Axis, Convolution, Sizes};
use crate::graph::{Conv, Padding, Pool};
use crate::pool::Pooling;

/// Most elements of what a node gives.
const MAX_ELEMENTS: usize = 1 << 23;

/// Number of elements; nothing where that overflows.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n))
}

/// What comes in, in the shape that a node declares.
pub(crate) fn reshaped(declared: Option<&[usize]>, input: &[usize]) -> Result<Vec<usize>, String> {
    match declared {
        Some(declared) if elements(declared) != elements(input) => {
            Err(format!("it is made for {declared:?}, but {input:?} comes in"))
        }
        Some(declared) => Ok(declared.to_vec()),
        None => Ok(input.to_vec()),
    }
}

/// `shape` with the axes `start` to `end` made one.
pub(crate) fn flattened(shape: &[usize], start: i64, end: i64) -> Result<Vec<usize>, String> {
    let axes = shape.len() as i64;
    let axis = |dim: i64| if dim < 0 { dim + axes } else { dim };
    let (first, last) = (axis(start), axis(end));
    if axes == 0 || first < 0 || last < first || last >= axes {
        return Err(format!(
            "start_dim {start} to end_dim {end} are no axes of {shape:?}"
        ));
    }
    let (first, last) = (first as usize, last as usize);
    let (before, rest) = shape.split_at(first);
    let (middle, after) = rest.split_at(last + 1 - first);
    Ok([before, &[middle.iter().product()], after].concat())
}

/// One number for each axis; a single one holds for all.
fn per_axis(name: &str, lengths: &[usize], axes: usize) -> Result<Vec<usize>, String> {
    match lengths {
        [length] => Ok(vec![*length; axes]),
        lengths if lengths.len() == axes => Ok(lengths.to_vec()),
        lengths => Err(format!(
            "{name}: {lengths:?} has not one number for each of {axes} axes"
        )),
    }
}

/// An axis of a convolution: kernel, stride, dilation, and zeros on both sides.
fn axis(conv: &Conv, input: usize, kernel: usize, place: usize, axes: usize) -> Result<Axis, String> {
    let at = |name: &str, lengths: &[usize]| -> Result<usize, String> {
        Ok(per_axis(name, lengths, axes)?.get(place).copied().unwrap_or(0))
    };
    let stride = at("stride", &conv.stride)?;
    let dilation = at("dilation", &conv.dilation)?;
    let (before, after) = match &conv.padding {
        Padding::Zeros(zeros) => {
            let zeros = at("padding", zeros)?;
            (zeros, zeros)
        }
        Padding::Same if stride != 1 => return Err("padding: \"same\" needs a stride of 1".into()),
        Padding::Same => {
            let total = dilation.saturating_mul(kernel.saturating_sub(1));
            (total / 2, total - total / 2)
        }
    };
    Ok(Axis {
        input,
        kernel,
        stride,
        before,
        after,
        dilation,
    })
}

const UNIT: Axis = Axis {
    input: 1,
    kernel: 1,
    stride: 1,
    before: 0,
    after: 0,
    dilation: 1,
};

/// A convolution over the last `axes` axes (1 or 2), and the shape of what it gives.
pub(crate) fn convolution(
    conv: &Conv,
    input: &[usize],
    axes: usize,
) -> Result<(Convolution, Vec<usize>), String> {
    let [outputs, group_inputs, kernel @ ..] = &conv.weight.shape[..] else {
        return Err(format!(
            "weight: {:?} is not [out, in, kernel…]",
            conv.weight.shape
        ));
    };
    if kernel.len() != axes || elements(&conv.weight.shape) != Some(conv.weight.values.len()) {
        return Err(format!(
            "weight: {:?} has not {axes} axes behind its channels",
            conv.weight.shape
        ));
    }
    if conv.groups == 0 || *group_inputs == 0 || *outputs == 0 || !outputs.is_multiple_of(conv.groups) {
        return Err(format!(
            "groups: {} do not divide {outputs} output channels",
            conv.groups
        ));
    }
    let lengths = spatial(conv, input, group_inputs.saturating_mul(conv.groups), axes)?;
    let found = (0..axes).zip(&lengths).zip(kernel);
    let found: Vec<Axis> = found
        .map(|((place, &length), &kernel)| axis(conv, length, kernel, place, axes))
        .collect::<Result<_, _>>()?;
    let (rows, columns) = match found[..] {
        [columns] => (UNIT, columns),
        [rows, columns] => (rows, columns),
        _ => return Err("it has neither one axis nor two".into()),
    };
    if conv.bias.values.len() != *outputs {
        return Err(format!(
            "bias: it has {} numbers for {outputs} channels",
            conv.bias.values.len()
        ));
    }
    let sizes = Sizes {
        rows,
        columns,
        outputs: *outputs,
        group_inputs: *group_inputs,
        groups: conv.groups,
    };
    let shape = output_shape(*outputs, &found)?;
    Convolution::new(sizes, &conv.weight.values, &conv.bias.values)
        .map(|convolution| (convolution, shape))
        .ok_or_else(|| no_window(&found))
}

fn no_window(axes: &[Axis]) -> String {
    format!("no window fits: {axes:?}")
}

/// Channels and windows; refused before anything of that size is made.
fn output_shape(channels: usize, axes: &[Axis]) -> Result<Vec<usize>, String> {
    let windows: Option<Vec<usize>> = axes.iter().map(Axis::output).collect();
    let mut shape = vec![channels];
    shape.extend(windows.ok_or_else(|| no_window(axes))?);
    match elements(&shape) {
        Some(count) if count <= MAX_ELEMENTS => Ok(shape),
        _ => Err(format!("it gives {shape:?}, more than {MAX_ELEMENTS} elements")),
    }
}

/// Lengths of the input's axes behind its channels.
fn spatial(conv: &Conv, input: &[usize], channels: usize, axes: usize) -> Result<Vec<usize>, String> {
    let declared = match &conv.input_shape {
        Some(lengths) if lengths.len() == axes => [&[channels], &lengths[..]].concat(),
        Some(lengths) => return Err(format!("input_shape: {lengths:?} has not {axes} axes")),
        None => input.to_vec(),
    };
    let shape = reshaped(Some(&declared), input)?;
    match &shape[..] {
        [found, lengths @ ..] if *found == channels && lengths.len() == axes => Ok(lengths.to_vec()),
        _ => Err(format!(
            "it takes {channels} channels of {axes} axes, but {input:?} comes in"
        )),
    }
}

/// A pooling over the last two of three axes, and the shape of what it gives.
pub(crate) fn pooling(pool: &Pool, input: &[usize], is_mean: bool) -> Result<(Pooling, Vec<usize>), String> {
    let [channels, height, width] = *input else {
        return Err(format!(
            "it takes [channels, height, width], but {input:?} comes in"
        ));
    };
    let kernel = per_axis("kernel_size", &pool.kernel, 2)?;
    let stride = per_axis("stride", &pool.stride, 2)?;
    let padding = per_axis("padding", &pool.padding, 2)?;
    let sizes = [height, width].into_iter().zip(kernel).zip(stride).zip(padding);
    let axes: Vec<Axis> = sizes
        .map(|(((input, kernel), stride), zeros)| Axis {
            input,
            kernel,
            stride,
            before: zeros,
            after: zeros,
            dilation: 1,
        })
        .collect();
    let shape = output_shape(channels, &axes)?;
    let [rows, columns] = axes[..] else {
        return Err("it has not two axes".into());
    };
    let pooling = Pooling::new(rows, columns, is_mean).ok_or_else(|| no_window(&axes))?;
    Ok((pooling, shape))
}

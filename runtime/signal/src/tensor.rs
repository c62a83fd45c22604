//! Order and choice of elements, for any type: transposing, slicing.

use crate::error::{SignalError, check_size, length, parameter};

/// Elements of a row-major tensor of `shape` in the order of `axes`: numpy's `transpose`.
/// `transpose(hwc, [h, w, c], [2, 0, 1])` gives planes.
///
/// # Errors
/// When `axes` is not an order of the axes, or the shape is not that of the values.
pub fn transpose<T: Copy>(values: &[T], shape: &[usize], axes: &[usize]) -> Result<Vec<T>, SignalError> {
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..shape.len()) {
        return Err(parameter(
            "axes",
            format!("{axes:?} is not an order of {} axes", shape.len()),
        ));
    }
    check_shape(values.len(), shape)?;
    let strides = strides(shape);
    let pick = |of: &[usize]| {
        axes.iter()
            .filter_map(|&a| of.get(a).copied())
            .collect::<Vec<_>>()
    };
    let (lengths, steps) = (pick(shape), pick(&strides));
    let mut out = Vec::with_capacity(values.len());
    let mut place = vec![0usize; lengths.len()];
    let mut at = 0;
    while out.len() < values.len() {
        out.extend(values.get(at));
        advance(&mut place, &mut at, &lengths, &steps);
    }
    Ok(out)
}

/// Moves to the next place in row-major order, keeping the offset `at` in step.
fn advance(place: &mut [usize], at: &mut usize, lengths: &[usize], steps: &[usize]) {
    for ((place, &length), &step) in place.iter_mut().zip(lengths).zip(steps).rev() {
        *place += 1;
        *at += step;
        if *place < length {
            return;
        }
        *at -= step * length;
        *place = 0;
    }
}

/// `length` entries from `start` along `axis`.
///
/// # Errors
/// When they are not all there, or the shape is not that of the values.
pub fn slice<T: Copy>(
    values: &[T],
    shape: &[usize],
    axis: usize,
    start: usize,
    count: usize,
) -> Result<Vec<T>, SignalError> {
    check_shape(values.len(), shape)?;
    let Some(&all) = shape.get(axis) else {
        return Err(parameter("axis", format!("{axis} is not below {}", shape.len())));
    };
    let end = start.checked_add(count).filter(|&end| end <= all && count > 0);
    let Some(end) = end else {
        return Err(length(
            "the axis",
            all,
            format!("{count} from {start} on are not among them"),
        ));
    };
    let inner: usize = shape.iter().skip(axis + 1).product();
    let rows = values.chunks_exact((all * inner).max(1));
    let picked = rows.filter_map(|row| row.get(start * inner..end * inner));
    Ok(picked.flatten().copied().collect())
}

/// `first` and `second` put together along `axis`, which has `a` and `b` entries; `inner` elements lie behind it.
///
/// # Errors
/// When the two have not the same number of rows.
pub fn join<T: Copy>(
    first: &[T],
    second: &[T],
    a: usize,
    b: usize,
    inner: usize,
) -> Result<Vec<T>, SignalError> {
    let (a, b) = (a.saturating_mul(inner), b.saturating_mul(inner));
    if a == 0
        || b == 0
        || !first.len().is_multiple_of(a)
        || second.len() != (first.len() / a).saturating_mul(b)
    {
        return Err(length(
            "the second tensor",
            second.len(),
            "which do not fit beside the first",
        ));
    }
    check_size("the joined tensor", &[first.len() / a, a + b])?;
    let rows = first.chunks_exact(a).zip(second.chunks_exact(b));
    Ok(rows.flat_map(|(x, y)| x.iter().chain(y)).copied().collect())
}

fn check_shape(elements: usize, shape: &[usize]) -> Result<(), SignalError> {
    if check_size("the tensor", shape)? == elements {
        return Ok(());
    }
    Err(length("the tensor", elements, format!("its shape is {shape:?}")))
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut step = 1;
    for (stride, &n) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step *= n;
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_planes_and_planes_pixels() {
        let hwc = [1, 10, 100, 2, 20, 200];
        let chw = transpose(&hwc, &[1, 2, 3], &[2, 0, 1]).unwrap();
        assert_eq!(chw, [1, 2, 10, 20, 100, 200]);
        assert_eq!(transpose(&chw, &[3, 1, 2], &[1, 2, 0]).unwrap(), hwc);
        assert!(transpose(&hwc, &[1, 2, 3], &[0, 0, 1]).is_err());
        assert!(transpose(&hwc, &[1, 2, 4], &[0, 1, 2]).is_err());
    }

    #[test]
    fn a_slice_takes_entries_along_its_axis() {
        let values = [0, 1, 2, 3, 4, 5];
        assert_eq!(slice(&values, &[2, 3], 1, 1, 2).unwrap(), [1, 2, 4, 5]);
        assert_eq!(slice(&values, &[2, 3], 0, 1, 1).unwrap(), [3, 4, 5]);
        for (axis, start, count) in [(2, 0, 1), (1, 2, 2), (1, usize::MAX, 2), (0, 0, 0)] {
            assert!(slice(&values, &[2, 3], axis, start, count).is_err());
        }
    }

    #[test]
    fn tensors_join_along_an_axis() {
        assert_eq!(join(&[1, 2, 3, 4], &[8, 9], 2, 1, 1).unwrap(), [1, 2, 8, 3, 4, 9]);
        assert!(join(&[1, 2, 3, 4], &[8], 2, 1, 1).is_err());
    }
}

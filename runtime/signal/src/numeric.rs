//! Element by element: normalising, quantising.

use crate::error::{SignalError, check_finite, length, parameter};

/// `y = (x · scale − mean[c]) / std[c]`, where `c` is the place along the channel axis.
///
/// `inner` is the number of elements behind the channel axis (1 where channels come last). `mean` and `std` have
/// one entry, or one for each channel. This is torchvision's `Normalize` after its `ToTensor` with `scale` 1/255.
///
/// # Errors
/// When `mean` and `std` differ in length, `std` holds a zero, or the signal is not whole pixels.
pub fn normalize(
    values: &[f32],
    inner: usize,
    scale: f32,
    mean: &[f32],
    std: &[f32],
) -> Result<Vec<f32>, SignalError> {
    if mean.is_empty() || mean.len() != std.len() {
        return Err(parameter(
            "std",
            format!("it has {} entries, mean {}", std.len(), mean.len()),
        ));
    }
    check_finite("mean", mean)?;
    check_finite("std", std)?;
    if std.contains(&0.0) || !scale.is_finite() {
        return Err(parameter(
            "std",
            "a zero, or a scale that is not finite, has no result",
        ));
    }
    let pixel = mean.len().saturating_mul(inner.max(1));
    if !values.len().is_multiple_of(pixel) {
        return Err(length(
            "the signal",
            values.len(),
            format!("which are not whole pixels of {pixel}"),
        ));
    }
    let per_channel = |block: &[f32], mean: f32, std: f32, out: &mut Vec<f32>| {
        out.extend(block.iter().map(|x| (x * scale - mean) / std));
    };
    let mut out = Vec::with_capacity(values.len());
    for pixel in values.chunks_exact(pixel) {
        for (block, (&mean, &std)) in pixel.chunks_exact(inner.max(1)).zip(mean.iter().zip(std)) {
            per_channel(block, mean, std, &mut out);
        }
    }
    Ok(out)
}

/// `q = clamp(round(x / scale) + zero_point, least, most)`, ties to even: ONNX `QuantizeLinear`.
///
/// # Errors
/// When `scale` is not greater than 0, or an element is NaN.
pub fn quantize(
    values: &[f32],
    scale: f32,
    zero_point: i32,
    least: i32,
    most: i32,
) -> Result<Vec<i32>, SignalError> {
    check_scale(scale)?;
    if let Some(index) = values.iter().position(|v| v.is_nan()) {
        return Err(SignalError::NotFinite {
            what: "the signal",
            index,
        });
    }
    let one = |&x: &f32| {
        let level = (f64::from(x) / f64::from(scale)).round_ties_even() + f64::from(zero_point);
        // Within i32 after the clamp.
        level.clamp(f64::from(least), f64::from(most)) as i32
    };
    Ok(values.iter().map(one).collect())
}

/// `x = (q − zero_point) · scale`: ONNX `DequantizeLinear`.
///
/// # Errors
/// When `scale` is not greater than 0.
pub fn dequantize(values: &[f32], scale: f32, zero_point: i32) -> Result<Vec<f32>, SignalError> {
    check_scale(scale)?;
    let zero = zero_point as f32;
    Ok(values.iter().map(|q| (q - zero) * scale).collect())
}

fn check_scale(scale: f32) -> Result<(), SignalError> {
    if scale.is_finite() && scale > 0.0 {
        return Ok(());
    }
    Err(parameter(
        "scale",
        format!("{scale} is not a number greater than 0"),
    ))
}

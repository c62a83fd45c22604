//! Scores: probabilities, the best classes. Rows are independent of each other.

use crate::error::{SignalError, check_finite, parameter, rows};

/// `exp(x − max) / Σ exp(x − max)` along rows of `classes`.
///
/// # Errors
/// When the rows are empty, torn or not finite.
pub fn softmax(values: &[f32], classes: usize) -> Result<Vec<f32>, SignalError> {
    rows("the scores", values.len(), classes)?;
    check_finite("the scores", values)?;
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(classes) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|x| (x - most).exp()).sum();
        out.extend(row.iter().map(|x| (x - most).exp() / sum));
    }
    Ok(out)
}

/// `1 / (1 + exp(−x))`, written so that neither end overflows.
///
/// # Errors
/// When an element is not finite.
pub fn sigmoid(values: &[f32]) -> Result<Vec<f32>, SignalError> {
    check_finite("the scores", values)?;
    let one = |&x: &f32| {
        let e = (-x.abs()).exp();
        if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
    };
    Ok(values.iter().map(one).collect())
}

/// Place of the largest value of each row; the first of equals.
///
/// # Errors
/// When the rows are empty, torn or not finite.
pub fn arg_max(values: &[f32], classes: usize) -> Result<Vec<i64>, SignalError> {
    Ok(top(values, classes, 1)?
        .into_iter()
        .map(|(place, _)| place as i64)
        .collect())
}

/// Places and values of the `count` largest values of each row, the largest first, the first of equals first.
///
/// # Errors
/// When the rows are empty, torn, not finite, or shorter than `count`.
pub fn top(values: &[f32], classes: usize, count: usize) -> Result<Vec<(usize, f32)>, SignalError> {
    let rows = rows("the scores", values.len(), classes)?;
    check_finite("the scores", values)?;
    if count == 0 || count > classes {
        return Err(parameter(
            "count",
            format!("{count} is not between 1 and the row's length, {classes}"),
        ));
    }
    let mut out = Vec::with_capacity(rows * count);
    for row in values.chunks_exact(classes) {
        let mut ranked: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
        let before = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if count < classes {
            ranked.select_nth_unstable_by(count, before);
            ranked.truncate(count);
        }
        ranked.sort_unstable_by(before);
        out.append(&mut ranked);
    }
    Ok(out)
}

//! Boxes of detected objects: the best of those that overlap.

use crate::error::{SignalError, check_finite, parameter, rows};
use serde::{Deserialize, Serialize};

/// Values of one detection in the result: x1, y1, x2, y2, score, class.
pub const DETECTION: usize = 6;
/// Boxes that are compared with each other; of more, those with the best scores.
pub const MAX_CANDIDATES: usize = 4096;

/// What the first four values of a row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BoxForm {
    /// x1, y1, x2, y2: two corners.
    Corners,
    /// x, y of the middle, width, height.
    Center,
}

/// The parameters of [`suppress`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Suppression {
    /// What the first four values of a row are.
    pub form: BoxForm,
    /// Boxes whose best class scores less are left out.
    pub score: f32,
    /// Of two boxes of one class that overlap by more, the worse is left out.
    pub overlap: f32,
    /// Rows of the result.
    pub most: usize,
}

#[derive(Debug, Clone, Copy)]
struct Detection {
    corners: [f32; 4],
    score: f32,
    class: usize,
}

/// Greedy non-maximum suppression within each class. A row of `width` holds four values of a box, then a score for
/// each class; a box counts for its best class alone.
///
/// The result has `most` rows of [`DETECTION`] values, the best score first; rows that stay empty are zeros with
/// class −1. Overlap is intersection over union.
///
/// # Errors
/// When rows are torn or not finite, have no class, or a parameter is out of its range.
pub fn suppress(values: &[f32], width: usize, how: &Suppression) -> Result<Vec<f32>, SignalError> {
    let unit = 0.0..=1.0;
    if !unit.contains(&how.overlap) || !how.score.is_finite() {
        return Err(parameter(
            "overlap",
            format!("{} is not between 0 and 1", how.overlap),
        ));
    }
    if how.most == 0 || how.most > MAX_CANDIDATES {
        return Err(parameter(
            "most",
            format!("{} is not between 1 and {MAX_CANDIDATES}", how.most),
        ));
    }
    if width < 5 {
        return Err(parameter(
            "boxes",
            format!("a row of {width} values has no box and score"),
        ));
    }
    rows("the boxes", values.len(), width)?;
    check_finite("the boxes", values)?;
    let mut candidates: Vec<Detection> = values
        .chunks_exact(width)
        .filter_map(|row| detection(row, how))
        .collect();
    // A stable sort: of equal scores the first comes first.
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(MAX_CANDIDATES);
    let mut kept: Vec<Detection> = Vec::new();
    for candidate in candidates {
        let hidden = |k: &Detection| {
            k.class == candidate.class && overlap(&k.corners, &candidate.corners) > how.overlap
        };
        if kept.len() < how.most && !kept.iter().any(hidden) {
            kept.push(candidate);
        }
    }
    Ok(rows_of(&kept, how.most))
}

fn detection(row: &[f32], how: &Suppression) -> Option<Detection> {
    let (place, scores) = row.split_first_chunk::<4>()?;
    let better =
        |best: (usize, f32), next: (usize, &f32)| if *next.1 > best.1 { (next.0, *next.1) } else { best };
    let (class, score) = scores.iter().enumerate().fold((0, f32::NEG_INFINITY), better);
    let &[a, b, c, d] = place;
    let corners = match how.form {
        BoxForm::Corners => [a, b, c, d],
        BoxForm::Center => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
    };
    (score >= how.score).then_some(Detection {
        corners,
        score,
        class,
    })
}

/// Intersection over union of two boxes; 0 where one has no area.
pub fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |[x1, y1, x2, y2]: [f32; 4]| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(*a) + area(*b) - common;
    if union > 0.0 { common / union } else { 0.0 }
}

fn rows_of(kept: &[Detection], most: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(most * DETECTION);
    for d in kept {
        out.extend(d.corners);
        out.extend([d.score, d.class as f32]);
    }
    while out.len() < most * DETECTION {
        out.extend([0.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
    }
    out
}

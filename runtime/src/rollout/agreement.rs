//! Whether two revisions said the same of one input.

use crate::tensor::{Data, Tensor};
use perwatt_model::Manifest;

/// Numbers differ where they are further apart than this share of the larger one.
const RELATIVE: f64 = 1e-2;
/// And than this.
const ABSOLUTE: f64 = 1e-3;

/// Whether two answers agree. An output with a number for each label agrees where the same label is the largest;
/// other numbers where they are within one percent, or a thousandth; whole numbers and texts where they are the same.
pub fn agree(manifest: &Manifest, left: &[Tensor], right: &[Tensor]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).enumerate().all(|(place, (left, right))| {
            let output = manifest.outputs.get(place).map(|output| output.name.as_str());
            let sure = manifest.confidence.as_ref().map(|c| c.output.as_str());
            let classes = match manifest.labels.len() {
                0 if output.is_some() && output == sure => left.data.len(),
                labels => labels,
            };
            left.shape == right.shape && same(&left.data, &right.data, classes)
        })
}

fn same(left: &Data, right: &Data, classes: usize) -> bool {
    let Some((left_numbers, right_numbers)) = numbers(left).zip(numbers(right)) else {
        return left == right;
    };
    if classes > 1 && left_numbers.len().is_multiple_of(classes) {
        let rows = left_numbers.chunks(classes).zip(right_numbers.chunks(classes));
        return left_numbers.len() == right_numbers.len()
            && rows.into_iter().all(|(l, r)| largest(l) == largest(r));
    }
    let pairs = left_numbers.iter().zip(&right_numbers);
    left_numbers.len() == right_numbers.len() && pairs.into_iter().all(|(l, r)| near(*l, *r))
}

fn numbers(data: &Data) -> Option<Vec<f64>> {
    match data {
        Data::F16(values) => Some(values.iter().map(|v| v.to_f64()).collect()),
        Data::F32(values) => Some(values.iter().map(|v| f64::from(*v)).collect()),
        Data::F64(values) => Some(values.clone()),
        _ => None,
    }
}

fn largest(row: &[f64]) -> Option<usize> {
    (0..row.len()).max_by(|l, r| row[*l].total_cmp(&row[*r]).then(r.cmp(l)))
}

fn near(left: f64, right: f64) -> bool {
    let apart = (left - right).abs();
    let allowed = (RELATIVE * left.abs().max(right.abs())).max(ABSOLUTE);
    apart <= allowed || left == right || (left.is_nan() && right.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Data {
        Data::F32(values.to_vec())
    }

    #[test]
    fn classes_agree_by_the_largest_and_numbers_by_how_near_they_are() {
        let (left, right) = (floats(&[0.1, 0.7, 0.2]), floats(&[0.3, 0.4, 0.3]));
        assert!(same(&left, &right, 3));
        assert!(!same(&left, &right, 0));
        assert!(!same(&left, &floats(&[0.8, 0.1, 0.1]), 3));
        assert!(same(&floats(&[100.0, 0.0]), &floats(&[100.9, 0.0005]), 0));
        assert!(!same(&floats(&[100.0]), &floats(&[102.0]), 0));
    }

    #[test]
    fn what_is_no_number_agrees_with_itself_alone() {
        let (nan, inf) = (floats(&[f32::NAN]), floats(&[f32::INFINITY]));
        assert!(same(&nan, &nan, 0) && same(&inf, &inf, 0));
        assert!(!same(&nan, &inf, 0) && !same(&nan, &floats(&[0.0]), 0));
    }

    #[test]
    fn whole_numbers_agree_where_they_are_the_same() {
        assert!(same(&Data::I64(vec![3]), &Data::I64(vec![3]), 0));
        assert!(!same(&Data::I64(vec![300]), &Data::I64(vec![301]), 0));
    }
}

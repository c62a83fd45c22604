//! How sure answers are, and how far that is from where the model was known to be well.

use crate::evidence::tally::Sureness;
use crate::tensor::{Data, Tensor};
use perwatt_model::{Histogram, Manifest, Transform};

/// Answers in one block of the window: the shift is that of the last one to two blocks.
const BLOCK: u64 = 1_000;
/// Answers for each bin, at least, before a shift is shown: without any shift the index is (bins - 1) / answers on
/// average, and so at most 0.05.
const ANSWERS_A_BIN: u64 = 20;
/// What is added to every count: half an observation (Jeffreys' prior), so that an empty bin has a logarithm.
const SMOOTHING: f64 = 0.5;

/// Reads the confidence of an answer as `model.yaml` declares it.
#[derive(Debug)]
pub struct Reader {
    output: usize,
    transform: Transform,
    reference: Histogram,
}

impl Reader {
    /// The reader for a model; nothing where it declares no confidence.
    pub fn of(manifest: &Manifest) -> Option<Self> {
        let spec = manifest.confidence.as_ref()?;
        let output = manifest.outputs.iter().position(|o| o.name == spec.output)?;
        Some(Self {
            output,
            transform: spec.transform,
            reference: spec.reference.clone(),
        })
    }

    /// The reference.
    pub fn reference(&self) -> &Histogram {
        &self.reference
    }

    /// The confidence of an answer; not a number where an element is none.
    pub fn read(&self, outputs: &[Tensor]) -> f64 {
        match outputs.get(self.output).map(|tensor| &tensor.data) {
            Some(Data::F32(values)) => confidence(self.transform, values.iter().map(|&v| f64::from(v))),
            Some(Data::F64(values)) => confidence(self.transform, values.iter().copied()),
            _ => f64::NAN,
        }
    }

    /// Where a confidence belongs.
    pub fn sort(&self, confidence: f64) -> Sureness {
        let bin = self.reference.bin(confidence);
        bin.map_or(Sureness::Invalid, Sureness::Bin)
    }
}

fn confidence(transform: Transform, values: impl Iterator<Item = f64> + Clone) -> f64 {
    let larger = |most: f64, value: f64| match value.is_nan() || most.is_nan() {
        true => f64::NAN,
        false => most.max(value),
    };
    let Some(largest) = values.clone().reduce(larger) else {
        return f64::NAN;
    };
    match transform {
        Transform::Largest => largest,
        // exp(max) / sum(exp(x)), with both divided by exp(max): nothing overflows.
        Transform::Softmax => 1.0 / values.map(|value| (value - largest).exp()).sum::<f64>(),
        Transform::Sigmoid => 1.0 / (1.0 + (-largest).exp()),
    }
}

/// Population stability index of counts against a reference: the sum over all bins of (a - e) ln(a / e), where
/// a is the share of the observed and e that of the reference, each count being half an observation higher
/// than it is. It is the symmetric divergence of Kullback and Leibler (1951), under the name and use that
/// Siddiqi, "Credit Risk Scorecards" (2006), gives: below 0.1 little, above 0.25 much has changed.
pub fn stability_index(reference: &[u64], observed: &[u64]) -> f64 {
    let share = |counts: &[u64]| {
        let total = counts.iter().map(|&n| n as f64 + SMOOTHING).sum::<f64>();
        counts
            .iter()
            .map(move |&n| (n as f64 + SMOOTHING) / total)
            .collect::<Vec<_>>()
    };
    let (expected, actual) = (share(reference), share(observed));
    expected
        .iter()
        .zip(&actual)
        .map(|(e, a)| (a - e) * (a / e).ln())
        .sum()
}

/// The last answers by their confidence: one whole block, and the one that fills up.
#[derive(Debug)]
pub struct Window {
    previous: Vec<u64>,
    current: Vec<u64>,
    filled: u64,
    block: u64,
}

impl Window {
    /// An empty window with so many bins.
    pub fn new(bins: usize) -> Self {
        Self {
            previous: vec![0; bins],
            current: vec![0; bins],
            filled: 0,
            block: BLOCK.max(bins as u64 * ANSWERS_A_BIN),
        }
    }

    /// Takes in an answer.
    pub fn add(&mut self, bin: usize) {
        let Some(count) = self.current.get_mut(bin) else {
            return;
        };
        *count += 1;
        self.filled += 1;
        if self.filled == self.block {
            std::mem::swap(&mut self.previous, &mut self.current);
            self.current.fill(0);
            self.filled = 0;
        }
    }

    /// How far the window is from a reference; nothing while it holds too few answers.
    pub fn shift(&self, reference: &[u64]) -> Option<f64> {
        let sum = |(a, b): (&u64, &u64)| a + b;
        let observed: Vec<_> = self.previous.iter().zip(&self.current).map(sum).collect();
        let enough = observed.iter().sum::<u64>() >= observed.len() as u64 * ANSWERS_A_BIN;
        let comparable = !observed.is_empty() && observed.len() == reference.len();
        (comparable && enough).then(|| stability_index(reference, &observed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(transform: Transform, values: &[f32]) -> f64 {
        let reader = Reader {
            output: 0,
            transform,
            reference: Histogram {
                edges: vec![0.0, 0.5, 1.0],
                counts: vec![1, 1],
            },
        };
        reader.read(&[Tensor {
            shape: vec![values.len()],
            data: Data::F32(values.to_vec()),
        }])
    }

    #[test]
    fn an_answer_is_as_sure_as_the_model_says() {
        assert!((read(Transform::Largest, &[0.25, 0.5, 0.125]) - 0.5).abs() < 1e-12);
        // softmax(1, 3, 2) = 0.0900, 0.6652, 0.2447
        assert!((read(Transform::Softmax, &[1.0, 3.0, 2.0]) - 0.665_240_955_774_821_6).abs() < 1e-12);
        assert!(
            (read(Transform::Softmax, &[1e30, -1e30]) - 1.0).abs() < 1e-12,
            "no overflow"
        );
        assert!((read(Transform::Sigmoid, &[2.0]) - 0.880_797_077_977_882_3).abs() < 1e-12);
        assert!(read(Transform::Sigmoid, &[-1e30]) < 1e-12);
    }

    #[test]
    fn what_is_no_number_is_never_sure() {
        for transform in [Transform::Largest, Transform::Softmax, Transform::Sigmoid] {
            for values in [&[f32::NAN, 0.5][..], &[0.5, f32::NAN], &[]] {
                assert!(read(transform, values).is_nan(), "{transform:?} {values:?}");
            }
        }
        assert!(read(Transform::Softmax, &[f32::INFINITY, f32::INFINITY]).is_nan());
    }

    #[test]
    fn the_index_is_that_of_the_formula() {
        // Shares 0.5, 0.3, 0.2 against 0.4, 0.3, 0.3: 0.1 ln 1.25 + 0 + (-0.1) ln (2/3) = 0.06286; the half
        // observations do not show where there are many.
        let index = stability_index(
            &[4_000_000, 3_000_000, 3_000_000],
            &[5_000_000, 3_000_000, 2_000_000],
        );
        assert!((index - 0.062_861).abs() < 1e-5, "{index}");
        assert!(stability_index(&[7, 70, 23], &[7, 70, 23]).abs() < 1e-12);
        // Symmetric, and finite where a bin is empty.
        let (a, b) = ([100, 0, 0], [0, 0, 100]);
        assert!((stability_index(&a, &b) - stability_index(&b, &a)).abs() < 1e-12);
        assert!(stability_index(&a, &b).is_finite() && stability_index(&a, &b) > 1.0);
    }

    #[test]
    fn the_window_forgets_what_was_long_ago() {
        let reference = [500, 500];
        let mut window = Window::new(2);
        for n in 0..39 {
            window.add(n % 2);
            assert_eq!(window.shift(&reference), None, "{n}: too few to say");
        }
        window.add(1);
        assert!(window.shift(&reference).unwrap() < 0.01);
        for _ in 0..1_000 {
            window.add(0);
        }
        let shifted = window.shift(&reference).unwrap();
        assert!(shifted > 0.25, "{shifted}");
        for n in 0..2_000 {
            window.add(n % 2);
        }
        assert!(window.shift(&reference).unwrap() < 0.01, "it is as before");
        window.add(9);
        assert_eq!(window.shift(&[1, 2, 3]), None, "another number of bins");
    }
}

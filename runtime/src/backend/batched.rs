//! A model that answers several requests in one call: the same file, loaded for several lengths of its first axis.
//!
//! Nothing of a backend knows of it. A backend that cannot change the length refuses the file at load.

use super::{BackendError, Model, SequenceRun};
use crate::tensor::{Data, Tensor};
use perwatt_model::BatchingSpec;
use std::sync::Arc;
use std::time::Duration;

/// How requests may be put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// The numbers of requests that one call may have, the largest first; the last is 1.
    pub sizes: Vec<usize>,
    /// How long the first request waits for others.
    pub delay: Duration,
}

impl Batching {
    /// Most requests of one call.
    pub fn most(&self) -> usize {
        self.sizes.first().copied().unwrap_or(1)
    }

    /// The largest size that so many requests fill.
    pub fn fit(&self, waiting: usize) -> usize {
        let fits = self.sizes.iter().copied().find(|size| *size <= waiting);
        fits.unwrap_or(1)
    }
}

/// One file, loaded for several sizes.
pub(crate) struct Batched {
    single: Arc<dyn Model>,
    /// By size, the largest first; without 1.
    several: Vec<(usize, Arc<dyn Model>)>,
    batching: Batching,
}

impl Batched {
    /// `load` loads the file for so many requests.
    ///
    /// # Errors
    /// When the backend does not take so many at once.
    pub fn new(
        single: Arc<dyn Model>,
        spec: BatchingSpec,
        load: impl Fn(u16) -> Result<Arc<dyn Model>, BackendError>,
    ) -> Result<Self, BackendError> {
        let mut several = Vec::new();
        for size in spec.sizes() {
            let model = load(size).map_err(|error| {
                BackendError(format!(
                    "batching: the file does not take {size} requests in one call: {error}"
                ))
            })?;
            several.insert(0, (usize::from(size), model));
        }
        let sizes = several.iter().map(|(size, _)| *size).chain([1]).collect();
        Ok(Self {
            single,
            several,
            batching: Batching {
                sizes,
                delay: Duration::from_micros(spec.max_delay_microseconds.into()),
            },
        })
    }
}

impl Model for Batched {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        self.single.infer(inputs)
    }

    fn operations(&self) -> Option<u64> {
        self.single.operations()
    }

    fn begin(&self) -> Result<Option<Box<dyn SequenceRun>>, BackendError> {
        self.single.begin()
    }

    fn engine(&self) -> &str {
        self.single.engine()
    }

    fn batching(&self) -> Option<&Batching> {
        Some(&self.batching)
    }

    fn infer_together(&self, requests: &[&[Tensor]]) -> Result<Vec<Vec<Tensor>>, BackendError> {
        let model = self.several.iter().find(|(size, _)| *size == requests.len());
        let Some((size, model)) = model else {
            return requests.iter().map(|inputs| self.infer(inputs)).collect();
        };
        let outputs = model.infer(&stack(requests)?)?;
        let mut answers = vec![Vec::with_capacity(outputs.len()); *size];
        for output in outputs {
            let parts = split(output, *size)?;
            answers
                .iter_mut()
                .zip(parts)
                .for_each(|(answer, part)| answer.push(part));
        }
        Ok(answers)
    }
}

/// The tensors of all requests, one behind the other along the first axis.
fn stack(requests: &[&[Tensor]]) -> Result<Vec<Tensor>, BackendError> {
    let first = requests.first().copied().unwrap_or_default();
    let one = |place: usize| {
        let tensors: Option<Vec<&Tensor>> = requests.iter().map(|inputs| inputs.get(place)).collect();
        let tensors = tensors?;
        let mut shape = tensors.first()?.shape.clone();
        *shape.first_mut()? *= requests.len();
        let parts: Vec<&Data> = tensors.iter().map(|tensor| &tensor.data).collect();
        let data = Data::concatenated(&parts)?;
        Some(Tensor { shape, data })
    };
    let stacked = (0..first.len()).map(one).collect::<Option<_>>();
    stacked.ok_or_else(|| BackendError("requests of different tensors cannot be put together".into()))
}

/// Each request's share of an output.
fn split(mut output: Tensor, size: usize) -> Result<Vec<Tensor>, BackendError> {
    let axis = output.shape.first_mut().filter(|n| **n == size);
    let Some(axis) = axis else {
        return Err(BackendError(format!(
            "an output of {size} requests has the shape {:?}",
            output.shape
        )));
    };
    *axis = 1;
    let parts = output.data.split(size);
    Ok(parts
        .into_iter()
        .map(|data| Tensor {
            shape: output.shape.clone(),
            data,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Doubles, and says for how many requests it was called.
    struct Doubling(u16);

    impl Model for Doubling {
        fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
            let Data::F32(values) = &inputs[0].data else {
                return Err(BackendError("FP32 is wanted".into()));
            };
            let doubled = Tensor {
                shape: inputs[0].shape.clone(),
                data: Data::F32(values.iter().map(|x| 2. * x).collect()),
            };
            let calls = Tensor {
                shape: vec![usize::from(self.0), 1],
                data: Data::I32(vec![i32::from(self.0); usize::from(self.0)]),
            };
            Ok(vec![doubled, calls])
        }
    }

    fn request(x: f32) -> Vec<Tensor> {
        vec![Tensor {
            shape: vec![1, 2],
            data: Data::F32(vec![x, x + 1.]),
        }]
    }

    fn batched(max_size: u16) -> Batched {
        let spec = BatchingSpec {
            max_size,
            max_delay_microseconds: 0,
        };
        Batched::new(Arc::new(Doubling(1)), spec, |size| Ok(Arc::new(Doubling(size)))).unwrap()
    }

    #[test]
    fn every_request_gets_its_own_share() {
        let model = batched(5);
        assert_eq!(model.batching().unwrap().sizes, [4, 2, 1], "powers of two");
        let requests: Vec<_> = [1., 10., 100., 1000.].map(request).into();
        let requests: Vec<&[Tensor]> = requests.iter().map(Vec::as_slice).collect();
        let answers = model.infer_together(&requests).unwrap();
        for (answer, x) in answers.iter().zip([1., 10., 100., 1000.]) {
            assert_eq!(answer[0].data, Data::F32(vec![2. * x, 2. * x + 2.]));
            assert_eq!(answer[0].shape, [1, 2]);
            assert_eq!(answer[1].data, Data::I32(vec![4]), "one call answered all four");
        }
        let alone = model.infer_together(&requests[..1]).unwrap();
        assert_eq!(alone[0][1].data, Data::I32(vec![1]));
    }

    #[test]
    fn sizes_fit_what_waits() {
        let model = batched(8);
        let batching = model.batching().unwrap();
        let fits: Vec<_> = [1, 2, 3, 4, 7, 8, 100].map(|n| batching.fit(n)).into();
        assert_eq!(fits, [1, 2, 2, 4, 4, 8, 8]);
    }

    #[test]
    fn a_file_that_takes_one_request_is_refused() {
        let spec = BatchingSpec {
            max_size: 4,
            max_delay_microseconds: 0,
        };
        let refuse = |_| Err(BackendError("its shape is [1, 2]".into()));
        let error = Batched::new(Arc::new(Doubling(1)), spec, refuse).err().unwrap();
        assert_eq!(
            error.0,
            "batching: the file does not take 2 requests in one call: its shape is [1, 2]"
        );
    }

    #[test]
    fn an_output_without_the_axis_is_an_error() {
        let output = Tensor {
            shape: vec![1, 2],
            data: Data::F32(vec![0., 0.]),
        };
        assert!(split(output, 2).is_err());
    }
}

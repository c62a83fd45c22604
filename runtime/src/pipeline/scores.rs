//! Steps of numbers: their scale and type, scores and decisions.

use super::elements::{cast, floats};
use super::layout::{inner, last, matrix, place, same_shape};
use super::line::{Result, told};
use crate::tensor::{Data, Tensor};
use perwatt_model::Step;
use perwatt_signal::boxes::{DETECTION, suppress};
use perwatt_signal::numeric::{dequantize, normalize, quantize};
use perwatt_signal::scores::{arg_max, sigmoid, softmax};
use perwatt_signal::smooth::{exponential, moving_mean, threshold};

/// Runs a step that changes scale or type.
pub fn numbers(step: &Step, tensor: &Tensor) -> Result<Tensor> {
    let typed = |data| Tensor {
        shape: tensor.shape.clone(),
        data,
    };
    // All but this one go through FP32, which would round large integers.
    if let Step::Cast { datatype } = step {
        return Ok(typed(cast(&tensor.data, *datatype)?));
    }
    let values = floats(&tensor.data)?;
    match step {
        Step::Normalize {
            scale,
            mean,
            std,
            axis,
        } => {
            // One mean for all needs no channels.
            let inner = match mean.len() {
                1 => 1,
                _ => inner(tensor, place(*axis, tensor)),
            };
            let values = told(normalize(&values, inner, *scale, mean, std))?;
            Ok(same_shape(tensor, values))
        }
        Step::Dequantize { scale, zero_point } => {
            let values = told(dequantize(&values, *scale, *zero_point))?;
            Ok(same_shape(tensor, values))
        }
        Step::Quantize {
            datatype,
            scale,
            zero_point,
        } => {
            let levels = told(quantize(&values, *scale, *zero_point, i32::MIN, i32::MAX))?;
            Ok(typed(cast(&Data::I32(levels), *datatype)?))
        }
        _ => Err("it is no step of numbers".into()),
    }
}

/// Runs a step of scores; what names classes is not among them.
pub fn scores(step: &Step, tensor: &Tensor) -> Result<Tensor> {
    let (values, classes) = (floats(&tensor.data)?, last(tensor));
    match step {
        Step::Softmax {} => Ok(same_shape(tensor, told(softmax(&values, classes))?)),
        Step::Sigmoid {} => Ok(same_shape(tensor, told(sigmoid(&values))?)),
        Step::ArgMax {} => {
            let mut shape = tensor.shape.clone();
            shape.pop();
            let data = Data::I64(told(arg_max(&values, classes))?);
            Ok(Tensor { shape, data })
        }
        Step::NonMaximumSuppression(how) => {
            let found = told(suppress(&values, classes, how))?;
            Ok(matrix(found, DETECTION))
        }
        _ => Err("it is no step of scores".into()),
    }
}

/// Runs a step that looks back in time.
pub fn over_time(step: &Step, tensor: &Tensor, past: &mut Vec<f32>) -> Result<Tensor> {
    let (values, channels) = (floats(&tensor.data)?, last(tensor));
    match *step {
        Step::Threshold { rise, fall } => {
            let is_on = told(threshold(&values, channels, rise, fall.unwrap_or(rise), past))?;
            Ok(Tensor {
                shape: tensor.shape.clone(),
                data: Data::Bool(is_on),
            })
        }
        Step::Smooth { weight } => {
            let values = told(exponential(&values, channels, weight, past))?;
            Ok(same_shape(tensor, values))
        }
        Step::MovingMean { rows } => {
            let values = told(moving_mean(&values, channels, rows as usize, past))?;
            Ok(same_shape(tensor, values))
        }
        _ => Err("it is no step over time".into()),
    }
}

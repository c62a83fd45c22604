//! Steps of images: [height, width, channels].

use super::elements::floats;
use super::layout::sliced;
use super::line::{Result, told};
use crate::tensor::{Data, Tensor};
use perwatt_model::Step;
use perwatt_signal::image::{Channels, Pixels, center, decode, resize_f32, resize_u8, shorter_side};

/// Runs one of them.
pub fn image(step: &Step, tensor: Tensor) -> Result<Tensor> {
    match *step {
        Step::DecodeImage {
            channels,
            max_pixels,
            max_bytes,
        } => decoded(&tensor.data, channels, max_pixels as usize, max_bytes as usize),
        Step::Crop { height, width, at } => {
            let [all_rows, all_columns, _] = sizes(&tensor)?;
            let (rows, columns) = (height as usize, width as usize);
            let (top, left) = match at {
                Some(at) => (at.top as usize, at.left as usize),
                None => (center(all_rows, rows), center(all_columns, columns)),
            };
            sliced(&sliced(&tensor, 0, top, rows)?, 1, left, columns)
        }
        Step::Resize {
            height,
            width,
            shorter_side: side,
            filter,
        } => {
            let [all_rows, all_columns, channels] = sizes(&tensor)?;
            let (rows, columns) = match (height, width) {
                (Some(rows), Some(columns)) => (rows as usize, columns as usize),
                _ => told(shorter_side(all_rows, all_columns, side.unwrap_or(0) as usize))?,
            };
            let data = match tensor.data {
                Data::U8(data) => {
                    let pixels = Pixels {
                        height: all_rows,
                        width: all_columns,
                        channels,
                        data,
                    };
                    Data::U8(told(resize_u8(&pixels, rows, columns, filter))?.data)
                }
                other => {
                    let pixels = Pixels {
                        height: all_rows,
                        width: all_columns,
                        channels,
                        data: floats(&other)?.into_owned(),
                    };
                    Data::F32(told(resize_f32(&pixels, rows, columns, filter))?.data)
                }
            };
            Ok(Tensor {
                shape: vec![rows, columns, channels],
                data,
            })
        }
        _ => Err("it is no step of images".into()),
    }
}

fn sizes(tensor: &Tensor) -> Result<[usize; 3]> {
    let sizes = tensor.shape.as_slice().try_into();
    sizes.map_err(|_| format!("{:?} is not height, width and channels", tensor.shape))
}

fn decoded(data: &Data, channels: Channels, max_pixels: usize, max_bytes: usize) -> Result<Tensor> {
    let Data::Bytes(files) = data else {
        return Err("it takes BYTES".into());
    };
    let file = files.first().map_or(&[][..], |file| &file[..]);
    if file.len() > max_bytes {
        let length = file.len();
        return Err(format!("the file has {length} bytes, the most is {max_bytes}"));
    }
    let image = told(decode(file, channels, max_pixels))?;
    Ok(Tensor {
        shape: vec![image.height, image.width, image.channels],
        data: Data::U8(image.data),
    })
}

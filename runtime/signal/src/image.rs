//! Images: decoding within bounds, resizing, cropping. Pixels are row-major, height × width × channels.

use crate::error::{SignalError, check_finite, check_size, length, parameter};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{F32, F32x3, U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use serde::{Deserialize, Serialize};
use std::io::Cursor;

/// An image of 8-bit or float samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels<T> {
    /// Rows.
    pub height: usize,
    /// Pixels a row.
    pub width: usize,
    /// Samples a pixel.
    pub channels: usize,
    /// The samples.
    pub data: Vec<T>,
}

/// What is kept of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as OpenCV has it.
    Bgr,
    /// Brightness `L = (19595 R + 38470 G + 7471 B + 32768) >> 16`: ITU-R BT.601 as PIL's mode `L` has it.
    Gray,
}

/// How new pixels are made from old ones; the kernels of PIL's `Image.resize` of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// The old pixel that lies nearest.
    Nearest,
    /// The mean of the old pixels below the new one.
    Box,
    /// A triangle, as wide as the image shrinks (antialiasing).
    Bilinear,
    /// Cubic with a = −0.5, antialiasing.
    Bicubic,
    /// Lanczos with a = 3, antialiasing.
    Lanczos,
}

/// Decodes a PNG or JPEG. An alpha channel is dropped, 16 bits become 8, palettes become colours; the orientation
/// that a camera noted is not applied.
///
/// # Errors
/// When the bytes are neither, are broken, or hold more than `max_pixels`, which is checked before any is decoded.
pub fn decode(bytes: &[u8], channels: Channels, max_pixels: usize) -> Result<Pixels<u8>, SignalError> {
    let unreadable = |error: image::ImageError| SignalError::Image(error.to_string());
    if bytes.is_empty() {
        return Err(SignalError::Empty("the image"));
    }
    let format = image::guess_format(bytes).ok();
    let Some(format) = format.filter(|f| matches!(f, ImageFormat::Png | ImageFormat::Jpeg)) else {
        return Err(SignalError::Image("it is neither PNG nor JPEG".into()));
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    // Eight bytes are the largest pixel (four samples of 16 bits); a decoder needs some room beside them.
    limits.max_alloc = Some((max_pixels as u64).saturating_mul(16).saturating_add(1 << 20));
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > max_pixels as u64 {
        return Err(SignalError::Image(format!(
            "it has {width} × {height} pixels, the most is {max_pixels}"
        )));
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    Ok(with_channels(decoded, channels))
}

fn with_channels(decoded: DynamicImage, channels: Channels) -> Pixels<u8> {
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let gray = match (&decoded, channels) {
        (DynamicImage::ImageLuma8(gray), Channels::Gray) => Some(gray.as_raw().clone()),
        _ => None,
    };
    let mut data = gray.unwrap_or_else(|| decoded.into_rgb8().into_raw());
    match channels {
        Channels::Rgb => {}
        Channels::Bgr => data.chunks_exact_mut(3).for_each(<[u8]>::reverse),
        Channels::Gray if data.len() != width * height => {
            data = data.chunks_exact(3).map(brightness).collect();
        }
        Channels::Gray => {}
    }
    Pixels {
        height,
        width,
        channels: if channels == Channels::Gray { 1 } else { 3 },
        data,
    }
}

fn brightness(pixel: &[u8]) -> u8 {
    let weights = [19595u32, 38470, 7471];
    let sum: u32 = pixel.iter().zip(weights).map(|(&p, w)| u32::from(p) * w).sum();
    // At most 255: the weights add up to 2^16.
    ((sum + 32768) >> 16) as u8
}

/// Height and width of an image whose shorter side becomes `side`, with the longer one in proportion, cut down to
/// whole pixels: torchvision's `Resize` with one number.
///
/// # Errors
/// When a side is 0.
pub fn shorter_side(height: usize, width: usize, side: usize) -> Result<(usize, usize), SignalError> {
    let shorter = height.min(width);
    if shorter == 0 || side == 0 {
        return Err(SignalError::Empty("the image"));
    }
    let scaled = |n: usize| usize::try_from(n as u128 * side as u128 / shorter as u128).unwrap_or(usize::MAX);
    Ok(if height <= width {
        (side, scaled(width))
    } else {
        (scaled(height), side)
    })
}

/// Resizes 8-bit samples; each pass rounds to 8 bits, as PIL's does.
///
/// # Errors
/// When a side is 0 or too large, or the image has another number of channels than 1 or 3.
pub fn resize_u8(
    image: &Pixels<u8>,
    height: usize,
    width: usize,
    filter: Filter,
) -> Result<Pixels<u8>, SignalError> {
    let pixels = image.data.iter().copied();
    match image.channels {
        1 => resize(
            image,
            pixels.map(U8::new).collect(),
            (height, width),
            filter,
            |p| [p.0],
        ),
        _ => resize(
            image,
            triples(pixels).map(U8x3::new).collect(),
            (height, width),
            filter,
            |p| p.0,
        ),
    }
}

/// Resizes float samples.
///
/// # Errors
/// As [`resize_u8`], and when a sample is not finite.
pub fn resize_f32(
    image: &Pixels<f32>,
    height: usize,
    width: usize,
    filter: Filter,
) -> Result<Pixels<f32>, SignalError> {
    check_finite("the image", &image.data)?;
    let pixels = image.data.iter().copied();
    match image.channels {
        1 => resize(
            image,
            pixels.map(F32::new).collect(),
            (height, width),
            filter,
            |p| [p.0],
        ),
        _ => resize(
            image,
            triples(pixels).map(F32x3::new).collect(),
            (height, width),
            filter,
            |p| p.0,
        ),
    }
}

fn triples<T>(mut samples: impl Iterator<Item = T>) -> impl Iterator<Item = [T; 3]> {
    std::iter::from_fn(move || Some([samples.next()?, samples.next()?, samples.next()?]))
}

fn check_image<T>(image: &Pixels<T>, height: usize, width: usize) -> Result<(), SignalError> {
    if !matches!(image.channels, 1 | 3) {
        return Err(parameter(
            "channels",
            format!("{} are neither 1 nor 3", image.channels),
        ));
    }
    let elements = check_size("the image", &[image.height, image.width, image.channels])?;
    if elements != image.data.len() {
        return Err(length(
            "the image",
            image.data.len(),
            format!("its size says {elements}"),
        ));
    }
    if elements == 0 || height == 0 || width == 0 {
        return Err(SignalError::Empty("the image"));
    }
    check_size("the resized image", &[height, width, image.channels])?;
    // The intermediate image between the two passes is as high as the old and as wide as the new one.
    check_size("the resized image", &[image.height, width, image.channels])?;
    Ok(())
}

/// One pixel type at a time: the crate's function for all types takes a minute to compile.
fn resize<T, P: PixelTrait, const N: usize>(
    image: &Pixels<T>,
    pixels: Vec<P>,
    (height, width): (usize, usize),
    filter: Filter,
    samples: impl Fn(&P) -> [T; N],
) -> Result<Pixels<T>, SignalError> {
    check_image(image, height, width)?;
    let refuse = |error: &dyn std::fmt::Display| SignalError::Image(error.to_string());
    let side = |n: usize| u32::try_from(n).map_err(|error| refuse(&error));
    let source = TypedImageRef::new(side(image.width)?, side(image.height)?, &pixels);
    let source = source.map_err(|_| length("the image", pixels.len(), "which are not all pixels"))?;
    let mut target = TypedImage::<P>::new(side(width)?, side(height)?);
    let algorithm = match filter {
        Filter::Nearest => ResizeAlg::Nearest,
        Filter::Box => ResizeAlg::Convolution(FilterType::Box),
        Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Filter::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
    };
    let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    let resized = Resizer::new().resize_typed(&source, &mut target, Some(&options));
    resized.map_err(|error| refuse(&error))?;
    Ok(Pixels {
        height,
        width,
        channels: image.channels,
        data: target.pixels().iter().flat_map(samples).collect(),
    })
}

/// The part of `height` × `width` pixels whose upper left corner is at (`top`, `left`).
///
/// # Errors
/// When it does not lie within the image.
pub fn crop<T: Copy>(
    image: &Pixels<T>,
    (top, left): (usize, usize),
    (height, width): (usize, usize),
) -> Result<Pixels<T>, SignalError> {
    let inside = |start: usize, count: usize, all: usize| {
        count > 0 && start.checked_add(count).is_some_and(|e| e <= all)
    };
    if !inside(top, height, image.height) || !inside(left, width, image.width) {
        return Err(parameter(
            "crop",
            format!(
                "{height} × {width} pixels from row {top}, column {left} on do not lie within {} × {}",
                image.height, image.width
            ),
        ));
    }
    let rows = image.data.chunks_exact((image.width * image.channels).max(1));
    let (from, to) = (left * image.channels, (left + width) * image.channels);
    let kept = rows.skip(top).take(height).filter_map(|row| row.get(from..to));
    Ok(Pixels {
        height,
        width,
        channels: image.channels,
        data: kept.flatten().copied().collect(),
    })
}

/// Where a crop in the middle starts: half of what is left over, halves rounded to even as torchvision does.
pub fn center(all: usize, count: usize) -> usize {
    let left_over = all.saturating_sub(count);
    let half = left_over / 2;
    if left_over.is_multiple_of(2) || half.is_multiple_of(2) {
        half
    } else {
        half + 1
    }
}

//! Equal to PIL, torchvision's arithmetic, librosa, scipy, a real model's front end: on photos, speech and motion.
//! The values come from `reference.py`.

#![allow(clippy::unwrap_used)]

use perwatt_signal::audio::{Window, pcm16};
use perwatt_signal::events::{Reference, delta};
use perwatt_signal::image::{
    Channels, Filter, Pixels, center, crop, decode, resize_f32, resize_u8, shorter_side,
};
use perwatt_signal::mel::{Compression, Frame, LogMel, MelNorm, MelScale, MelSpec};
use perwatt_signal::numeric::normalize;
use perwatt_signal::resample::Resampler;
use perwatt_signal::tensor::transpose;

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn floats(name: &str) -> Vec<f32> {
    bytes(name)
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn speech() -> Vec<f32> {
    let samples = bytes("speech.i16");
    let samples: Vec<i16> = samples
        .chunks_exact(2)
        .map(|b| i16::from_le_bytes(b.try_into().unwrap()))
        .collect();
    pcm16(&samples)
}

#[track_caller]
fn near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        worst <= tolerance,
        "they differ by {worst}, allowed is {tolerance}"
    );
}

/// Largest and mean difference.
#[track_caller]
fn apart(found: &[u8], expected: &[u8]) -> (u8, f64) {
    assert_eq!(found.len(), expected.len());
    let apart = || found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let mean = apart().map(f64::from).sum::<f64>() / found.len() as f64;
    (apart().max().unwrap(), mean)
}

/// Every `step`th pixel of every `step`th row.
fn sampled(image: &Pixels<u8>, step: usize) -> Vec<u8> {
    let rows = image
        .data
        .chunks_exact(image.width * image.channels)
        .step_by(step);
    rows.flat_map(|row| row.chunks_exact(image.channels).step_by(step).flatten().copied())
        .collect()
}

#[test]
fn a_png_is_pils_to_the_bit_and_a_jpeg_within_rounding() {
    let png = decode(&bytes("cat.png"), Channels::Gray, 1 << 20).unwrap();
    assert_eq!((png.height, png.width, png.channels), (90, 90, 1));
    assert_eq!(sampled(&png, 3), bytes("cat.png.gray.u8"));
    // Decoders of JPEG may round differently, and interpolate colours differently.
    let jpeg = decode(&bytes("cat.jpg"), Channels::Rgb, 1 << 20).unwrap();
    let (most, mean) = apart(&sampled(&jpeg, 7), &bytes("cat.jpg.u8"));
    assert!(most <= 4 && mean < 0.5, "up to {most}, {mean} on average");
    let reversed = decode(&bytes("cat.jpg"), Channels::Bgr, 1 << 20).unwrap();
    assert_eq!(reversed.data[..3], [jpeg.data[2], jpeg.data[1], jpeg.data[0]]);
}

/// Both round a pixel after each of their two passes, from fixed-point sums of their own precision: halves may fall
/// either way in each.
#[test]
fn resizing_is_pils_within_two_levels() {
    let cat = decode(&bytes("cat.png"), Channels::Rgb, 1 << 20).unwrap();
    let coins = decode(&bytes("coins.png"), Channels::Gray, 1 << 20).unwrap();
    for (name, filter) in [
        ("nearest", Filter::Nearest),
        ("box", Filter::Box),
        ("bilinear", Filter::Bilinear),
        ("bicubic", Filter::Bicubic),
        ("lanczos", Filter::Lanczos),
    ] {
        let down = resize_u8(&cat, 23, 31, filter).unwrap();
        let (most, mean) = apart(&down.data, &bytes(&format!("cat.png.{name}.down.u8")));
        assert!(
            most <= 2 && mean < 0.2,
            "{name} down: up to {most}, {mean} on average"
        );
        let up = resize_u8(&coins, 75, 131, filter).unwrap();
        let up = crop(&up, (20, 40), (30, 50)).unwrap();
        let (most, mean) = apart(&up.data, &bytes(&format!("coins.png.{name}.up.u8")));
        assert!(
            most <= 2 && mean < 0.2,
            "{name} up: up to {most}, {mean} on average"
        );
    }
    let gray = Pixels {
        height: 61,
        width: 97,
        channels: 1,
        data: coins.data.iter().map(|&v| f32::from(v) / 255.0).collect(),
    };
    let small = resize_f32(&gray, 20, 33, Filter::Bicubic).unwrap();
    near(&small.data, &floats("coins.png.bicubic.f32"), 1e-5);
}

#[test]
fn the_imagenet_recipe_gives_the_tensor_that_torchvision_gives() {
    let photo = decode(&bytes("cat.jpg"), Channels::Rgb, 1 << 20).unwrap();
    let (height, width) = shorter_side(photo.height, photo.width, 64).unwrap();
    let small = resize_u8(&photo, height, width, Filter::Bilinear).unwrap();
    let middle = crop(&small, (center(height, 56), center(width, 56)), (56, 56)).unwrap();
    let pixels: Vec<f32> = middle.data.iter().map(|&v| f32::from(v)).collect();
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let normal = normalize(&pixels, 1, 1.0 / 255.0, &mean, &std).unwrap();
    let planes = transpose(&normal, &[56, 56, 3], &[2, 0, 1]).unwrap();
    // Two levels of 255, divided by the deviation: what is left of the decoders' difference.
    near(&planes, &floats("cat.jpg.imagenet.f32"), 2.0 / 255.0 / 0.22);
}

fn htk() -> MelSpec {
    MelSpec {
        sample_rate_hertz: 16000,
        window_length: 400,
        hop: 160,
        fft_length: 512,
        frame: Frame::Window,
        window: Window::Hann,
        bands: 40,
        low_hertz: 20.0,
        high_hertz: 7600.0,
        scale: MelScale::Htk,
        norm: MelNorm::Peak,
        power: 2,
        compression: Compression::Ln,
        floor: 1e-6,
        range: None,
    }
}

#[test]
fn log_mel_is_librosas_and_that_of_a_real_model() {
    let rows = LogMel::new(htk()).unwrap().spectrogram(&speech()).unwrap();
    near(&rows, &floats("speech.htk.f32"), 2e-3);
    let livekit = MelSpec {
        frame: Frame::Fft,
        bands: 32,
        low_hertz: 60.0,
        high_hertz: 3800.0,
        scale: MelScale::Slaney,
        norm: MelNorm::Area,
        compression: Compression::Decibel,
        floor: 1e-10,
        range: Some(80.0),
        ..htk()
    };
    let rows = LogMel::new(livekit).unwrap().spectrogram(&speech()).unwrap();
    near(&rows, &floats("speech.livekit.f32"), 1e-2);
}

#[test]
fn resampling_is_scipys_in_one_piece_and_in_many() {
    for (from, to, name) in [
        (16000, 8000, "1-2"),
        (32000, 14700, "147-320"),
        (16000, 48000, "3-1"),
    ] {
        let resampler = Resampler::new(from, to).unwrap();
        let piece = (from / 50) as usize;
        let (mut state, mut rows) = (vec![], vec![]);
        for piece in speech().chunks_exact(piece) {
            rows.extend(resampler.resample(piece, &mut state).unwrap());
            assert_eq!(state.len(), resampler.state_length());
        }
        rows.truncate(3000);
        near(&rows, &floats(&format!("speech.{name}.f32"))[..rows.len()], 1e-5);
        assert!(rows.len() >= 3000 || name != "1-2");
    }
}

#[test]
fn motion_becomes_the_events_that_plain_loops_give() {
    let walking = floats("walking.f32");
    for (name, reference) in [("value", Reference::Value), ("threshold", Reference::Threshold)] {
        let (mut state, mut events) = (vec![], vec![]);
        for piece in walking.chunks(6 * 7) {
            events.extend(delta(piece, 6, (0.5, 0.25), reference, &mut state).unwrap());
        }
        let events: Vec<u8> = events.iter().map(|&e| e as u8).collect();
        assert_eq!(events, bytes(&format!("walking.{name}.u8")));
        assert!(events.contains(&1));
    }
}

//! What every function keeps, whatever it is given: lengths, ranges, pieces that equal the whole, no panic.

#![allow(clippy::unwrap_used)]

use perwatt_signal::SignalError;
use perwatt_signal::audio::{Window, frame_count, frames, pre_emphasis};
use perwatt_signal::boxes::{BoxForm, Suppression, overlap, suppress};
use perwatt_signal::events::{Reference, bins, delta, sliding_window};
use perwatt_signal::image::{Channels, Filter, Pixels, crop, decode, resize_f32, resize_u8, shorter_side};
use perwatt_signal::mel::{Compression, Frame, LogMel, MelNorm, MelScale, MelSpec};
use perwatt_signal::numeric::{dequantize, normalize, quantize};
use perwatt_signal::resample::Resampler;
use perwatt_signal::scores::{arg_max, sigmoid, softmax, top};
use perwatt_signal::smooth::{exponential, moving_mean, threshold};
use proptest::collection::vec;
use proptest::prelude::*;

/// Any float, NaN and infinity among them.
fn wild() -> impl Strategy<Value = Vec<f32>> {
    vec(any::<f32>(), 0..40)
}

fn tame(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
    vec(-100f32..100f32, len)
}

/// A signal of rows of 3, cut in two at a row.
fn cut() -> impl Strategy<Value = (Vec<f32>, usize)> {
    (2usize..12).prop_flat_map(|rows| (tame(rows * 3..rows * 3 + 1), 1..rows))
}

/// The whole at once, and in two pieces.
fn both<T: PartialEq + std::fmt::Debug>(
    (signal, row): &(Vec<f32>, usize),
    mut step: impl FnMut(&[f32], &mut Vec<f32>) -> Result<Vec<T>, SignalError>,
) -> (Vec<T>, Vec<T>) {
    let whole = step(signal, &mut vec![]).unwrap();
    let mut state = vec![];
    let mut pieces = step(&signal[..row * 3], &mut state).unwrap();
    pieces.extend(step(&signal[row * 3..], &mut state).unwrap());
    (whole, pieces)
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = std::io::Cursor::new(vec![]);
    image::RgbImage::new(width, height)
        .write_to(&mut out, image::ImageFormat::Png)
        .unwrap();
    out.into_inner()
}

#[test]
fn an_image_with_too_many_pixels_is_refused_before_it_is_decoded() {
    assert!(decode(&png(100, 100), Channels::Rgb, 10_000).is_ok());
    let error = decode(&png(101, 100), Channels::Rgb, 10_000)
        .unwrap_err()
        .to_string();
    assert!(error.contains("101") && error.contains("10000"), "{error}");
    // A header that promises 4 billion pixels, with a right checksum of nothing behind it.
    let mut lie = png(1, 1);
    lie[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    assert!(decode(&lie, Channels::Rgb, 1 << 24).is_err());
    assert!(
        decode(b"GIF89a", Channels::Rgb, 100)
            .unwrap_err()
            .to_string()
            .contains("neither PNG nor JPEG")
    );
    assert_eq!(
        decode(b"", Channels::Rgb, 100),
        Err(SignalError::Empty("the image"))
    );
}

#[test]
fn every_cut_of_an_image_is_refused_or_read() {
    let jpeg = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cat.jpg")).unwrap();
    let png = png(9, 9);
    for end in (0..jpeg.len()).step_by(97) {
        let _ = decode(&jpeg[..end], Channels::Rgb, 1 << 16);
    }
    for end in 0..png.len() - 12 {
        assert!(decode(&png[..end], Channels::Gray, 1 << 16).is_err());
    }
}

#[test]
fn sizes_that_explode_are_refused() {
    let line = Pixels {
        height: 1,
        width: 70_000,
        channels: 1,
        data: vec![0u8; 70_000],
    };
    let (height, width) = shorter_side(1, 70_000, 1_000).unwrap();
    assert!(matches!(
        resize_u8(&line, height, width, Filter::Bilinear),
        Err(SignalError::TooLarge { .. })
    ));
    assert!(resize_u8(&line, 0, 5, Filter::Bilinear).is_err());
    assert!(bins(&[], usize::MAX, 1, 2).is_err());
    assert!(sliding_window(&[0.0], 1, usize::MAX, &mut vec![]).is_err());
    assert!(Resampler::new(48_000, 44_099).is_err());
    assert!(Resampler::new(0, 1).is_err());
}

#[test]
fn a_state_of_another_signal_is_refused() {
    let mut state = vec![0.0; 5];
    assert!(delta(&[1.0, 2.0], 2, (1.0, 1.0), Reference::Value, &mut state).is_err());
    assert!(pre_emphasis(&[1.0], 0.9, &mut state).is_err());
    assert!(threshold(&[1.0, 2.0], 2, 0.5, 0.5, &mut state).is_err());
    assert!(exponential(&[1.0, 2.0], 2, 0.5, &mut state).is_err());
    assert!(moving_mean(&[1.0, 2.0], 2, 9, &mut state).is_err());
    assert!(sliding_window(&[1.0, 2.0], 2, 2, &mut state).is_err());
    assert!(
        Resampler::new(2, 1)
            .unwrap()
            .resample(&[1.0, 2.0], &mut state)
            .is_err()
    );
    assert_eq!(state, [0.0; 5], "a refused call changes nothing");
}

#[test]
fn hysteresis_holds_between_its_two_thresholds() {
    let mut state = vec![];
    let on = threshold(&[0.4, 0.5, 0.4, 0.34, 0.4], 1, 0.5, 0.35, &mut state).unwrap();
    assert_eq!(on, [false, true, true, false, false]);
    assert!(threshold(&[0.4], 1, 0.5, 0.6, &mut vec![]).is_err());
}

#[test]
fn of_overlapping_boxes_of_a_class_the_best_stays() {
    let how = Suppression {
        form: BoxForm::Corners,
        score: 0.3,
        overlap: 0.5,
        most: 4,
    };
    #[rustfmt::skip]
    let rows = [
        0., 0., 10., 10., 0.6, 0.1,
        1., 0., 11., 10., 0.9, 0.1, // hides the one above
        1., 0., 11., 10., 0.1, 0.8, // another class
        50., 50., 60., 60., 0.2, 0.1, // too low
    ];
    let found = suppress(&rows, 6, &how).unwrap();
    #[rustfmt::skip]
    assert_eq!(found, [
        1., 0., 11., 10., 0.9, 0.,
        1., 0., 11., 10., 0.8, 1.,
        0., 0., 0., 0., 0., -1.,
        0., 0., 0., 0., 0., -1.,
    ]);
    let center = Suppression {
        form: BoxForm::Center,
        ..how
    };
    assert_eq!(
        suppress(&[5., 5., 10., 10., 0.9], 5, &center).unwrap()[..4],
        [0., 0., 10., 10.]
    );
    assert_eq!(overlap(&[0., 0., 2., 2.], &[1., 0., 3., 2.]), 1.0 / 3.0);
}

#[test]
fn events_are_counted_in_their_steps() {
    let counts = bins(
        &[0, 0, 999, 1, 1000, 1, 1001, 1, 5000, 0, -1, 0, 0, -1],
        2,
        1000,
        2,
    )
    .unwrap();
    assert_eq!(counts, [1., 1., 0., 2.]);
    assert!(bins(&[0, 2], 2, 1000, 2).is_err());
    assert!(bins(&[0], 2, 1000, 2).is_err());
}

#[test]
fn a_constant_is_resampled_to_itself() {
    let resampler = Resampler::new(44_100, 48_000).unwrap();
    let out = resampler.resample(&vec![1.0; 4410], &mut vec![]).unwrap();
    assert_eq!(out.len(), 4800);
    assert!(out[200..].iter().all(|v| (v - 1.0).abs() < 2e-3));
}

proptest! {
    #[test]
    fn nothing_panics_on_wild_numbers(values in wild(), width in 0usize..9, a in any::<f32>(), b in any::<f32>(), n in 0usize..9) {
        let mut state = values.clone();
        let _ = softmax(&values, width);
        let _ = sigmoid(&values);
        let _ = arg_max(&values, width);
        let _ = top(&values, width, n);
        let _ = threshold(&values, width, a, b, &mut state);
        let _ = exponential(&values, width, a, &mut state);
        let _ = moving_mean(&values, width.max(1), n, &mut state);
        let _ = delta(&values, width, (a, b), Reference::Threshold, &mut state);
        let _ = sliding_window(&values, width, n, &mut state);
        let _ = pre_emphasis(&values, a, &mut state);
        let _ = frames(&values, &Window::Hann.weights(n), width);
        let _ = normalize(&values, width, a, &[b], &[a]);
        let _ = quantize(&values, a, n as i32, -128, 127);
        let _ = dequantize(&values, a, n as i32);
        let _ = suppress(&values, width, &Suppression { form: BoxForm::Center, score: a, overlap: b, most: n });
        let image = Pixels { height: n, width, channels: 1, data: values.clone() };
        let _ = resize_f32(&image, n, n, Filter::Lanczos);
        let _ = crop(&image, (n, width), (width, n));
    }

    #[test]
    fn nothing_panics_on_wild_bytes(bytes in vec(any::<u8>(), 0..200), jpeg in any::<bool>()) {
        let magic: &[u8] = if jpeg { &[0xff, 0xd8, 0xff] } else { b"\x89PNG\r\n\x1a\n" };
        let _ = decode(&[magic, &bytes].concat(), Channels::Rgb, 1 << 16);
    }

    #[test]
    fn nan_is_refused_wherever_it_stands(mut values in tame(6..7), place in 0usize..6) {
        values[place] = f32::NAN;
        let refused = |result: Result<Vec<f32>, SignalError>| matches!(result, Err(SignalError::NotFinite { index, .. }) if index == place);
        prop_assert!(refused(softmax(&values, 3)));
        prop_assert!(refused(sigmoid(&values)));
        prop_assert!(refused(exponential(&values, 3, 0.5, &mut vec![])));
        prop_assert!(refused(delta(&values, 3, (1., 1.), Reference::Value, &mut vec![])));
        prop_assert!(refused(pre_emphasis(&values, 0.9, &mut vec![])));
        prop_assert!(refused(Resampler::new(2, 1).unwrap().resample(&values, &mut vec![])));
    }

    #[test]
    fn probabilities_add_up_to_one_and_keep_their_order(values in tame(12..13)) {
        let p = softmax(&values, 4).unwrap();
        for row in p.chunks_exact(4) {
            prop_assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
        prop_assert_eq!(arg_max(&values, 12).unwrap()[0] as usize, top(&values, 12, 12).unwrap()[0].0);
        let ranked = top(&values, 12, 5).unwrap();
        prop_assert!(ranked.windows(2).all(|w| w[0].1 >= w[1].1));
        prop_assert!(sigmoid(&values).unwrap().iter().all(|p| (0.0..=1.0).contains(p)));
    }

    #[test]
    fn pieces_equal_the_whole(signal in cut()) {
        for reference in [Reference::Value, Reference::Threshold] {
            let (whole, pieces) = both(&signal, |x, s| delta(x, 3, (5.0, 3.0), reference, s));
            prop_assert_eq!(whole, pieces);
        }
        let (whole, pieces) = both(&signal, |x, s| threshold(x, 3, 10.0, -10.0, s));
        prop_assert_eq!(whole, pieces);
        let (whole, pieces) = both(&signal, |x, s| exponential(x, 3, 0.25, s));
        prop_assert_eq!(whole, pieces);
        let (whole, pieces) = both(&signal, |x, s| moving_mean(x, 3, 4, s));
        prop_assert_eq!(whole, pieces);
        let (whole, pieces) = both(&signal, |x, s| pre_emphasis(x, 0.97, s));
        prop_assert_eq!(whole, pieces);
        let resampler = Resampler::new(3, 2).unwrap();
        let (whole, pieces) = both(&signal, |x, s| resampler.resample(x, s));
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn a_window_ends_with_what_came_last(signal in cut()) {
        let mut state = vec![];
        let rows = signal.0.len() / 3;
        sliding_window(&signal.0[..signal.1 * 3], 3, rows, &mut state).unwrap();
        prop_assert_eq!(state.len(), (rows - signal.1) * 3);
        // Rows come one by one from now on: the window then needs another state.
        let mut state = vec![];
        let mut window = vec![];
        for row in signal.0.chunks_exact(3) {
            window = sliding_window(row, 3, rows, &mut state).unwrap();
        }
        prop_assert_eq!(window, signal.0);
    }

    #[test]
    fn quantising_comes_back_within_half_a_step(values in tame(1..20), scale in 0.5f32..2.0) {
        let levels: Vec<f32> = quantize(&values, scale, 3, -1000, 1000).unwrap().iter().map(|&q| q as f32).collect();
        for (x, y) in values.iter().zip(dequantize(&levels, scale, 3).unwrap()) {
            prop_assert!((x - y).abs() <= scale * 0.501);
        }
    }

    #[test]
    fn a_spectrogram_is_finite_and_as_long_as_promised(samples in vec(-1f32..1f32, 0..300), power in 0u8..4, bands in 0usize..5) {
        let spec = MelSpec {
            sample_rate_hertz: 8000, window_length: 64, hop: 32, fft_length: 64, frame: Frame::Window,
            window: Window::Hamming, bands, low_hertz: 0.0, high_hertz: 4000.0, scale: MelScale::Slaney,
            norm: MelNorm::Area, power, compression: Compression::Log10, floor: 1e-8, range: None,
        };
        match LogMel::new(spec).and_then(|mel| mel.spectrogram(&samples)) {
            Ok(rows) => {
                prop_assert_eq!(rows.len(), frame_count(samples.len(), 64, 32).unwrap() * bands);
                prop_assert!(rows.iter().all(|v| v.is_finite()));
            }
            Err(_) => prop_assert!(samples.len() < 64 || bands == 0 || !(1..=2).contains(&power)),
        }
    }
}

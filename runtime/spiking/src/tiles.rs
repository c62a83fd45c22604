//! Weight · input of many steps at once, a tile of the weights after the other.
//!
//! Step by step, a large matrix comes from memory or a far cache in every step. Here a tile of it is laid out once as
//! doubles, small enough for the first cache, and serves all steps; its sums stay in registers. Each sum is still made by the
//! additions of one column after the other, in ascending order: it is the same, bit for bit.
//! Which layers and steps are computed so is in `ahead`.

use crate::signal::{Form, Signal};
use std::ops::Range;

/// Outputs of a tile: as many sums as registers hold.
const WIDTH: usize = 16;
/// Inputs of a tile: with [`WIDTH`] doubles each 32 KiB, which the first cache holds.
const HEIGHT: usize = 256;

/// One number for each output of a tile.
type Lane = [f64; WIDTH];

/// What the inputs of a tile say in one step.
enum Part<'a> {
    Silent,
    /// Indices of the layer's inputs.
    Spikes(&'a [u32]),
    /// The inputs of the tile that are not zero: a list, for a test of each in every tile is guessed wrongly too often.
    Numbers(Vec<(u32, f64)>),
}

/// Adds weight · input of each step to the numbers of its sum. `weights` is laid out by column, each of
/// `outputs` numbers.
pub(crate) fn add_steps<W: Copy + Into<f64>>(
    weights: &[W],
    outputs: usize,
    inputs: &[Signal],
    sums: &mut [Signal],
) {
    let length = inputs.first().map_or(0, Signal::length);
    let mut tile = Vec::with_capacity(HEIGHT.min(length));
    for start in (0..length).step_by(HEIGHT) {
        let rows = start..(start + HEIGHT).min(length);
        let parts: Vec<Part<'_>> = inputs.iter().map(|input| part(input, &rows)).collect();
        for first in (0..outputs).step_by(WIDTH) {
            let lanes = first..(first + WIDTH).min(outputs);
            lay(&mut tile, weights, outputs, &rows, &lanes);
            for (part, sum) in parts.iter().zip(sums.iter_mut()) {
                if let Some(sums) = sum.values.get_mut(lanes.clone()) {
                    add_part(&tile, start, part, sums);
                }
            }
        }
    }
}

fn part<'a>(input: &'a Signal, rows: &Range<usize>) -> Part<'a> {
    let part = match input.form {
        Form::Silent => None,
        Form::Spikes => {
            let before = |end: usize| input.events.partition_point(|&j| (j as usize) < end);
            let events = input.events.get(before(rows.start)..before(rows.end));
            events.map(Part::Spikes)
        }
        Form::Dense => {
            let numbers = input.values.get(rows.clone()).unwrap_or(&[]);
            let numbers = (0..).zip(numbers.iter().copied());
            Some(Part::Numbers(numbers.filter(|(_, x)| *x != 0.0).collect()))
        }
    };
    part.unwrap_or(Part::Silent)
}

/// Takes a tile out of the matrix; where it has fewer outputs than a tile, zeros follow.
fn lay<W: Copy + Into<f64>>(
    tile: &mut Vec<Lane>,
    weights: &[W],
    outputs: usize,
    rows: &Range<usize>,
    lanes: &Range<usize>,
) {
    tile.clear();
    tile.extend(rows.clone().map(|j| {
        let column = weights.get(j * outputs + lanes.start..j * outputs + lanes.end);
        let column = column.unwrap_or(&[]);
        // Of a length that the compiler knows wherever possible: half of the time of a tile goes here.
        if let Ok(whole) = <&[W; WIDTH]>::try_from(column) {
            return whole.map(Into::into);
        }
        let mut lane = [0.0; WIDTH];
        for (number, weight) in lane.iter_mut().zip(column) {
            *number = (*weight).into();
        }
        lane
    }));
}

fn add_part(tile: &[Lane], start: usize, part: &Part<'_>, sums: &mut [f64]) {
    let mut lane = [0.0; WIDTH];
    lane.iter_mut().zip(&*sums).for_each(|(lane, sum)| *lane = *sum);
    let lane = match part {
        Part::Silent => return,
        Part::Spikes(events) => add_spikes(tile, start, events, lane),
        Part::Numbers(values) => add_numbers(tile, values, lane),
    };
    sums.iter_mut().zip(lane).for_each(|(sum, lane)| *sum = lane);
}

/// By value, so that the sums are in registers from the first event to the last.
fn add_spikes(tile: &[Lane], start: usize, events: &[u32], mut sums: Lane) -> Lane {
    for &j in events {
        let Some(weights) = tile.get((j as usize).wrapping_sub(start)) else {
            continue;
        };
        for (sum, w) in sums.iter_mut().zip(weights) {
            *sum += w;
        }
    }
    sums
}

fn add_numbers(tile: &[Lane], numbers: &[(u32, f64)], mut sums: Lane) -> Lane {
    for &(row, x) in numbers {
        let Some(weights) = tile.get(row as usize) else {
            continue;
        };
        for (sum, w) in sums.iter_mut().zip(weights) {
            *sum += w * x;
        }
    }
    sums
}

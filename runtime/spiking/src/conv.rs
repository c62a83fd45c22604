//! Convolution by scattering: an event adds the kernel's columns to the windows that see it.

use crate::columns::is_single;
use crate::counts::Counts;
use crate::signal::{Form, Signal};

/// Windows along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Length of the input.
    pub(crate) input: usize,
    /// Taps of the kernel.
    pub(crate) kernel: usize,
    /// Distance of windows.
    pub(crate) stride: usize,
    /// Zeros before the input.
    pub(crate) before: usize,
    /// Zeros behind it.
    pub(crate) after: usize,
    /// Distance of taps.
    pub(crate) dilation: usize,
}

impl Axis {
    /// Number of windows; nothing where not even one fits, or a length is zero.
    pub(crate) fn output(&self) -> Option<usize> {
        if self.kernel == 0 || self.stride == 0 || self.dilation == 0 || self.input == 0 {
            return None;
        }
        let span = self.dilation.checked_mul(self.kernel - 1)?.checked_add(1)?;
        let padded = self.input.checked_add(self.before)?.checked_add(self.after)?;
        Some(padded.checked_sub(span)? / self.stride + 1)
    }

    /// The window that sees `position` through `tap`, if one does.
    pub(crate) fn window(&self, position: usize, tap: usize, windows: usize) -> Option<usize> {
        let start = (position + self.before).checked_sub(tap * self.dilation)?;
        let is_start = start.is_multiple_of(self.stride) && start / self.stride < windows;
        is_start.then_some(start / self.stride)
    }

    /// How often a tap meets the input, over all taps and windows.
    pub(crate) fn meetings(&self) -> u64 {
        let Some(last) = self.output().map(|windows| windows - 1) else {
            return 0;
        };
        let of = |tap: usize| {
            let shift = tap * self.dilation;
            let first = self.before.saturating_sub(shift).div_ceil(self.stride);
            let end = (self.before + self.input - 1).checked_sub(shift)? / self.stride;
            (end.min(last) + 1).checked_sub(first)
        };
        (0..self.kernel).map(|tap| of(tap).unwrap_or(0) as u64).sum()
    }
}

/// A convolution over two axes; over one axis the other has length 1.
#[derive(Debug)]
pub(crate) struct Convolution {
    rows: Axis,
    columns: Axis,
    out_rows: usize,
    out_columns: usize,
    /// Output channels of one group.
    group_outputs: usize,
    /// Input channels of one group.
    group_inputs: usize,
    groups: usize,
    bias: Vec<f64>,
    has_bias: bool,
    /// By input channel, row tap, column tap; the output channels of its group side by side.
    kernel: Kernel,
    /// Weights that are not zero, for each of these.
    nonzero: Vec<u32>,
}

#[derive(Debug)]
enum Kernel {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

/// The sizes of a convolution, checked against each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
    pub(crate) outputs: usize,
    pub(crate) group_inputs: usize,
    pub(crate) groups: usize,
}

impl Convolution {
    /// `weight` is `[out, in / groups, height, width]`; nothing where no window fits.
    pub(crate) fn new(sizes: Sizes, weight: &[f64], bias: &[f64]) -> Option<Self> {
        let group_outputs = sizes.outputs / sizes.groups.max(1);
        let taps = sizes.rows.kernel * sizes.columns.kernel;
        let block = sizes.group_inputs * taps;
        // From [group, out, in, tap] to [group, in, tap, out].
        let at = move |group: usize, place: usize, out: usize| (group * group_outputs + out) * block + place;
        let order = (0..sizes.groups).flat_map(move |group| {
            (0..block).flat_map(move |place| (0..group_outputs).map(move |out| at(group, place, out)))
        });
        let turned: Vec<f64> = order.filter_map(|index| weight.get(index).copied()).collect();
        let nonzero = turned.chunks(group_outputs.max(1));
        Some(Self {
            rows: sizes.rows,
            columns: sizes.columns,
            out_rows: sizes.rows.output()?,
            out_columns: sizes.columns.output()?,
            group_outputs,
            group_inputs: sizes.group_inputs,
            groups: sizes.groups,
            bias: bias.to_vec(),
            has_bias: bias.iter().any(|&b| b != 0.0),
            nonzero: nonzero
                .map(|taps| taps.iter().filter(|&&w| w != 0.0).count() as u32)
                .collect(),
            kernel: if is_single(&turned) {
                Kernel::Single(turned.iter().map(|&w| w as f32).collect())
            } else {
                Kernel::Double(turned)
            },
        })
    }

    /// Operations of a step in a dense implementation; padding is not counted.
    pub(crate) fn dense_operations(&self) -> u64 {
        let channels = self.groups as u64 * self.group_inputs as u64 * self.group_outputs as u64;
        channels.saturating_mul(self.rows.meetings().saturating_mul(self.columns.meetings()))
    }

    /// The convolution of `input`; `scratch` is overwritten.
    pub(crate) fn run(
        &self,
        input: &Signal,
        output: &mut Signal,
        scratch: &mut Vec<f64>,
        counts: &mut Counts,
    ) {
        if input.form == Form::Silent && !self.has_bias {
            return output.set_silent();
        }
        let channels = self.groups * self.group_outputs;
        let positions = self.out_rows * self.out_columns;
        scratch.clear();
        scratch.resize(channels * positions, 0.0);
        match &self.kernel {
            Kernel::Single(kernel) => self.scatter_all(kernel, input, scratch, counts),
            Kernel::Double(kernel) => self.scatter_all(kernel, input, scratch, counts),
        }
        // From [position, channel] to [channel, position].
        let output = output.dense();
        for (channel, (row, bias)) in output.chunks_mut(positions.max(1)).zip(&self.bias).enumerate() {
            let sums = scratch.iter().skip(channel).step_by(channels.max(1));
            for (value, sum) in row.iter_mut().zip(sums) {
                *value = sum + bias;
            }
        }
    }

    fn scatter_all<W: Copy + Into<f64>>(
        &self,
        kernel: &[W],
        input: &Signal,
        sums: &mut [f64],
        counts: &mut Counts,
    ) {
        let mut operations = 0;
        match input.form {
            Form::Silent => {}
            Form::Spikes => {
                for &index in &input.events {
                    operations += self.scatter(kernel, index as usize, 1.0, sums);
                }
            }
            Form::Dense => {
                for (index, &x) in input.values.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                    operations += self.scatter(kernel, index, x, sums);
                }
            }
        }
        counts.add_synaptic(operations, input.form == Form::Spikes);
    }

    /// Adds what one element of the input gives to every window that sees it.
    fn scatter<W: Copy + Into<f64>>(&self, kernel: &[W], index: usize, x: f64, sums: &mut [f64]) -> u64 {
        let plane = self.rows.input * self.columns.input;
        let (channel, place) = (index / plane, index % plane);
        let (y, x_place) = (place / self.columns.input, place % self.columns.input);
        let (width, channels) = (self.group_outputs, self.groups * self.group_outputs);
        let first = channel / self.group_inputs * width;
        let mut operations = 0;
        for ky in 0..self.rows.kernel {
            let Some(oy) = self.rows.window(y, ky, self.out_rows) else {
                continue;
            };
            for kx in 0..self.columns.kernel {
                let Some(ox) = self.columns.window(x_place, kx, self.out_columns) else {
                    continue;
                };
                let tap = (channel * self.rows.kernel + ky) * self.columns.kernel + kx;
                let target = (oy * self.out_columns + ox) * channels + first;
                let weights = kernel.get(tap * width..(tap + 1) * width).unwrap_or(&[]);
                let sums = sums.get_mut(target..target + width).unwrap_or(&mut []);
                for (sum, w) in sums.iter_mut().zip(weights) {
                    *sum += (*w).into() * x;
                }
                operations += u64::from(self.nonzero.get(tap).copied().unwrap_or(0));
            }
        }
        operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meetings_are_those_that_windows_find() {
        for (input, kernel, stride, zeros, dilation) in [
            (7, 3, 1, 1, 1),
            (34, 5, 2, 1, 1),
            (9, 4, 3, 5, 2),
            (1, 3, 1, 4, 2),
            (5, 5, 7, 0, 1),
        ] {
            let axis = Axis {
                input,
                kernel,
                stride,
                before: zeros,
                after: zeros,
                dilation,
            };
            let windows = axis.output().unwrap();
            let pairs = (0..input).flat_map(|p| (0..kernel).map(move |tap| (p, tap)));
            let found = pairs
                .filter(|&(p, tap)| axis.window(p, tap, windows).is_some())
                .count();
            assert_eq!(axis.meetings(), found as u64, "{axis:?}");
        }
    }
}

//! Sums and means over windows, by scattering.

use crate::conv::Axis;
use crate::signal::{Form, Signal};

/// A pooling over `[channels, height, width]`.
#[derive(Debug)]
pub(crate) struct Pooling {
    rows: Axis,
    columns: Axis,
    out_rows: usize,
    out_columns: usize,
    /// What a window's sum is divided by.
    divisor: f64,
}

impl Pooling {
    /// Nothing where no window fits.
    pub(crate) fn new(rows: Axis, columns: Axis, is_mean: bool) -> Option<Self> {
        let taps = rows.kernel.checked_mul(columns.kernel)?;
        Some(Self {
            rows,
            columns,
            out_rows: rows.output()?,
            out_columns: columns.output()?,
            divisor: if is_mean { taps as f64 } else { 1.0 },
        })
    }

    pub(crate) fn run(&self, input: &Signal, output: &mut Signal) {
        if input.form == Form::Silent {
            return output.set_silent();
        }
        let sums = output.zeroed();
        match input.form {
            Form::Silent => {}
            Form::Spikes => input
                .events
                .iter()
                .for_each(|&index| self.scatter(index as usize, 1.0, sums)),
            Form::Dense => {
                for (index, &x) in input.values.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                    self.scatter(index, x, sums);
                }
            }
        }
        if self.divisor != 1.0 {
            sums.iter_mut().for_each(|sum| *sum /= self.divisor);
        }
    }

    fn scatter(&self, index: usize, x: f64, sums: &mut [f64]) {
        let plane = self.rows.input * self.columns.input;
        let (channel, place) = (index / plane, index % plane);
        let (row, column) = (place / self.columns.input, place % self.columns.input);
        for ky in 0..self.rows.kernel {
            let Some(oy) = self.rows.window(row, ky, self.out_rows) else {
                continue;
            };
            for kx in 0..self.columns.kernel {
                let Some(ox) = self.columns.window(column, kx, self.out_columns) else {
                    continue;
                };
                if let Some(sum) = sums.get_mut((channel * self.out_rows + oy) * self.out_columns + ox) {
                    *sum += x;
                }
            }
        }
    }
}

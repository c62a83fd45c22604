//! Energy of devices: summed from counters or samples of power, and never invented.
//!
//! [`Integrator`] is pure: samples and their times in, joules out, each with the source of its
//! figure. [`trial`] holds it against made traces whose energy is known. Which sample a device
//! gives is in [`meter`], to which pod its energy is attributed in [`holders`].

pub mod holders;
mod integrator;
pub mod meter;
pub mod trial;

pub use integrator::{Bounds, Integrator, Sample, Shape, Totals};

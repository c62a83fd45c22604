//! Firmware and driver versions: how they are compared, what a profile allows, where the kernel
//! tells them.
//!
//! What a device becomes because of its firmware is judged in `health`.

mod policy;
mod read;
mod version;

pub use policy::{Violation, check};
pub use read::{read, release};
pub use version::Version;

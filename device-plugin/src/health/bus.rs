//! Trouble on a device's bus, over time: pure, with the time as an argument.

use crate::bus::{Bus, Errors, Link};
use crate::constants::{BUS_ERRORS_COUNT_FOR, CORRECTABLE_BURST, LINK_SETTLES};
use perwatt_crds::profile::DeviceClass;
use std::time::{Duration, Instant};

/// What of the bus is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Errors after which the link was not reliable, since the device was found there. They stay
    /// counted until it is plugged in again or the node restarts, and so the trouble stays.
    Fatal(u64),
    /// Lost transactions a while ago; in all.
    Nonfatal(u64),
    /// A burst of mended errors a while ago; in all.
    Correctable(u64),
    /// Fewer lanes than both ends have.
    Narrow { lanes: u8, of: u8 },
    /// Slower than both ends can do, in millions of transfers a second.
    Slow { speed: u32, of: u32 },
}

/// Watches one device's bus.
#[derive(Debug, Default)]
pub(super) struct BusWatch {
    before: Option<Errors>,
    lost: Option<Instant>,
    burst: Option<Instant>,
    window: Option<(Instant, u64)>,
    narrow: Lasting,
    slow: Lasting,
}

impl BusWatch {
    /// What of the bus has lasted long enough at `now` to count; `within` is told when to look again.
    pub(super) fn look(
        &mut self,
        bus: &Bus,
        class: DeviceClass,
        now: Instant,
        mut within: impl FnMut(Duration),
    ) -> Vec<Trouble> {
        let mut found = Vec::new();
        if let Some(errors) = bus.errors {
            self.count(errors, now, &mut found, &mut within);
        }
        let narrow = bus.link.filter(|link| link.width < link.width_limit);
        // A GPU slows its link down whenever it has nothing to do.
        let judged = class != DeviceClass::Gpu;
        let slow = bus.link.filter(|link| judged && link.speed < link.speed_limit);
        let (narrow_settles, slow_settles) = LINK_SETTLES;
        if let Some(Link {
            width, width_limit, ..
        }) = self.narrow.since(narrow, narrow_settles, now, &mut within)
        {
            found.push(Trouble::Narrow {
                lanes: width,
                of: width_limit,
            });
        }
        if let Some(Link {
            speed, speed_limit, ..
        }) = self.slow.since(slow, slow_settles, now, &mut within)
        {
            found.push(Trouble::Slow {
                speed,
                of: speed_limit,
            });
        }
        found
    }

    fn count(
        &mut self,
        errors: Errors,
        now: Instant,
        found: &mut Vec<Trouble>,
        within: &mut impl FnMut(Duration),
    ) {
        let before = self.before.replace(errors).unwrap_or(errors);
        if errors.nonfatal > before.nonfatal {
            self.lost = Some(now);
        }
        let (many, time) = CORRECTABLE_BURST;
        let (since, base) = *self.window.get_or_insert((now, errors.correctable));
        if errors.correctable.saturating_sub(base) >= many {
            self.burst = Some(now);
        }
        if errors.correctable < base || now.saturating_duration_since(since) >= time {
            self.window = Some((now, errors.correctable));
        }
        if errors.fatal > 0 {
            found.push(Trouble::Fatal(errors.fatal));
        }
        for (at, trouble) in [
            (self.lost, Trouble::Nonfatal(errors.nonfatal)),
            (self.burst, Trouble::Correctable(errors.correctable)),
        ] {
            let ago = at.map(|at| now.saturating_duration_since(at));
            if let Some(ago) = ago.filter(|ago| *ago < BUS_ERRORS_COUNT_FOR) {
                within(BUS_ERRORS_COUNT_FOR - ago);
                found.push(trouble);
            }
        }
    }
}

/// Something that counts once it has lasted.
#[derive(Debug, Default)]
struct Lasting(Option<Instant>);

impl Lasting {
    fn since<T>(
        &mut self,
        seen: Option<T>,
        settles: Duration,
        now: Instant,
        within: &mut impl FnMut(Duration),
    ) -> Option<T> {
        let Some(seen) = seen else {
            self.0 = None;
            return None;
        };
        let lasted = now.saturating_duration_since(*self.0.get_or_insert(now));
        if lasted < settles {
            within(settles - lasted);
            return None;
        }
        Some(seen)
    }
}

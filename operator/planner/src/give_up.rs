//! What goes of a slot for which nothing may be planned now.

use crate::device::is_device_dead;
use crate::power::lightest;
use crate::steps::Turn;

impl Turn<'_, '_> {
    /// A pod that its dead device keeps from being ready only holds the count of a device that another
    /// slot could use. A pod that a budget has no room for any more would go on drawing, and keep
    /// others from ending their moves: its own move is taken back.
    pub fn give_up(&mut self) {
        let slot = self.slot;
        let stays = lightest(&slot.pods).filter(|own| own.is_ready());
        for own in slot.live() {
            if !own.is_ready() && is_device_dead(self.index, slot, own, self.now) {
                self.delete(own, None, "its device is dead, and it serves nothing".to_owned());
            } else if let Some(stays) = stays.filter(|stays| self.ledger.meter.is_too_heavy(own, stays)) {
                let why = format!(
                    "no power budget has room for it, and {} serves {}",
                    stays.name(),
                    slot.name
                );
                self.delete(own, Some(stays.name()), why);
            }
        }
    }
}

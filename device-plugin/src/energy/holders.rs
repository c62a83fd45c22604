//! The pods that hold a device, and the energy that it drew while each did. Pure.

use super::Totals;
use crate::constants::PODS_REMEMBERED;
use perwatt_crds::inventory::PodRef;
use std::collections::BTreeMap;

/// Who holds a device now, and who did lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holders {
    now: Vec<PodRef>,
    energy: BTreeMap<PodRef, Totals>,
    /// Pods that are gone, the one that went first in front.
    gone: Vec<PodRef>,
}

impl Holders {
    /// The first holder by name.
    #[must_use]
    pub fn first(&self) -> Option<&PodRef> {
        self.now.first()
    }

    /// The energy of each pod, those that are gone included.
    pub fn energy(&self) -> impl Iterator<Item = (&PodRef, &Totals)> {
        self.energy.iter()
    }

    /// These hold it from now on; tells whether that is news.
    pub fn set(&mut self, mut pods: Vec<PodRef>) -> bool {
        pods.sort();
        pods.dedup();
        pods.truncate(PODS_REMEMBERED);
        if pods == self.now {
            return false;
        }
        let before = std::mem::replace(&mut self.now, pods);
        self.gone.extend(before);
        self.gone.retain(|pod| !self.now.contains(pod));
        while self.gone.len() + self.now.len() > PODS_REMEMBERED && !self.gone.is_empty() {
            let pod = self.gone.remove(0);
            self.energy.remove(&pod);
        }
        true
    }

    /// The device drew this since the last time: its holders share it alike, for nobody tells
    /// their parts. What it draws while nobody holds it is nobody's.
    pub fn attribute(&mut self, drawn: &Totals) {
        let parts = u32::try_from(self.now.len()).unwrap_or(u32::MAX);
        for pod in &self.now {
            self.energy
                .entry(pod.clone())
                .or_default()
                .add_share(drawn, parts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::{Bounds, Integrator, Sample, Shape};
    use crate::telemetry::FigureSource;
    use std::time::Duration;

    fn pod(name: &str) -> PodRef {
        PodRef {
            namespace: "audio".into(),
            name: name.into(),
        }
    }

    /// What a device of 2 W draws in a second.
    fn drawn() -> Totals {
        let mut integrator = Integrator::new(Bounds::default());
        let sample = Sample::Power {
            milliwatts: 2000,
            shape: Shape::Hold,
        };
        integrator.add(Duration::ZERO, sample, FigureSource::Measured);
        integrator.add(Duration::from_secs(1), sample, FigureSource::Measured);
        integrator.totals()
    }

    fn joules(holders: &Holders, name: &str) -> Option<f64> {
        let mut energy = holders.energy();
        energy
            .find(|(found, _)| **found == pod(name))
            .map(|(_, totals)| totals.joules(FigureSource::Measured))
    }

    #[test]
    fn energy_goes_to_who_holds_the_device_and_to_nobody_while_nobody_does() {
        let mut holders = Holders::default();
        holders.attribute(&drawn());
        assert!(holders.set(vec![pod("one")]) && !holders.set(vec![pod("one")]));
        holders.attribute(&drawn());
        assert!(holders.set(vec![pod("two"), pod("one")]));
        holders.attribute(&drawn());
        assert!(holders.set(vec![]));
        holders.attribute(&drawn());
        assert_eq!(
            (joules(&holders, "one"), joules(&holders, "two")),
            (Some(3.0), Some(1.0))
        );
        assert_eq!(holders.first(), None);
    }

    #[test]
    fn pods_that_come_and_go_are_forgotten_in_turn() {
        let mut holders = Holders::default();
        for number in 0..100 {
            holders.set(vec![pod(&number.to_string())]);
            holders.attribute(&drawn());
        }
        assert_eq!(holders.energy().count(), PODS_REMEMBERED);
        assert_eq!((joules(&holders, "99"), joules(&holders, "0")), (Some(2.0), None));
    }
}

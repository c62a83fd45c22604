//! The slots of workloads, and where each is: what a rollout puts into cohorts.

use crate::index::{Index, OwnPod};
use crate::site::Sites;
use crate::slot::slots_of;
use crate::world::{Liveness, WorkloadKey, World};
use jiff::Timestamp;

/// A slot, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPlace {
    /// Its name.
    pub name: String,
    /// The node that it is bound to, or that serves it now.
    pub node: Option<String>,
    /// The site that it is bound to, or that its node is in.
    pub site: Option<String>,
    /// Nothing can be changed there: its node, or every pod of it, is on a node that is not ready.
    pub offline: bool,
}

/// The slots of some workloads, in order.
#[must_use]
pub fn slot_places<'k>(
    world: &World,
    now: Timestamp,
    keys: impl IntoIterator<Item = &'k WorkloadKey>,
) -> Vec<(&'k WorkloadKey, Vec<SlotPlace>)> {
    let index = Index::new(world, now);
    let sites = Sites::find(world, &index.nodes);
    let site_of = |node| Some(sites.all[sites.of(node)?].0.to_owned());
    let is_ready = |node| index.node(node).liveness == Liveness::Ready;
    let places = |key| {
        let (key, workload) = world.workloads.get_key_value(key)?;
        let slots = slots_of(&index, key, workload).into_iter().map(|slot| {
            let serving = slot
                .ready()
                .chain(slot.live())
                .find_map(|own: &OwnPod<'_>| own.node);
            let node = slot.node.or(serving);
            let own_site = slot.site.map(|site| index.sites.all[site].0.to_owned());
            let mut pods = slot.live().filter_map(|own| own.node).peekable();
            let offline = match slot.node {
                Some(node) => !is_ready(node),
                None => pods.peek().is_some() && !pods.any(is_ready),
            };
            SlotPlace {
                node: node.map(|node| index.name(node).to_owned()),
                site: own_site.or_else(|| node.and_then(site_of)),
                offline,
                name: slot.name.clone(),
            }
        });
        Some(slots.collect())
    };
    keys.into_iter()
        .map(|key| (key, places(key).unwrap_or_default()))
        .collect()
}

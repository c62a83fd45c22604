//! What nodes and sites draw, and what they may: the budgets.
//!
//! Counted are the devices of a node, at sleep where they can sleep and idle where they cannot, what
//! each pod adds to that, and what device-less variants draw on the CPU. Foreign pods on profiled
//! devices count at the device's maximum. A fresh measurement of a device stands in place of all
//! that is known of it otherwise; then comes what follows from rate and energy, then the nameplate.
//!
//! A budget binds what is newly placed. Two sums are kept: what is drawn with every pod, which new
//! work has to fit beside, and what is drawn when each slot is down to its lightest pod, which tells
//! whether a budget is exceeded: a slot that is on its way to fewer watts has given them back. Slots
//! that must give watts back choose beside the second: what others draw while their pods change
//! places comes back by itself, and waiting for it both ways would never end.

use crate::index::{Index, NodeId, OwnPod};
use crate::load::{Load, banded, base, is_fresh, load_of_foreign, nameplate};
use crate::outcome::{DrawSource, Reason, ReasonCode, SitePlan};
use crate::site::SiteId;
use crate::world::{Pod, Profile};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// A sum, and what it may be.
#[derive(Clone, Copy, Debug, Default)]
struct Gauge {
    budget: Option<i64>,
    drawn: i64,
    lightest: i64,
    source: DrawSource,
}

impl Gauge {
    fn add(&mut self, load: Load, is_lightest: bool) {
        self.drawn = self.drawn.saturating_add(load.milliwatts);
        if is_lightest {
            self.lightest = self.lightest.saturating_add(load.milliwatts);
        }
        self.source = self.source.max(load.source);
    }

    /// What a pod that adds so much would exceed.
    fn check(&self, beside: Beside, adds: i64, gives_back: i64) -> Option<Exceeded> {
        let budget = self.budget?;
        let sum = match beside {
            Beside::Nothing => return None,
            Beside::All => self.drawn,
            Beside::Lightest => self.lightest,
        };
        let drawn = sum.saturating_sub(gives_back);
        // What adds nothing makes nothing worse.
        (adds > 0 && drawn.saturating_add(adds) > budget).then_some(Exceeded {
            of_site: true,
            adds,
            drawn,
            budget,
        })
    }

    fn excess(&self, sum: i64) -> i64 {
        self.budget.map_or(0, |budget| sum.saturating_sub(budget).max(0))
    }
}

/// What a pod has to fit beside, for the power budgets to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Beside {
    /// Budgets are not asked.
    Nothing,
    /// What every pod draws.
    All,
    /// What is drawn when each slot is down to its lightest pod, and those that shed to none.
    Lightest,
}

/// A budget that a pod would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// The site's, not the node's.
    pub of_site: bool,
    pub adds: i64,
    /// Without the pod.
    pub drawn: i64,
    pub budget: i64,
}

/// A node or a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    Node(NodeId),
    Site(SiteId),
}

/// What every node and site draws; empty where no site is declared.
#[derive(Default)]
pub(crate) struct Meter {
    nodes: Vec<Gauge>,
    sites: Vec<Gauge>,
    site_of: Vec<SiteId>,
}

impl Meter {
    pub fn new(index: &Index<'_>, now: Timestamp) -> Self {
        if !index.is_metered() {
            return Self::default();
        }
        let site = |node| index.sites.of(node).unwrap_or_default();
        let declared = |node| index.sites.all.get(site(node)).and_then(|(_, site)| *site);
        let budget = |milliwatts: Option<u64>| milliwatts.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
        let gauge = |budget| Gauge {
            budget,
            ..Gauge::default()
        };
        let mut meter = Self {
            nodes: (0..index.nodes.len())
                .map(|node| gauge(budget(declared(node).and_then(|site| site.node_milliwatts))))
                .collect(),
            sites: index
                .sites
                .all
                .iter()
                .map(|(_, site)| gauge(budget(site.and_then(|site| site.site_milliwatts))))
                .collect(),
            site_of: (0..index.nodes.len()).map(site).collect(),
        };
        meter.add_devices(index, now);
        meter.add_foreign(index);
        for pods in index.all_slots() {
            let lightest = lightest(pods).map(OwnPod::name);
            for own in pods.iter().filter(|own| own.pod.holds_resources) {
                if let Some(node) = own.node {
                    meter.add(node, own.load, lightest == Some(own.name()));
                }
            }
        }
        meter
    }

    fn add(&mut self, node: NodeId, load: Load, is_lightest: bool) {
        let (Some(gauge), Some(site)) = (self.nodes.get_mut(node), self.site_of.get(node)) else {
            return;
        };
        gauge.add(load, is_lightest);
        if let Some(gauge) = self.sites.get_mut(*site) {
            gauge.add(load, is_lightest);
        }
    }

    /// Every device while nobody uses it, or as it was measured while no pod of ours is on it.
    fn add_devices(&mut self, index: &Index<'_>, now: Timestamp) {
        for (id, (_, node)) in index.nodes.iter().enumerate() {
            for device in &node.devices {
                let Some(profile) = index.world.profiles.get(&device.profile) else {
                    continue;
                };
                let measured = device.draw.filter(|draw| is_fresh(draw.at, now));
                let load = match measured.filter(|_| device.held_by.is_none()) {
                    Some(draw) => Load {
                        milliwatts: banded(draw.milliwatts),
                        source: DrawSource::Measured,
                    },
                    None => nameplate(base(profile)),
                };
                self.add(id, load, true);
            }
            for profile in index.world.profiles.values().filter(|profile| profile.external) {
                let count = node.allocatable.extended.get(&profile.resource).copied();
                let milliwatts = base(profile).saturating_mul(count.unwrap_or_default().max(0));
                if milliwatts > 0 {
                    self.add(id, nameplate(milliwatts), true);
                }
            }
        }
    }

    fn add_foreign(&mut self, index: &Index<'_>) {
        let by_resource: BTreeMap<&str, &Profile> = index
            .world
            .profiles
            .values()
            .map(|profile| (profile.resource.as_str(), profile))
            .collect();
        let is_foreign = |pod: &Pod| pod.owned.is_none() && pod.holds_resources;
        for (pod, node) in index.world.pods.iter().zip(&index.pod_nodes) {
            let Some(node) = node.filter(|_| is_foreign(pod)) else {
                continue;
            };
            for (resource, count) in &pod.requests.extended {
                if let Some(profile) = by_resource.get(resource.as_str()) {
                    let milliwatts = load_of_foreign(profile).saturating_mul((*count).max(0));
                    self.add(node, nameplate(milliwatts), true);
                }
            }
        }
    }

    pub fn is_on(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether a pod that adds so much to a node exceeds what that node may draw.
    pub fn check_node(&self, node: NodeId, beside: Beside, adds: i64, gives_back: i64) -> Option<Exceeded> {
        let exceeded = self.nodes.get(node)?.check(beside, adds, gives_back)?;
        Some(Exceeded {
            of_site: false,
            ..exceeded
        })
    }

    /// Whether a pod that adds so much to a node exceeds what its site may draw.
    pub fn check_site(&self, node: NodeId, beside: Beside, adds: i64, gives_back: i64) -> Option<Exceeded> {
        let site = *self.site_of.get(node)?;
        self.sites.get(site)?.check(beside, adds, gives_back)
    }

    /// Whether a slot that has come down to `lightest` exceeds a budget by staying with `own`.
    pub fn is_too_heavy(&self, own: &OwnPod<'_>, lightest: &OwnPod<'_>) -> bool {
        let (Some(node), true) = (own.node, own.name() != lightest.name()) else {
            return false;
        };
        let Some(site) = self.site_of.get(node) else {
            return false;
        };
        let over = |gauge: &Gauge, inside: bool| {
            let gives_back = if inside { lightest.load.milliwatts } else { 0 };
            let adds = own.load.milliwatts - gives_back;
            // What adds nothing makes nothing worse.
            adds > 0 && gauge.excess(gauge.lightest.saturating_add(adds)) > 0
        };
        let same_site = lightest
            .node
            .is_some_and(|other| self.site_of.get(other) == Some(site));
        over(&self.nodes[node], lightest.node == Some(node)) || over(&self.sites[*site], same_site)
    }

    /// Books what is placed now.
    pub fn book(&mut self, node: NodeId, milliwatts: i64) {
        let load = Load {
            milliwatts,
            source: DrawSource::Modelled,
        };
        self.add(node, load, true);
    }

    /// Changes what slots that are down to their lightest pods draw on a node.
    pub fn shift_lightest(&mut self, node: NodeId, milliwatts: i64) {
        let site = self.site_of.get(node).and_then(|site| self.sites.get_mut(*site));
        for gauge in self.nodes.get_mut(node).into_iter().chain(site) {
            gauge.lightest = gauge.lightest.saturating_add(milliwatts);
        }
    }

    /// Budgets that are exceeded though every slot is down to its lightest pod, nodes first.
    pub fn exceeded(&self) -> Vec<Domain> {
        let over = |gauge: &Gauge| gauge.excess(gauge.lightest) > 0;
        let nodes = self.nodes.iter().enumerate().filter(|(_, gauge)| over(gauge));
        let sites = self.sites.iter().enumerate().filter(|(_, gauge)| over(gauge));
        nodes
            .map(|(id, _)| Domain::Node(id))
            .chain(sites.map(|(id, _)| Domain::Site(id)))
            .collect()
    }

    /// By how much.
    pub fn excess(&self, domain: Domain) -> i64 {
        let gauge = match domain {
            Domain::Node(node) => &self.nodes[node],
            Domain::Site(site) => &self.sites[site],
        };
        gauge.excess(gauge.lightest)
    }

    pub fn is_in(&self, node: NodeId, domain: Domain) -> bool {
        match domain {
            Domain::Node(other) => other == node,
            Domain::Site(site) => self.site_of.get(node) == Some(&site),
        }
    }

    /// What every site draws, for people.
    pub fn report<'w>(&self, index: &Index<'w>) -> Vec<SitePlan> {
        self.sites
            .iter()
            .enumerate()
            .map(|(id, gauge)| SitePlan {
                name: index.sites.all[id].0.to_owned(),
                nodes: index.sites.nodes(id).len(),
                planned_milliwatts: u64::try_from(gauge.lightest).unwrap_or_default(),
                source: gauge.source,
                budget_milliwatts: gauge.budget.and_then(|budget| u64::try_from(budget).ok()),
                exceeded: self.describe_excess(index, id, gauge),
                claimed_twice: index.sites.claimed_twice(id, |node| index.name(node)),
            })
            .collect()
    }

    fn describe_excess(&self, index: &Index<'_>, site: SiteId, gauge: &Gauge) -> Option<Reason> {
        let words = |code, what: String, gauge: &Gauge| Reason {
            code,
            message: format!(
                "{what} draws {} mW ({}), its budget is {} mW",
                gauge.lightest,
                gauge.source.as_str(),
                gauge.budget.unwrap_or_default()
            ),
        };
        if gauge.excess(gauge.lightest) > 0 {
            let what = format!("site {}", index.sites.all[site].0);
            return Some(words(ReasonCode::SitePowerBudget, what, gauge));
        }
        let over = |node: &&NodeId| self.excess(Domain::Node(**node)) > 0;
        let node = index.sites.nodes(site).iter().find(over)?;
        let what = format!("node {}", index.name(*node));
        Some(words(ReasonCode::NodePowerBudget, what, &self.nodes[*node]))
    }
}

/// The live pod of a slot that adds least; the first of them where several do.
pub(crate) fn lightest<'a, 'w>(pods: &'a [OwnPod<'w>]) -> Option<&'a OwnPod<'w>> {
    let live = pods.iter().filter(|own| own.is_live() && own.pod.holds_resources);
    live.min_by_key(|own| own.load.milliwatts)
}

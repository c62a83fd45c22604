//! Which site a node is in.
//!
//! The site that selects it; where none does, the one that its zone label names; without a label
//! the cluster's only one. Where several select it, the first by name has it, and all of them are
//! told.

use crate::index::NodeId;
use crate::outcome::{Reason, ReasonCode};
use crate::world::{Node, Site, World};
use perwatt_crds::site::ZONE_LABEL;
use std::collections::BTreeMap;

/// A site's place in the order of names.
pub(crate) type SiteId = usize;

/// The site of nodes that no site selects and that carry no zone label.
pub const DEFAULT_SITE: &str = "default";

/// The sites of a cluster.
#[derive(Default)]
pub(crate) struct Sites<'w> {
    /// Name, and what is declared of it.
    pub all: Vec<(&'w str, Option<&'w Site>)>,
    /// Of each node.
    of: Vec<SiteId>,
    /// Nodes of each site, in order.
    nodes: Vec<Vec<NodeId>>,
    /// Nodes that several sites select, by each of these sites.
    twice: BTreeMap<SiteId, Vec<NodeId>>,
}

impl<'w> Sites<'w> {
    /// Finds the site of every node.
    pub fn find(world: &'w World, nodes: &[(&'w str, &'w Node)]) -> Self {
        let selectors = Selectors::new(world);
        let claims: Vec<Vec<&str>> = nodes.iter().map(|(_, node)| selectors.of(node)).collect();
        let homes: Vec<&str> = nodes
            .iter()
            .zip(&claims)
            .map(|((_, node), claims)| claims.first().copied().unwrap_or_else(|| zone(node)))
            .collect();
        let mut declared: BTreeMap<&str, Option<&Site>> = world
            .sites
            .iter()
            .map(|(name, site)| (name.as_str(), Some(site)))
            .collect();
        for home in &homes {
            declared.entry(home).or_insert(None);
        }
        let all: Vec<_> = declared.into_iter().collect();
        let ids: BTreeMap<&str, SiteId> = all
            .iter()
            .enumerate()
            .map(|(id, (name, _))| (*name, id))
            .collect();
        let id = |name: &str| ids.get(name).copied().unwrap_or_default();
        let mut sites = Self {
            of: homes.iter().map(|home| id(home)).collect(),
            nodes: vec![Vec::new(); all.len()],
            all,
            twice: BTreeMap::new(),
        };
        for (node, site) in sites.of.iter().enumerate() {
            sites.nodes[*site].push(node);
        }
        for (node, claims) in claims.iter().enumerate().filter(|(_, claims)| claims.len() > 1) {
            for name in claims {
                sites.twice.entry(id(name)).or_default().push(node);
            }
        }
        sites
    }

    /// The site of a node; none where sites are of no interest to anybody.
    pub fn of(&self, node: NodeId) -> Option<SiteId> {
        self.of.get(node).copied()
    }

    /// Nodes of a site, in order.
    pub fn nodes(&self, site: SiteId) -> &[NodeId] {
        self.nodes.get(site).map_or(&[], Vec::as_slice)
    }

    /// That a site is not the only one that selects a node.
    pub fn claimed_twice(&self, site: SiteId, name: impl Fn(NodeId) -> &'w str) -> Option<Reason> {
        let nodes = self.twice.get(&site)?;
        let names: Vec<_> = nodes.iter().take(3).map(|node| name(*node)).collect();
        let more = if nodes.len() > names.len() { ", …" } else { "" };
        let message = format!(
            "{} nodes are selected by another EdgeSite too ({}{more}), and count for the first of them by name: change \
             spec.nodes of one",
            nodes.len(),
            names.join(", ")
        );
        Some(Reason {
            code: ReasonCode::NodeClaimedTwice,
            message,
        })
    }
}

fn zone(node: &Node) -> &str {
    node.labels.get(ZONE_LABEL).map_or(DEFAULT_SITE, String::as_str)
}

/// Sites by one label that they ask for, so that not every site is asked of every node.
struct Selectors<'w> {
    by_label: BTreeMap<(&'w str, &'w str), Vec<(&'w str, &'w Site)>>,
    of_all: Vec<&'w str>,
}

impl<'w> Selectors<'w> {
    fn new(world: &'w World) -> Self {
        let mut selectors = Self {
            by_label: BTreeMap::new(),
            of_all: Vec::new(),
        };
        for (name, site) in &world.sites {
            let Some(nodes) = &site.nodes else { continue };
            match nodes.match_labels.first_key_value() {
                Some((key, value)) => selectors
                    .by_label
                    .entry((key, value))
                    .or_default()
                    .push((name, site)),
                None => selectors.of_all.push(name),
            }
        }
        selectors
    }

    /// Names of the sites that select a node, in order.
    fn of(&self, node: &Node) -> Vec<&'w str> {
        let mut found = self.of_all.clone();
        if self.by_label.is_empty() {
            return found;
        }
        for (key, value) in &node.labels {
            let sites = self.by_label.get(&(key.as_str(), value.as_str()));
            let selects = |site: &Site| {
                site.nodes
                    .as_ref()
                    .is_some_and(|nodes| nodes.matches(&node.labels))
            };
            let matching = sites.into_iter().flatten().filter(|(_, site)| selects(site));
            found.extend(matching.map(|(name, _)| *name));
        }
        found.sort_unstable();
        found
    }
}

//! Nodes whose agent is silent. Its inventory is what it knew then: how its devices are now is Unknown.
//!
//! Nothing new is placed on such devices, and nothing leaves them: a dead agent is no dead device, and the runtime
//! that holds one answers for itself. What is bad by the agent's last word stays bad. That an agent restarts is
//! no silence: it has [`World::agent_grace`] for it.

use crate::explain::time;
use crate::world::{Liveness, Node, World};
use jiff::Timestamp;
use std::time::Duration;

/// How long an agent may be silent, where nobody says otherwise.
pub const AGENT_GRACE: Duration = Duration::from_secs(120);

/// The nodes whose agent is silent by now, and since when; those that are not ready are not among them.
pub fn silent_agents(world: &World, now: Timestamp) -> impl Iterator<Item = (&str, Timestamp)> {
    let nodes = world.nodes.iter();
    nodes.filter_map(move |(name, node)| Some((name.as_str(), silent_since(world, node, now)?)))
}

/// Since when the agent of a node is silent; none within the grace.
pub(crate) fn silent_since(world: &World, node: &Node, now: Timestamp) -> Option<Timestamp> {
    node.agent_silent_since
        .filter(|_| grace_end(world, node).is_some_and(|end| end <= now))
}

/// When the next agent counts as silent, unless it is heard by then.
pub(crate) fn next_silence(world: &World, now: Timestamp) -> Option<Timestamp> {
    let ends = world.nodes.values().filter_map(|node| grace_end(world, node));
    ends.filter(|end| *end > now).min()
}

fn grace_end(world: &World, node: &Node) -> Option<Timestamp> {
    let since = node
        .agent_silent_since
        .filter(|_| node.liveness == Liveness::Ready)?;
    Some(since.saturating_add(world.agent_grace).unwrap_or(Timestamp::MAX))
}

/// The same for a person.
pub(crate) fn describe(node: &str, since: Timestamp) -> String {
    format!(
        "the agent of {node} is silent since {}: its device-plugin pod is not ready",
        time(since)
    )
}

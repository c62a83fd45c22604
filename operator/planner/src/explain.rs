//! Reasons and decisions in words.

use crate::agent;
use crate::check::{Lack, Reject, Scene};
use crate::choose::Choice;
use crate::index::NodeId;
use crate::outcome::{Candidate, Reason, ReasonCode};
use crate::power::Exceeded;
use crate::slot::Slot;
use crate::survey::{Finding, Group};
use crate::ways::Way;
use crate::world::Liveness;
use perwatt_crds::inventory::DeviceHealth;

/// The longest message, in bytes: what a condition and an event hold.
pub const MESSAGE_BYTES: usize = 1024;

/// A candidate that was not chosen.
pub(crate) fn candidate(way: &Way<'_>, node: Option<&str>, rejected: Option<Reason>) -> Candidate {
    Candidate {
        variant: way.variant.name.clone(),
        profile: way.profile_name.map(str::to_owned),
        node: node.map(str::to_owned),
        rejected,
        chosen: false,
        expected: way.expected,
        note: way.note.clone(),
    }
}

/// The candidate that was chosen, on its node.
pub(crate) fn chosen(scene: Scene<'_, '_>, way: &Way<'_>, node: NodeId) -> Candidate {
    let name = scene.index.name(node);
    let silent = agent::silent_since(scene.index.world, scene.index.node(node), scene.now)
        .filter(|_| way.profile.is_some_and(|profile| !profile.external));
    let of_agent = silent.map(|since| agent::describe(name, since));
    let notes: Vec<_> = way.note.clone().into_iter().chain(of_agent).collect();
    Candidate {
        chosen: true,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
        ..candidate(way, Some(name), None)
    }
}

/// Why no node serves in this way, and the node where there is but one.
pub(crate) fn rejection<'w>(
    scene: Scene<'_, 'w>,
    way: &Way<'_>,
    finding: &Finding,
) -> (Reason, Option<&'w str>) {
    let Some(closest) = finding.groups.first() else {
        let message = "no node matches placement.nodes: `kubectl get nodes --show-labels` lists them";
        return (
            Reason {
                code: ReasonCode::NoNodeMatches,
                message: message.to_owned(),
            },
            None,
        );
    };
    let messages: Vec<_> = finding
        .groups
        .iter()
        .map(|group| describe_group(scene, way, group))
        .collect();
    let reason = Reason {
        code: closest.code,
        message: cut(messages.join("; ")),
    };
    let only = finding.groups.len() == 1 && closest.count == 1;
    let node = closest
        .first
        .first()
        .filter(|_| only)
        .map(|(node, _)| scene.index.name(*node));
    (reason, node)
}

fn describe_group(scene: Scene<'_, '_>, way: &Way<'_>, group: &Group) -> String {
    if let ([(node, reject)], 1) = (group.first.as_slice(), group.count) {
        return describe(scene, way, *node, *reject);
    }
    let names: Vec<_> = group
        .first
        .iter()
        .map(|(node, _)| scene.index.name(*node))
        .collect();
    let more = if group.count > names.len() { ", …" } else { "" };
    let what = match group.code {
        ReasonCode::NoSuchDevice => "no such device",
        ReasonCode::NodeNotReady => "not ready",
        ReasonCode::NodeTainted => "tainted",
        ReasonCode::NodeCordoned => "cordoned",
        ReasonCode::NodeFull => "too little room",
        ReasonCode::DeviceBusy => "device busy",
        ReasonCode::DeviceUnhealthy => "device not usable",
        ReasonCode::DeviceRecovering => "device recovering",
        ReasonCode::AgentSilent => "agent silent",
        ReasonCode::ModelUnavailable => "model could not be run",
        ReasonCode::FirmwareRefused => "firmware or driver not allowed",
        ReasonCode::ThermalHeadroom => "device too hot",
        ReasonCode::NodePowerBudget => "over the node's power budget",
        ReasonCode::SitePowerBudget => "over the site's power budget",
        other => other.as_str(),
    };
    let mut text = format!("{} nodes: {what} ({}{more})", group.count, names.join(", "));
    if let (
        Some((node, reject)),
        ReasonCode::NodeFull
        | ReasonCode::DeviceUnhealthy
        | ReasonCode::DeviceRecovering
        | ReasonCode::AgentSilent
        | ReasonCode::ModelUnavailable
        | ReasonCode::FirmwareRefused
        | ReasonCode::ThermalHeadroom
        | ReasonCode::NodePowerBudget
        | ReasonCode::SitePowerBudget,
    ) = (group.first.first(), group.code)
    {
        text.push_str(&format!(", such as: {}", describe(scene, way, *node, *reject)));
    }
    text
}

/// What rules out one node, with numbers.
fn describe(scene: Scene<'_, '_>, way: &Way<'_>, id: NodeId, reject: Reject) -> String {
    let node = scene.index.name(id);
    let profile = way.profile_name.unwrap_or_default();
    let resource = way.resource().unwrap_or_default();
    match reject {
        Reject::NoSuchDevice { offered: 0 } => format!("{node} has no {profile}"),
        Reject::NoSuchDevice { offered } => {
            format!("{node} offers {offered} {resource}, but its agent reports no device of {profile}")
        }
        Reject::NotReady => match scene.index.node(id).liveness {
            Liveness::Silent { since } => format!("{node} is silent since {}", time(since)),
            _ => format!("{node} is not ready"),
        },
        Reject::Tainted => {
            format!(
                "{node} has the taint {}",
                scene.index.node(id).foreign_taints.join(", ")
            )
        }
        Reject::Cordoned => format!("{node} is cordoned: `kubectl uncordon {node}` admits new pods"),
        Reject::Full { lack, need, free } => {
            let (need, free) = (amount(lack, need), amount(lack, free.max(0)));
            format!("needs {need} {}, {free} free on {node}", noun(lack))
        }
        Reject::Busy { devices, requested } => {
            format!("{requested} of {devices} {profile} on {node} in use or promised")
        }
        Reject::NotOffered { offered, requested } => format!(
            "the kubelet on {node} offers {offered} {resource}, {requested} requested, though a device is there"
        ),
        Reject::Unhealthy => describe_unhealthy(scene, profile, id),
        Reject::Refused => describe_refused(scene, profile, id),
        Reject::Hot => describe_hot(scene, profile, id),
        Reject::AgentSilent { since } => {
            format!("{profile} on {node} is Unknown: {}", agent::describe(node, since))
        }
        Reject::Unable { why, until, places } => {
            let at = match places {
                1 => format!("the {profile} of {node}, though that is well"),
                _ => format!("{profile} in {places} places, though those are well"),
            };
            let (variant, why) = (&way.variant.name, why.as_str());
            let until = time(until);
            format!(
                "the runtime could not run {variant} on {at} ({why}): not tried there again before {until}"
            )
        }
        Reject::Power(exceeded) => describe_power(scene, id, exceeded),
        Reject::Recovering { since, until } => format!(
            "{profile} on {node} is healthy again since {}, trusted from {}",
            time(since),
            time(until)
        ),
    }
}

fn describe_unhealthy(scene: Scene<'_, '_>, profile: &str, id: NodeId) -> String {
    let node = scene.index.name(id);
    let devices = &scene.index.node(id).devices;
    let unwell = devices.iter().filter(|device| device.profile == profile);
    let mut unwell = unwell.filter(|device| device.health != DeviceHealth::Healthy);
    let Some(device) = unwell.next() else {
        return format!("the healthy {profile} on {node} may be in use by a pod that does not say so");
    };
    let more = match unwell.count() {
        0 => String::new(),
        count => format!(" (and {count} more)"),
    };
    let why = if device.health_message.is_empty() {
        String::new()
    } else {
        format!(": {}", device.health_message)
    };
    format!("{} on {node} is {}{more}{why}", device.id, device.health.as_str())
}

fn describe_refused(scene: Scene<'_, '_>, profile: &str, id: NodeId) -> String {
    let devices = scene.index.node(id).devices.iter();
    let mut refused = devices.filter(|device| device.profile == profile);
    let found = refused.find_map(|device| Some((&device.id, device.firmware_refused.as_ref()?)));
    match found {
        Some((device, why)) => format!("{device} on {}: {why}", scene.index.name(id)),
        None => format!(
            "the firmware of {profile} on {} may not be used",
            scene.index.name(id)
        ),
    }
}

fn describe_hot(scene: Scene<'_, '_>, profile: &str, id: NodeId) -> String {
    let node = scene.index.name(id);
    let devices = scene.index.node(id).devices.iter();
    let mut hot = devices.filter(|device| device.profile == profile);
    let found = hot.find(|device| device.temperature.is_some() || device.throttling_since.is_some());
    match found.map(|device| (&device.id, device.throttling_since)) {
        Some((device, Some(since))) => format!("{device} on {node} throttles since {}", time(since)),
        Some((device, None)) => format!("{device} on {node} is near its throttling: it keeps what it serves"),
        None => format!("{profile} on {node} is near its throttling"),
    }
}

fn describe_power(scene: Scene<'_, '_>, id: NodeId, exceeded: Exceeded) -> String {
    let node = scene.index.name(id);
    let Exceeded {
        of_site,
        adds,
        drawn,
        budget,
    } = exceeded;
    let site = scene
        .index
        .sites
        .of(id)
        .map_or("", |site| scene.index.sites.all[site].0);
    let (what, field) = if of_site {
        (format!("site {site}"), "siteMilliwatts")
    } else {
        (node.to_owned(), "nodeMilliwatts")
    };
    format!("adds {adds} mW to the {drawn} mW of {what}, whose {field} is {budget}")
}

/// Time to the second.
pub(crate) fn time(when: jiff::Timestamp) -> String {
    when.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn amount(lack: Lack, amount: i64) -> String {
    match lack {
        Lack::Cpu => format!("{amount}m"),
        Lack::Memory => format!("{}Mi", amount / (1024 * 1024)),
        Lack::Pods => amount.to_string(),
    }
}

fn noun(lack: Lack) -> &'static str {
    match lack {
        Lack::Cpu => "CPU",
        Lack::Memory => "memory",
        Lack::Pods => "pod place",
    }
}

/// What was chosen, and what ruled out the better ones.
pub(crate) fn decision(scene: Scene<'_, '_>, ways: &[Way<'_>], choice: &Choice) -> String {
    let Some((place, node)) = choice.target else {
        return String::new();
    };
    let mut text = format!("{} at {}", ways[place].label(), scene.index.name(node));
    for (place, candidate) in choice.candidates.iter().enumerate() {
        if candidate.chosen {
            break;
        }
        if let Some(reason) = &candidate.rejected {
            text.push_str(&format!("; not {}: {}", ways[place].label(), reason.message));
        }
    }
    cut(text)
}

/// Why nothing may serve a slot.
pub(crate) fn no_feasible(slot: &Slot<'_>, ways: &[Way<'_>], choice: &Choice, has_nodes: bool) -> Reason {
    if !has_nodes {
        let message = "no node matches placement.nodes: `kubectl get nodes --show-labels` lists them";
        return Reason {
            code: ReasonCode::NoNodeMatches,
            message: message.to_owned(),
        };
    }
    let rejected: Vec<_> = choice
        .candidates
        .iter()
        .zip(ways)
        .filter_map(|(candidate, way)| Some((candidate.rejected.as_ref()?, way)))
        .collect();
    let first = rejected.first().map(|(reason, _)| reason.code);
    let all_alike = rejected.iter().all(|(reason, _)| Some(reason.code) == first);
    // It speaks of the workload, and every way would repeat it.
    if let Some((reason, _)) = rejected
        .first()
        .filter(|_| first == Some(ReasonCode::PriorityClassRefused))
    {
        return (*reason).clone();
    }
    let tried: Vec<_> = rejected
        .iter()
        .map(|(reason, way)| format!("{}: {}", way.label(), reason.message))
        .collect();
    let of_node = [
        ReasonCode::NodeCordoned,
        ReasonCode::NodeTainted,
        ReasonCode::NodeNotReady,
    ];
    let code = first
        .filter(|code| all_alike && of_node.contains(code))
        .unwrap_or(ReasonCode::NoFeasibleVariant);
    Reason {
        code,
        message: cut(format!(
            "no variant may serve {}: {}",
            slot.name,
            tried.join("; ")
        )),
    }
}

/// Cuts a message to what conditions and events hold, between characters.
pub(crate) fn cut(text: String) -> String {
    perwatt_crds::text::cut(text, MESSAGE_BYTES)
}

//! Status of a site: its nodes, what it is planned to draw, and what is wrong.

use crate::observe::snapshot::Snapshot;
use jiff::Timestamp;
use perwatt_crds::conditions::{self, ConditionType, condition};
use perwatt_crds::{EdgeSite, EdgeSiteStatus};
use perwatt_planner::figure::band;
use perwatt_planner::outcome::{Plan, SitePlan};
use std::collections::BTreeMap;

/// The status of every site, by name.
#[must_use]
pub fn compute(snapshot: &Snapshot, plan: &Plan, now: Timestamp) -> BTreeMap<String, EdgeSiteStatus> {
    let planned = plan.sites.iter().map(|site| (&site.name, site));
    planned
        .filter_map(|(name, planned)| {
            let site = snapshot.sites.get(name)?;
            Some((name.clone(), status(site, planned, now)))
        })
        .collect()
}

fn status(site: &EdgeSite, planned: &SitePlan, now: Timestamp) -> EdgeSiteStatus {
    let problem = planned.claimed_twice.as_ref().or(planned.exceeded.as_ref());
    let generation = site.metadata.generation;
    let (word, ready) = match problem {
        Some(reason) => {
            let code = reason.code.as_str();
            let ready = condition(ConditionType::Ready, false, code, &reason.message, generation);
            (code, ready)
        }
        None => {
            let message = "its nodes are its own, and no budget is exceeded";
            let ready = condition(ConditionType::Ready, true, "WithinBudget", message, generation);
            ("Ready", ready)
        }
    };
    let previous = site.status.as_ref().map_or(&[][..], |status| &status.conditions);
    EdgeSiteStatus {
        observed_generation: generation,
        nodes: u32::try_from(planned.nodes).unwrap_or(u32::MAX),
        // In bands: a status is not written for noise.
        planned_milliwatts: band(planned.planned_milliwatts),
        status: word.to_owned(),
        conditions: conditions::merge(previous, vec![ready], now),
    }
}

//! `agent-energy`: how far the agent's integrated energy is from the truth on made traces, beside the formula by
//! CPU time on the same traces. Pure arithmetic: the same on every machine.

use perwatt_device_plugin::energy::trial::{Outcome, run};

use super::figure::Figure;

/// Errors of each trace, the worst of each kind first.
pub fn measure() -> Vec<Figure> {
    let outcomes = run();
    let mut figures: Vec<_> = ["counter", "1 Hz samples"]
        .into_iter()
        .filter_map(|meter| {
            let of_meter = outcomes.iter().filter(|outcome| outcome.name.contains(meter));
            let worst =
                of_meter.max_by(|one, other| one.error_percent().total_cmp(&other.error_percent()))?;
            Some(figure(&format!("worst error, {meter} ({})", worst.name), worst))
        })
        .collect();
    figures.extend(outcomes.iter().map(|outcome| figure(&outcome.name, outcome)));
    figures
}

fn figure(name: &str, outcome: &Outcome) -> Figure {
    Figure::new(name, outcome.error_percent(), "%", 1).against(
        "the node's energy by share of CPU time",
        outcome.cpu_share_error_percent(),
    )
}

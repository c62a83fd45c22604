//! `canary-validity` and `canary-power`: verdicts on simulated rollouts, all by the shipped defaults. No cluster.

use perwatt_simulate::{Row, power, validity};

use super::figure::Figure;

/// How often a canary that is no worse is rejected.
pub fn validity() -> Vec<Figure> {
    validity::measure(validity::ROLLOUTS)
        .into_iter()
        .map(figure)
        .collect()
}

/// How soon one that is worse is.
pub fn power() -> Vec<Figure> {
    power::measure(power::ROLLOUTS).into_iter().map(figure).collect()
}

fn figure(row: Row) -> Figure {
    let figure = Figure::new(&row.name, row.value, row.unit, row.rollouts);
    match &row.beside {
        Some((what, value)) => figure.against(what, *value),
        None => figure,
    }
}

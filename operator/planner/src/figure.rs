//! Figures with where they come from, and the bands in which measured ones enter.

use perwatt_crds::performance::FigureSource;

/// A figure, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The number; its unit is the field's.
    pub value: u64,
    /// Who says so.
    pub origin: Origin,
    /// How they know.
    pub source: FigureSource,
    /// Whether the device is emulated: then the figure is of no real silicon.
    pub emulated: bool,
}

/// Who says a figure. Nearest to the truth first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The workload's own runtimes.
    Measured,
    /// The workload: `variants[].performance`.
    Declared,
    /// Worked out from the profile's nameplate.
    Nameplate,
}

impl Figure {
    /// Where the figure comes from, in few words: `measured`, `declared (modelled)`, `nameplate`.
    #[must_use]
    pub fn words(&self) -> String {
        let emulated = if self.emulated { ", emulated" } else { "" };
        match (self.origin, self.source) {
            (Origin::Measured, FigureSource::Measured) => format!("measured{emulated}"),
            (Origin::Measured, source) => format!("measured time, {} power{emulated}", source.as_str()),
            (Origin::Declared, source) => format!("declared ({}){emulated}", source.as_str()),
            (Origin::Nameplate, _) => format!("nameplate{emulated}"),
        }
    }
}

/// The lower edge of the band of a value. Bands are a tenth wide (below 20: one), so that what
/// differs by noise alone is the same to the planner.
#[must_use]
pub fn band(value: u64) -> u64 {
    let mut edge = 10_u64;
    if value < edge {
        return value;
    }
    loop {
        let next = edge.saturating_add(edge / 10);
        if next > value || next == edge {
            return edge;
        }
        edge = next;
    }
}

/// The band of a value that was in the band `previous` before: the same one while the value is
/// no more than a twentieth outside of it. What stands near an edge stays on its side.
#[must_use]
pub fn settled_band(previous: Option<u64>, value: u64) -> u64 {
    let Some(previous) = previous.map(band) else {
        return band(value);
    };
    let slack = previous / 20;
    let above = previous.saturating_add(previous / 10).saturating_add(slack);
    if value >= previous.saturating_sub(slack) && value < above.max(previous + 1) {
        previous
    } else {
        band(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_a_tenth_wide_and_a_band_is_its_own() {
        for value in (0..5_000).chain([1_000_000, 123_456_789, u64::MAX]) {
            let edge = band(value);
            assert!(edge <= value, "{value}");
            assert_eq!(band(edge), edge);
            assert!(
                value < 20 || value - edge <= edge / 10,
                "{value} is in the band of {edge}"
            );
        }
        assert_eq!(
            (band(9), band(10), band(19), band(20), band(21)),
            (9, 10, 19, 20, 20)
        );
    }

    #[test]
    fn what_stands_near_an_edge_stays_on_its_side() {
        let edge = band(1_000);
        let next = edge + edge / 10;
        assert_eq!(settled_band(Some(edge), next + edge / 25), edge);
        assert_eq!(settled_band(Some(edge), edge - edge / 25), edge);
        assert_eq!(settled_band(Some(edge), next + edge / 10), band(next + edge / 10));
        assert_eq!(settled_band(Some(edge), edge - edge / 10), band(edge - edge / 10));
        assert_eq!(settled_band(None, 1_000), edge);
    }

    #[test]
    fn a_figure_says_where_it_comes_from() {
        let figure = |origin, source, emulated| {
            Figure {
                value: 1,
                origin,
                source,
                emulated,
            }
            .words()
        };
        assert_eq!(
            figure(Origin::Measured, FigureSource::Measured, false),
            "measured"
        );
        assert_eq!(
            figure(Origin::Measured, FigureSource::Nameplate, true),
            "measured time, nameplate power, emulated"
        );
        assert_eq!(
            figure(Origin::Declared, FigureSource::Modelled, false),
            "declared (modelled)"
        );
        assert_eq!(
            figure(Origin::Nameplate, FigureSource::Nameplate, false),
            "nameplate"
        );
    }
}

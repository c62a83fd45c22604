//! Figures in few characters, in bands of a fifth, so that noise never writes a status.

/// Steps of one decade: neighbours differ by about a fifth.
const STEPS: [f64; 12] = [1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2];

/// The step nearest to `value`, at the same scale; 0 where it is no positive number.
fn band(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 0.0;
    }
    let decade = 10_f64.powf(value.log10().floor());
    let ratio = value / decade;
    let nearest = STEPS.iter().copied().chain([10.0]).min_by(|left, right| {
        (left.ln() - ratio.ln())
            .abs()
            .total_cmp(&(right.ln() - ratio.ln()).abs())
    });
    nearest.unwrap_or(1.0) * decade
}

/// `value` in the largest of `units` (factor, name; descending) in which it is at least one.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let value = band(value);
    let (factor, unit) = units
        .iter()
        .find(|(factor, _)| value >= *factor * 0.999)
        .or(units.last())
        .unwrap_or(&(1.0, ""));
    let number = value / factor;
    let digits = if number >= 9.99 { 0 } else { 1 };
    let text = format!("{number:.digits$}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// Seconds as `0.5ms`, in bands.
#[must_use]
pub fn latency(seconds: f64) -> String {
    scaled(seconds, &[(1.0, "s"), (1e-3, "ms"), (1e-6, "us")])
}

/// Microjoules as `1.2mJ`, in bands.
#[must_use]
pub fn energy(microjoules: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let joules = microjoules as f64 * 1e-6;
    scaled(joules, &[(1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ")])
}

/// Microwatts as `1.2W`, in bands.
#[must_use]
pub fn power(microwatts: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let watts = microwatts as f64 * 1e-6;
    scaled(watts, &[(1.0, "W"), (1e-3, "mW"), (1e-6, "uW")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well_and_noise_does_not_show() {
        assert_eq!(latency(0.000_41), "390us");
        assert_eq!(latency(0.000_39), latency(0.000_40));
        assert_eq!(latency(0.012_1), "12ms");
        assert_eq!(latency(2.1), "2.2s");
        assert_eq!(latency(0.001), "1ms");
        assert_eq!(energy(812), "820uJ");
        assert_eq!(energy(1_240), "1.2mJ");
        assert_eq!(energy(99_000), "100mJ");
        assert_eq!(energy(0), "0uJ");
        assert_eq!((power(1_240_000), power(812)), ("1.2W".into(), "820uW".into()));
        assert_eq!(latency(f64::NAN), "0us");
    }
}

//! Kubernetes quantities as numbers: what the planner adds up.
//!
//! Ours because the crate for it (`kube_quantity` 0.9) reads `1.5Gi` as 1 GiB, has no
//! thousandths, and overflows by a panic.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths of its unit (millicores for CPU), rounded up.
///
/// Returns nothing when the text is not a quantity; the API server lets none such through.
#[must_use]
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1000)
}

/// A quantity in its unit (bytes for memory, devices for an extended resource), rounded up.
///
/// Returns nothing when the text is not a quantity.
#[must_use]
pub fn units(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// `text` as mantissa and suffix, times `scale`, in integer arithmetic so that nothing is lost.
fn scaled(text: &str, scale: i128) -> Option<i64> {
    let split = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && matches!(c, '+' | '-'))))
        .map_or(text.len(), |(at, _)| at);
    let (mantissa, suffix) = text.split_at(split);
    let (numerator, denominator) = multiplier(suffix)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if fraction.len() > 18 || whole.len() > 19 || mantissa.trim_start_matches(['+', '-']).is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = denominator.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let product = digits.checked_mul(numerator)?.checked_mul(scale)?;
    let rounded = product.checked_add(divisor - 1)?.div_euclid(divisor);
    i64::try_from(rounded).ok()
}

/// What a suffix multiplies by, as a fraction.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    const KIBI: i128 = 1024;
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (KIBI, 1),
        "Mi" => (KIBI.pow(2), 1),
        "Gi" => (KIBI.pow(3), 1),
        "Ti" => (KIBI.pow(4), 1),
        "Pi" => (KIBI.pow(5), 1),
        "Ei" => (KIBI.pow(6), 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, factor) } else { (factor, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let cases = [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("1.5", Some(1500)),
            ("0.1m", Some(1)),
            ("2k", Some(2_000_000)),
            ("1e3", Some(1_000_000)),
            ("1Ki", Some(1_024_000)),
            ("", None),
            ("abc", None),
            ("1Q", None),
        ];
        for (text, expected) in cases {
            assert_eq!(milli(&Quantity(text.into())), expected, "{text}");
        }
        assert_eq!(units(&Quantity("128Mi".into())), Some(134_217_728));
        assert_eq!(
            units(&Quantity("1500m".into())),
            Some(2),
            "rounded up, never down"
        );
        assert_eq!(units(&Quantity("9223372036854775807".into())), Some(i64::MAX));
        assert_eq!(units(&Quantity("99999999999E".into())), None);
    }
}

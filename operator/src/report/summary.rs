//! Lists in few characters, for the columns of `kubectl get`.

use std::collections::BTreeMap;

/// Names shown before the rest is counted.
const SHOWN: usize = 3;

/// Names as `a, b, c +2`; `-` for none.
#[must_use]
pub fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let mut unique: Vec<_> = all.into_iter().collect();
    unique.sort_unstable();
    unique.dedup();
    let rest = unique.len().saturating_sub(SHOWN);
    let shown = unique.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    match (shown.is_empty(), rest) {
        (true, _) => "-".to_owned(),
        (false, 0) => shown,
        (false, rest) => format!("{shown} +{rest}"),
    }
}

/// Names with how often each occurs, most frequent first: `npu 3, cpu`; `-` for none.
#[must_use]
pub fn counts<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let mut counted = BTreeMap::<&str, usize>::new();
    for name in all {
        *counted.entry(name).or_default() += 1;
    }
    let single = counted.len() == 1;
    let mut ordered: Vec<_> = counted.into_iter().collect();
    ordered.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
    let texts: Vec<_> = ordered
        .into_iter()
        .map(|(name, count)| {
            if count == 1 || single {
                name.to_owned()
            } else {
                format!("{name} {count}")
            }
        })
        .collect();
    if texts.is_empty() {
        "-".to_owned()
    } else {
        texts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_short() {
        assert_eq!(names(["b", "a", "b"]), "a, b");
        assert_eq!(names(["a", "b", "c", "d", "e"]), "a, b, c +2");
        assert_eq!(names([]), "-");
        assert_eq!(counts(["npu", "cpu", "npu"]), "npu 2, cpu");
        assert_eq!(counts(["npu", "npu"]), "npu");
        assert_eq!(counts([]), "-");
    }
}

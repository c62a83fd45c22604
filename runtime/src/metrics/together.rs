//! The metrics of several revisions as one text: each family once, each series with its revision.

/// The series of a family that names its revision itself.
const NAMES_IT_ITSELF: &str = "perwatt_runtime_build_info";

/// Puts texts in the OpenMetrics format together. A single one stays as it is.
pub fn together(texts: &[(&str, String)]) -> String {
    if let [(_, text)] = texts {
        return text.clone();
    }
    let mut families: Vec<Family> = Vec::new();
    for (revision, text) in texts {
        let mut current = None;
        for line in text.lines() {
            if let Some(name) = name_of_header(line) {
                let place = families.iter().position(|family| family.name == name);
                let place = place.unwrap_or_else(|| {
                    families.push(Family::new(name));
                    families.len() - 1
                });
                current = Some(place);
                if let Some(family) = families.get_mut(place) {
                    family.add_header(line);
                }
            } else if !line.starts_with('#')
                && let Some(family) = current.and_then(|place| families.get_mut(place))
            {
                family.series.push(with_revision(line, revision));
            }
        }
    }
    let lines = families
        .into_iter()
        .flat_map(|family| family.headers.into_iter().chain(family.series));
    let mut text: String = lines.map(|line| line + "\n").collect();
    text.push_str("# EOF\n");
    text
}

struct Family {
    name: String,
    headers: Vec<String>,
    series: Vec<String>,
}

impl Family {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            headers: Vec::new(),
            series: Vec::new(),
        }
    }

    fn add_header(&mut self, line: &str) {
        if !self.headers.iter().any(|header| header == line) {
            self.headers.push(line.to_owned());
        }
    }
}

fn name_of_header(line: &str) -> Option<&str> {
    let rest = ["# HELP ", "# TYPE ", "# UNIT "]
        .iter()
        .find_map(|start| line.strip_prefix(start))?;
    rest.split(' ').next()
}

fn with_revision(line: &str, revision: &str) -> String {
    if line.starts_with(NAMES_IT_ITSELF) {
        return line.to_owned();
    }
    let revision = revision
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    match rest.strip_prefix('{') {
        Some(labels) => format!("{name}{{revision=\"{revision}\",{labels}"),
        None => format!("{name}{{revision=\"{revision}\"}}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_come_once_and_series_of_both_revisions() {
        let text = |value: u8| {
            format!(
                "# HELP perwatt_runtime_build B.\n# TYPE perwatt_runtime_build info\n\
                 perwatt_runtime_build_info{{revision=\"r{value}\"}} 1\n# HELP a A.\n# TYPE a counter\n\
                 a_total{{variant=\"v\"}} {value}\n# HELP g G.\n# TYPE g gauge\ng {value}\n# EOF\n"
            )
        };
        let both = together(&[("old", text(1)), ("n\"w", text(2))]);
        let expected = "# HELP perwatt_runtime_build B.\n# TYPE perwatt_runtime_build info\n\
            perwatt_runtime_build_info{revision=\"r1\"} 1\nperwatt_runtime_build_info{revision=\"r2\"} 1\n\
            # HELP a A.\n# TYPE a counter\na_total{revision=\"old\",variant=\"v\"} 1\n\
            a_total{revision=\"n\\\"w\",variant=\"v\"} 2\n# HELP g G.\n# TYPE g gauge\n\
            g{revision=\"old\"} 1\ng{revision=\"n\\\"w\"} 2\n# EOF\n";
        assert_eq!(both, expected);
        assert_eq!(together(&[("old", text(1))]), text(1));
    }
}

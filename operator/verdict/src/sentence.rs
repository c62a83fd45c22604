//! Judgements in one sentence for a person.

use crate::evidence::Evidence;
use crate::judge::counts;
use crate::judgement::{Design, Finding, Needed, Outcome, Verdict};
use crate::settings::Metric;

/// Most bytes of a sentence: those of a condition's message.
const LONGEST: usize = 1_024;

/// One finding.
pub(crate) fn of_finding(finding: &Finding, evidence: &Evidence) -> String {
    let [canary, incumbent] = [&evidence.canary, &evidence.incumbent];
    let (metric, series) = (finding.metric, &finding.series);
    if finding.outcome == Outcome::NotApplicable {
        return cut(format!(
            "{metric} of revision {canary} is not judged on {series}: {}",
            why_not(finding)
        ));
    }
    let Some(difference) = finding.difference else {
        return cut(format!(
            "nothing is known yet of {metric} of revision {canary} on {series}{}",
            rest(finding)
        ));
    };
    let interval = interval(finding);
    let allowed = amount(finding, finding.allowed);
    let start = format!("{metric} of revision {canary} is");
    let middle = match metric {
        Metric::Disagreement => format!(
            "{} {interval} of {} inputs",
            amount(finding, difference),
            finding.samples.canary
        ),
        Metric::ConfidenceShift => format!("{} {interval} against {incumbent}", amount(finding, difference)),
        _ => format!(
            "{} {interval} {} that of {incumbent}",
            amount(finding, difference.abs()),
            direction(difference)
        ),
    };
    let samples = &finding.samples;
    let nodes = match (samples.units_beyond, &finding.unit) {
        (_, Some(unit)) => format!("on {unit}, one of {} nodes", samples.units),
        (0, None) => format!("on {} {}", samples.units, nodes(samples.units)),
        (beyond, None) => format!("on {beyond} of {} {}", samples.units, nodes(samples.units)),
    };
    cut(format!(
        "{start} {middle} {nodes}; allowed is {allowed}{}",
        rest(finding)
    ))
}

/// The whole: what failed, or what is missing.
pub(crate) fn of_judgement(
    verdict: Verdict,
    findings: &[Finding],
    measuring: &[String],
    evidence: &Evidence,
) -> String {
    let first = |outcome| findings.iter().find(|finding| finding.outcome == outcome);
    let judged = findings.iter().filter(|finding| counts(finding)).count();
    let text = match verdict {
        Verdict::Fail => first(Outcome::Fail).map(|finding| finding.sentence.clone()),
        Verdict::Pass => Some(format!(
            "revision {} is within all {judged} limits{}",
            evidence.canary,
            remark(findings)
        )),
        Verdict::Inconclusive => measuring
            .first()
            .cloned()
            .or_else(|| first(Outcome::Inconclusive).map(|finding| finding.sentence.clone())),
    };
    cut(text.unwrap_or_else(|| format!("there is no evidence of revision {} yet", evidence.canary)))
}

/// What a person should know of a canary that is no worse than its incumbent.
fn remark(findings: &[Finding]) -> String {
    let bad = findings.iter().find(|finding| {
        finding.metric == Metric::ErrorRate && finding.incumbent.is_some_and(|rate| rate >= 0.05)
    });
    bad.and_then(|finding| finding.incumbent)
        .map(|rate| {
            format!(
                ", but so is the incumbent: it fails {} of requests itself",
                percent(rate)
            )
        })
        .unwrap_or_default()
}

fn why_not(finding: &Finding) -> &'static str {
    match (finding.metric, finding.design) {
        (Metric::EnergyPerInference, _) => "it is not measured on both sides",
        (_, Design::BetweenUnits) => "the two revisions do not see the same inputs",
        _ => "the model declares none",
    }
}

/// What is still needed.
fn rest(finding: &Finding) -> String {
    match finding.needed {
        Needed::Nothing => String::new(),
        Needed::Requests(requests) => format!("; about {requests} more requests are needed"),
        Needed::Units(units) => {
            format!("; at least {units} nodes, half of them canaries, are needed to tell")
        }
        Needed::Data => ": no data".to_owned(),
        Needed::Unforeseeable => "; it is too near to the limit to say how much more is needed".to_owned(),
    }
}

fn interval(finding: &Finding) -> String {
    let of = |size| amount(finding, size);
    match (finding.lower, finding.upper) {
        (Some(lower), Some(upper)) => format!("({} to {})", of(lower), of(upper)),
        (Some(lower), None) => format!("(at least {})", of(lower)),
        (None, Some(upper)) => format!("(at most {})", of(upper)),
        (None, None) => "(anything is possible yet)".to_owned(),
    }
}

fn direction(difference: f64) -> &'static str {
    if difference < 0.0 { "below" } else { "above" }
}

fn nodes(count: u64) -> &'static str {
    if count == 1 { "node" } else { "nodes" }
}

/// A difference, or a limit, with its unit.
fn amount(finding: &Finding, size: f64) -> String {
    if finding.relative {
        return percent(size);
    }
    match finding.metric {
        Metric::LatencyQuantile(_) => format!("{:.2} ms", size / 1e3),
        Metric::EnergyPerInference => format!("{:.3} mJ", size / 1e6),
        Metric::ConfidenceShift => format!("{size:.2}"),
        Metric::RestartRate => format!("{size:.1} a day"),
        Metric::Disagreement => percent(size),
        _ => format!("{} points", percent(size)),
    }
}

fn percent(part: f64) -> String {
    let hundredths = part * 100.0;
    match hundredths.abs() {
        size if size >= 9.95 => format!("{hundredths:.0}%"),
        size if size >= 0.995 => format!("{hundredths:.1}%"),
        _ => format!("{hundredths:.2}%"),
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST - 3)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

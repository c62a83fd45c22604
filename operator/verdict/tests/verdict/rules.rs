//! Rules of single metrics, and settings.

use crate::build::{each_turn, evidence, judged, of};
use perwatt_simulate::world::Effect;
use perwatt_verdict::evidence::{Feedback, Source};
use perwatt_verdict::judgement::Outcome;
use perwatt_verdict::{Evidence, Limit, Metric, Rule, Settings, Verdict, judge};

#[test]
fn energy_is_judged_only_where_it_is_measured() {
    let dear = Effect {
        energy: 1.5,
        ..Effect::NONE
    };
    let with = |change: fn(&mut perwatt_verdict::evidence::Energy)| {
        let mut evidence = evidence(&dear, 14);
        each_turn(&mut evidence, |turn| {
            turn.canary.energy.iter_mut().for_each(change);
        });
        evidence
    };
    let nameplate = with(|energy| energy.source = Source::Nameplate);
    let judgement = judged(&nameplate);
    let finding = of(&judgement, Metric::EnergyPerInference);
    assert_eq!(finding.outcome, Outcome::NotApplicable);
    assert!(
        finding.sentence.contains("not measured on both sides"),
        "{}",
        finding.sentence
    );
    assert_eq!(judgement.verdict, Verdict::Pass, "the other limits are kept");
    let emulated = with(|energy| energy.emulated = true);
    assert_eq!(
        of(&judged(&emulated), Metric::EnergyPerInference).outcome,
        Outcome::NotApplicable
    );
    let settings = Settings {
        accept_emulated_energy: true,
        ..Settings::default()
    };
    assert_eq!(judge(&emulated, &settings).unwrap().verdict, Verdict::Fail);
}

#[test]
fn a_meter_that_drifts_widens_what_is_allowed() {
    let dear = Effect {
        energy: 1.07,
        ..Effect::NONE
    };
    let at = |drift: u16| {
        let mut evidence = evidence(&dear, 15);
        each_turn(&mut evidence, |turn| {
            turn.canary
                .energy
                .iter_mut()
                .for_each(|energy| energy.drift_permille = drift);
        });
        of(&judged(&evidence), Metric::EnergyPerInference).outcome
    };
    assert_eq!(at(0), Outcome::Fail, "7% is above 5%");
    assert_eq!(
        at(40),
        Outcome::Inconclusive,
        "but not surely so with a meter that drifts by 4%"
    );
}

#[test]
fn feedback_fallbacks_and_restarts_are_judged_by_their_rules() {
    let rule = |metric, limit| Rule { metric, limit };
    let settings = Settings {
        rules: vec![
            rule(Metric::FalseAlarmRate, Limit::IncreaseMillionths(5_000)),
            rule(Metric::FallbackRate, Limit::IncreasePermille(500)),
            rule(Metric::RestartRate, Limit::IncreasePerDay(20)),
        ],
        ..Settings::default()
    };
    let mut evidence = evidence(&Effect::NONE, 16);
    let said = judge(&evidence, &settings).unwrap();
    assert_eq!(
        of(&said, Metric::FalseAlarmRate).outcome,
        Outcome::Inconclusive,
        "nobody said anything"
    );
    each_turn(&mut evidence, |turn| {
        turn.canary.feedback = Feedback {
            false_alarm: turn.canary.answered / 20,
            ..Feedback::default()
        };
        turn.incumbent.feedback.correct = 1;
        turn.canary.fallbacks = turn.canary.answered / 5;
        turn.incumbent.fallbacks = turn.incumbent.answered / 20;
        turn.canary.restarts = 1;
    });
    let judgement = judge(&evidence, &settings).unwrap();
    for rule in &settings.rules {
        assert_eq!(
            of(&judgement, rule.metric).outcome,
            Outcome::Fail,
            "{}",
            rule.metric
        );
    }
}

#[test]
fn settings_that_mean_nothing_are_refused_and_say_what_would() {
    let with = |rules: Vec<Rule>| Settings {
        rules,
        ..Settings::default()
    };
    let rule = |metric, limit| Rule { metric, limit };
    let errors = rule(Metric::ErrorRate, Limit::IncreaseMillionths(5));
    for (settings, says) in [
        (with(vec![]), "name at least one metric"),
        (with(vec![errors, errors]), "leave one"),
        (
            with(vec![rule(Metric::ErrorRate, Limit::IncreaseMicroseconds(5))]),
            "an absolute or a relative increase",
        ),
        (
            with(vec![rule(
                Metric::LatencyQuantile(1_000),
                Limit::IncreasePermille(5),
            )]),
            "1 to 999",
        ),
        (
            with(vec![rule(Metric::ErrorRate, Limit::IncreaseMillionths(0))]),
            "1 to 10000000",
        ),
        (
            Settings {
                false_alarm_millionths: 0,
                ..Settings::default()
            },
            "1 to 500000",
        ),
        (
            Settings {
                cohorts: 0,
                ..Settings::default()
            },
            "cohorts",
        ),
    ] {
        let error = judge(&Evidence::new("b", "a"), &settings).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

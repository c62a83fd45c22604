//! What is said before a rollout, beside what simulated rollouts do.

use perwatt_simulate::power::{CANARIES, plan, run};
use perwatt_verdict::judgement::Outcome;
use perwatt_verdict::preview::{acceptance, rejection, sentence, smallest};
use perwatt_verdict::{Limit, Metric, Rule, Settings};
use std::time::Duration;

#[test]
fn most_rollouts_end_within_the_forecast_and_half_of_it_is_too_short_for_most() {
    let settings = Settings::default();
    for worse in &CANARIES {
        let rule = settings
            .rules
            .iter()
            .find(|rule| rule.metric == worse.metric)
            .unwrap();
        let forecast = rejection(*rule, worse.size, &plan(3), &settings)
            .unwrap()
            .unwrap();
        let ends = (0..30).map(|seed| {
            run(&worse.effect, 3, seed, worse.metric, |progress| {
                let outcomes = progress.outcomes();
                outcomes.contains(&(worse.metric, Outcome::Fail))
            })
        });
        let within = |part: f64| forecast.time.as_secs_f64() * part;
        let ends: Vec<f64> = ends.map(|end| end.seconds).collect();
        let early = ends.iter().filter(|end| **end <= within(1.0)).count();
        let very_early = ends.iter().filter(|end| **end <= within(0.2)).count();
        assert!(
            early >= 26,
            "{}: {early} of 30 within {:?}",
            worse.name,
            forecast.time
        );
        assert!(
            very_early <= 15,
            "{}: {very_early} of 30 within a fifth of it",
            worse.name
        );
        assert!(forecast.fixed_requests < forecast.requests, "{}", worse.name);
    }
}

#[test]
fn more_time_or_more_nodes_show_smaller_differences() {
    let settings = Settings::default();
    let p95 = *settings
        .rules
        .iter()
        .find(|rule| rule.metric == Metric::LatencyQuantile(950))
        .unwrap();
    let seen = |nodes, minutes: u64| {
        smallest(p95, Duration::from_secs(60 * minutes), &plan(nodes), &settings).unwrap()
    };
    let [short, long, many] = [seen(3, 5), seen(3, 60), seen(20, 5)].map(Option::unwrap);
    assert!(
        short > long && short > many && long > 0.1,
        "{short} {long} {many}"
    );
    assert_eq!(seen(3, 0), None, "in no time nothing is seen");
    assert!(
        rejection(p95, 0.1, &plan(3), &settings).unwrap().is_none(),
        "what is allowed is never rejected"
    );
    assert!(acceptance(p95, &plan(3), &settings).unwrap().is_some());
    let text = sentence(p95, Duration::from_secs(1_500), &plan(3), &settings).unwrap();
    assert!(text.starts_with("with 3 nodes and 20 requests/s, +1"), "{text}");
    assert!(
        text.contains("% of p95 can be seen in 25 min; one that is as good passes in "),
        "{text}"
    );
}

#[test]
fn no_more_than_all_requests_can_fail() {
    let settings = Settings::default();
    let within = Duration::from_secs(3_600);
    for millionths in [1_000, 10_000, 100_000, 500_000] {
        let rule = Rule {
            metric: Metric::ErrorRate,
            limit: Limit::IncreaseMillionths(millionths),
        };
        let seen = smallest(rule, within, &plan(3), &settings).unwrap().unwrap();
        assert!(
            (f64::from(millionths) / 1e6..1.0).contains(&seen),
            "{millionths}: {seen}"
        );
    }
}

#[test]
fn a_forecast_knows_no_traffic_and_no_nodes() {
    let settings = Settings::default();
    let errors = settings.rules[0];
    let mut quiet = plan(3);
    quiet.requests_per_second = 0.0;
    assert!(rejection(errors, 0.5, &quiet, &settings).unwrap().is_none());
    quiet.units = 0;
    assert!(rejection(errors, 0.5, &quiet, &settings).unwrap().is_none());
}

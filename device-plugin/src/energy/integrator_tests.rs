use super::*;
use proptest::prelude::*;

const MEASURED: FigureSource = FigureSource::Measured;

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn counter(microjoules: u64, range: Option<u64>) -> Sample {
    Sample::Counter { microjoules, range }
}

fn point(milliwatts: u32) -> Sample {
    Sample::Power {
        milliwatts,
        shape: Shape::Point,
    }
}

fn bounds(max: u32) -> Bounds {
    Bounds {
        max_milliwatts: Some(max),
        idle_milliwatts: None,
    }
}

/// Runs samples at these seconds through an integrator of a 10 W device.
fn run(samples: &[(f64, Sample)]) -> Totals {
    let mut integrator = Integrator::new(bounds(10_000));
    for (at, sample) in samples {
        integrator.add(seconds(*at), *sample, MEASURED);
    }
    integrator.totals()
}

fn joules(samples: &[(f64, Sample)]) -> f64 {
    run(samples).joules(MEASURED)
}

#[test]
fn a_trapezoid_a_step_and_a_mean() {
    assert_eq!(joules(&[(0.0, point(1000)), (2.0, point(3000))]), 4.0);
    let shaped = |milliwatts, shape| Sample::Power { milliwatts, shape };
    assert_eq!(
        joules(&[(0.0, shaped(1000, Shape::Hold)), (2.0, shaped(3000, Shape::Hold))]),
        2.0
    );
    assert_eq!(
        joules(&[(0.0, shaped(1000, Shape::Mean)), (2.0, shaped(3000, Shape::Mean))]),
        6.0
    );
}

#[test]
fn a_counter_that_wraps_goes_on_and_one_that_is_reset_begins_again() {
    let range = Some(99_999_999);
    assert_eq!(
        joules(&[(0.0, counter(99_990_000, range)), (1.0, counter(10_000, range))]),
        0.02
    );
    let reset = run(&[
        (0.0, counter(5_000_000_000, None)),
        (1.0, counter(2_000_000, None)),
    ]);
    assert_eq!((reset.joules(MEASURED), reset.resets), (2.0, 1));
}

#[test]
fn what_the_device_cannot_have_drawn_is_not_counted() {
    // A garbled high value, and the return from it, which looks like a reset.
    let totals = run(&[
        (0.0, counter(1_000_000_000, None)),
        (1.0, counter(u64::MAX, None)),
        (2.0, counter(1_004_000_000, None)),
        (3.0, counter(1_006_000_000, None)),
    ]);
    assert_eq!(totals.joules(MEASURED), 2.0);
    assert_eq!(totals.unobserved, seconds(2.0));
}

#[test]
fn a_long_gap_invents_nothing_and_a_counter_bridges_it() {
    let gap = run(&[
        (0.0, point(5000)),
        (1.0, point(5000)),
        (101.0, point(5000)),
        (102.0, point(5000)),
    ]);
    assert_eq!(gap.joules(MEASURED), 10.0);
    assert_eq!((gap.observed, gap.unobserved), (seconds(2.0), seconds(100.0)));
    let bridged = run(&[(0.0, counter(0, None)), (1000.0, counter(5_000_000_000, None))]);
    assert_eq!(
        (bridged.joules(MEASURED), bridged.unobserved),
        (5000.0, Duration::ZERO)
    );
    // Long enough for the counter to have gone round unseen.
    let range = Some(1_000_000_000);
    let round = run(&[(0.0, counter(0, range)), (1000.0, counter(500_000_000, range))]);
    assert_eq!((round.joules(MEASURED), round.unobserved), (0.0, seconds(1000.0)));
}

#[test]
fn sleep_counts_what_the_profile_says_of_it_and_names_the_source() {
    let asleep = |milliwatts| Sample::Asleep { milliwatts };
    let known = run(&[
        (0.0, asleep(Some(50))),
        (10.0, asleep(Some(50))),
        (12.0, point(1050)),
    ]);
    assert!((known.joules(FigureSource::Nameplate) - (0.5 + 0.05)).abs() < 1e-9);
    assert!((known.joules(MEASURED) - 1.05).abs() < 1e-9);
    assert_eq!(known.asleep, seconds(10.0));
    let unknown = run(&[(0.0, asleep(None)), (10.0, asleep(None)), (12.0, point(1000))]);
    assert!(unknown.is_empty());
    assert_eq!(
        (unknown.asleep, unknown.unobserved),
        (seconds(10.0), seconds(2.0))
    );
    // A counter tells of the sleep when the device is awake again.
    let counted = run(&[
        (0.0, counter(0, None)),
        (5.0, asleep(Some(50))),
        (10.0, counter(700_000, None)),
    ]);
    assert!((counted.joules(MEASURED) - 0.7).abs() < 1e-9);
    assert_eq!(counted.joules(FigureSource::Nameplate), 0.0);
}

#[test]
fn a_clock_that_stands_or_goes_back_counts_nothing() {
    let totals = run(&[
        (10.0, point(1000)),
        (10.0, point(9000)),
        (5.0, point(1000)),
        (6.0, point(1000)),
    ]);
    assert_eq!(totals.joules(MEASURED), 1.0);
    assert_eq!(totals.observed, seconds(1.0));
}

#[test]
fn idle_is_subtracted_only_where_it_is_said() {
    let mut integrator = Integrator::new(Bounds {
        idle_milliwatts: Some(400),
        ..bounds(10_000)
    });
    for (at, milliwatts) in [(0.0, 1000), (1.0, 1000), (2.0, 100), (3.0, 100)] {
        integrator.add(seconds(at), point(milliwatts), MEASURED);
    }
    let totals = integrator.totals();
    assert!((totals.joules(MEASURED) - 1.65).abs() < 1e-9);
    assert!((totals.joules_above_idle() - 0.75).abs() < 1e-9, "{totals:?}");
    assert_eq!(
        run(&[(0.0, point(1000)), (1.0, point(1000))]).joules_above_idle(),
        0.0
    );
}

#[test]
fn nothing_known_is_unobserved_and_a_share_is_a_part() {
    let totals = run(&[
        (0.0, point(1000)),
        (1.0, Sample::Nothing),
        (2.0, point(1000)),
        (3.0, point(1000)),
    ]);
    assert_eq!((totals.joules(MEASURED), totals.unobserved), (1.0, seconds(2.0)));
    let mut share = Totals::default();
    share.add_share(&totals, 2);
    assert_eq!(share.joules(MEASURED), 0.5);
    assert_eq!(totals.since(&totals).joules(MEASURED), 0.0);
}

fn samples() -> impl Strategy<Value = Vec<(u64, Sample)>> {
    let sample = prop_oneof![
        (any::<u64>(), any::<Option<u64>>()).prop_map(|(microjoules, range)| counter(microjoules, range)),
        (0u32..20_000).prop_map(point),
        (0u32..20_000).prop_map(|milliwatts| Sample::Power {
            milliwatts,
            shape: Shape::Hold
        }),
        (0u32..20_000).prop_map(|milliwatts| Sample::Power {
            milliwatts,
            shape: Shape::Mean
        }),
        any::<Option<u32>>().prop_map(|milliwatts| Sample::Asleep { milliwatts }),
        Just(Sample::Nothing),
    ];
    prop::collection::vec((0u64..40_000, sample), 1..40)
}

proptest! {
    #[test]
    fn whatever_comes_the_sums_only_grow_and_time_is_counted_once(samples in samples()) {
        let mut integrator = Integrator::new(bounds(10_000));
        let (mut at, mut last) = (Duration::ZERO, Totals::default());
        for (wait, sample) in samples {
            at += Duration::from_millis(wait);
            integrator.add(at, sample, MEASURED);
            let now = integrator.totals();
            for source in FigureSource::ALL {
                prop_assert!(now.joules(source) >= last.joules(source));
            }
            prop_assert!(now.observed + now.unobserved <= at);
            last = now;
        }
    }

    /// The same device read by a wrapping counter, a counter that does not wrap, and in one go.
    #[test]
    fn wraps_and_the_number_of_looks_make_no_difference(
        steps in prop::collection::vec((1u64..20_000, 0u64..9_999), 1..50),
        range in 1_000_000_000u64..2_000_000_000,
        start in any::<u32>(),
    ) {
        let turn = range + 1;
        let (mut plain, mut wrapping) = (Integrator::new(bounds(10_000)), Integrator::new(bounds(10_000)));
        let (mut at, mut energy) = (Duration::ZERO, u64::from(start));
        let begin = energy;
        for (millis, milliwatts) in steps {
            plain.add(at, counter(energy, None), MEASURED);
            wrapping.add(at, counter(energy % turn, Some(range)), MEASURED);
            at += Duration::from_millis(millis);
            energy += millis * milliwatts;
        }
        plain.add(at, counter(energy, None), MEASURED);
        wrapping.add(at, counter(energy % turn, Some(range)), MEASURED);
        prop_assert_eq!(plain.totals().microjoules(MEASURED), energy - begin);
        prop_assert_eq!(wrapping.totals().microjoules(MEASURED), energy - begin);
    }

    /// Constant power is exact however irregular the looks are.
    #[test]
    fn irregular_looks_at_constant_power_are_exact(waits in prop::collection::vec(1u64..15_000, 1..50), milliwatts in 0u32..10_000) {
        let mut integrator = Integrator::new(bounds(10_000));
        let mut at = Duration::ZERO;
        integrator.add(at, point(milliwatts), MEASURED);
        for wait in &waits {
            at += Duration::from_millis(*wait);
            integrator.add(at, point(milliwatts), MEASURED);
        }
        let exact = u64::from(milliwatts) * u64::try_from(at.as_millis()).unwrap();
        let summed = integrator.totals().microjoules(MEASURED);
        prop_assert!(exact - summed <= 1, "{exact} {summed}");
        prop_assert_eq!(integrator.totals().observed, at);
    }
}

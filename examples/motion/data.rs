//! BasicMotions as text, and its delta encoding; shared by what makes the model and by the tests.

/// Classes, in the order of the model's outputs and of `labels` in model.yaml.
pub const CLASSES: [&str; 4] = ["Standing", "Running", "Walking", "Badminton"];
/// Channels of the sensor: three of the accelerometer, three of the gyroscope.
pub const CHANNELS: usize = 6;
/// Steps of a recording, a tenth of a second each.
pub const STEPS: usize = 100;
/// A channel makes an event when it moved by this much since its last one.
pub const DELTA: f32 = 0.75;

/// Ten seconds of motion.
pub struct Recording {
    /// By step, then by channel.
    pub samples: Vec<f32>,
    /// Index into [`CLASSES`].
    pub class: usize,
}

/// Reads a `.ts` file of the UEA archive: a line holds the channels of one recording, then its class.
pub fn parse(text: &str) -> Option<Vec<Recording>> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '@']));
    lines.map(recording).collect()
}

fn recording(line: &str) -> Option<Recording> {
    let (channels, class) = line.rsplit_once(':')?;
    let class = CLASSES.iter().position(|name| *name == class)?;
    let channels: Vec<Vec<f32>> = channels
        .split(':')
        .map(|channel| {
            channel
                .split(',')
                .map(|x| x.parse().ok())
                .collect::<Option<Vec<f32>>>()
        })
        .collect::<Option<_>>()?;
    if channels.len() != CHANNELS || channels.iter().any(|channel| channel.len() != STEPS) {
        return None;
    }
    let samples = (0..STEPS).flat_map(|step| {
        channels
            .iter()
            .filter_map(move |channel| channel.get(step).copied())
    });
    Some(Recording {
        samples: samples.collect(),
        class,
    })
}

/// For every step and channel 1 where it rose by [`DELTA`] since its last event, then the same for falls.
pub fn events(samples: &[f32]) -> Vec<f64> {
    let mut last: Vec<f32> = samples.iter().take(CHANNELS).copied().collect();
    let mut events = Vec::with_capacity(2 * samples.len());
    for row in samples.chunks_exact(CHANNELS) {
        let rises: Vec<bool> = row.iter().zip(&last).map(|(x, last)| x - last >= DELTA).collect();
        let falls: Vec<bool> = row.iter().zip(&last).map(|(x, last)| last - x >= DELTA).collect();
        for ((last, x), moved) in last.iter_mut().zip(row).zip(rises.iter().zip(&falls)) {
            if *moved.0 || *moved.1 {
                *last = *x;
            }
        }
        events.extend(
            rises
                .iter()
                .chain(&falls)
                .map(|&event| f64::from(u8::from(event))),
        );
    }
    events
}

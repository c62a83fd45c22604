//! `perwatt-e2e call-onnx`, hidden: ONNX Runtime called directly, on one thread, and how long a call takes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ort::environment::EnvironmentBuilder;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use crate::bench::failed;
use crate::product::Result;

/// What to call.
#[derive(Debug, clap::Args)]
pub struct CallOptions {
    /// ONNX Runtime's library.
    library: PathBuf,
    /// The graph.
    file: PathBuf,
    /// How long to measure, after a tenth of it to warm up.
    seconds: u64,
    /// Inputs of float32, such as `state=2x1x128`.
    #[arg(required = true, value_parser = parse_input)]
    inputs: Vec<Input>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Input {
    name: String,
    shape: Vec<usize>,
}

fn parse_input(text: &str) -> Result<Input, String> {
    let (name, shape) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no `=`"))?;
    let lengths = shape.split('x').map(str::parse);
    let shape = lengths.collect::<Result<Vec<_>, _>>();
    Ok(Input {
        name: name.to_owned(),
        shape: shape.map_err(|error| format!("{text:?}: {error}"))?,
    })
}

/// Prints `{"p50Microseconds": …}`.
///
/// # Errors
/// When the library or the graph cannot be used.
pub fn call(options: &CallOptions) -> Result<()> {
    let content = std::fs::read(&options.file).map_err(|error| failed(options.file.display(), error))?;
    let builder = ort::init_from(&options.library);
    let builder = builder.map_err(|error| failed(options.library.display(), error))?;
    let session = session(builder, &content);
    let mut session = session.map_err(|error| failed(options.file.display(), error))?;
    let mut noise = Noise(0x9E37_79B9);
    let fill = |input: &Input| {
        let count = input.shape.iter().product();
        std::iter::repeat_with(|| noise.next())
            .take(count)
            .collect::<Vec<f32>>()
    };
    let values: Vec<Vec<f32>> = options.inputs.iter().map(fill).collect();
    let mut once = || {
        let views = options.inputs.iter().zip(&values).map(|(input, values)| {
            let view = TensorRef::from_array_view((&input.shape[..], &values[..]))?;
            Ok((input.name.as_str(), SessionInputValue::from(view)))
        });
        let views = views.collect::<ort::Result<Vec<_>>>()?;
        session.run(views).map(drop)
    };
    let time = Duration::from_secs(options.seconds);
    let median = median_of_calls(time, || {
        once().map_err(|error| failed(options.file.display(), error))
    })?;
    println!("{}", serde_json::json!({"p50Microseconds": median}));
    Ok(())
}

/// A session with what ONNX Runtime takes by itself, but for the number of threads.
fn session(environment: EnvironmentBuilder, content: &[u8]) -> ort::Result<Session> {
    let environment = environment.with_name("bench").with_telemetry(false).build()?;
    let builder = Session::builder(&environment)?;
    let mut builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?;
    builder.commit_from_memory(content)
}

/// Microseconds.
#[allow(clippy::cast_precision_loss, reason = "nanoseconds of a call")]
fn median_of_calls(time: Duration, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3);
    let mut times = times.map_err(|error| failed("a histogram", error))?;
    let began = Instant::now();
    while began.elapsed() < time / 10 {
        call()?;
    }
    let began = Instant::now();
    while began.elapsed() < time {
        let start = Instant::now();
        call()?;
        times.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times.value_at_quantile(0.5) as f64 / 1e3)
}

/// Numbers from −0.5 to 0.5, made as `model bench` makes its own: some arithmetic is faster on zeros.
struct Noise(u32);

impl Noise {
    #[allow(clippy::cast_possible_truncation, reason = "inputs are in single precision")]
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (f64::from(self.0) / f64::from(u32::MAX) - 0.5) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_has_a_name_and_a_shape() {
        let input = parse_input("state=2x1x128").expect("parses");
        assert_eq!(
            (input.name.as_str(), &input.shape[..]),
            ("state", &[2, 1, 128][..])
        );
        assert!(parse_input("state").is_err());
        assert!(parse_input("state=2x").is_err());
    }
}

//! What is counted of every request: metrics for whoever watches this runtime, evidence for the operator.
//!
//! The engine tells it what happened, in one call for each request; nothing here decides anything.

pub mod confidence;
pub mod feedback;
pub mod jitter;
mod meters;

use crate::chain::Reason;
use crate::config::Config;
use crate::energy::Energy;
use crate::engine::{Answer, InferError, Query};
use crate::evidence::tally::Tally;
use crate::evidence::{Epoch, EpochReason, Record, TallyReading, Totals};
use crate::metrics::{
    EnergyLabels, FeedbackKind, FeedbackLabels, Flow, FlowLabels, Metrics, SafeLabels, VariantLabels,
};
use crate::record::Recorder;
use crate::stages::Stages;
use crate::state::Saved;
use crate::tensor::Tensor;
use crate::traces::{Tracer, Who};
use confidence::Reader;
use feedback::{FeedbackBook, FeedbackError, Noted, Subject};
use jitter::Rhythm;
use meters::Meters;
use perwatt_model::Manifest;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Records of other revisions or devices that are kept from earlier processes.
const FOREIGN: usize = 32;
/// The label of feedback on answers of which nobody knows who gave them.
const UNKNOWN: &str = "unknown";

/// An answer, as far as it is counted.
#[derive(Debug)]
pub struct Served<'a> {
    /// Place in the chain of the variant that answered.
    pub variant: usize,
    /// What it answered.
    pub outputs: &'a [Tensor],
    /// From the request's last byte to here.
    pub latency: Duration,
    /// Where the time went.
    pub stages: Stages,
    /// Energy of the inference, where a figure exists.
    pub energy: Option<&'a Energy>,
    /// Why another variant than the first answered.
    pub fallback: Option<Reason>,
    /// Whether it came after the request's deadline.
    pub late: bool,
    /// Whether its sequence lost its state.
    pub sequence_restarted: bool,
}

/// Counts everything.
#[derive(Debug)]
pub struct Telemetry {
    revision: String,
    places: Vec<Place>,
    confidence: Option<Reader>,
    jitter: [Histogram; 2],
    feedback: Mutex<FeedbackBook>,
    totals: Mutex<Totals>,
    epoch: Epoch,
    /// What earlier processes counted, and no variant of this one goes on with.
    foreign: Mutex<Vec<Record>>,
    recorder: Option<Recorder>,
    tracer: Option<Tracer>,
}

/// The counts of one variant of the chain.
#[derive(Debug)]
struct Place {
    name: String,
    tally: Tally,
    meters: Meters,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so a poisoned lock holds whole data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Telemetry {
    /// Nothing counted yet; nothing at all where a histogram cannot be made.
    pub fn new(config: &Config, manifest: &Manifest, metrics: &Metrics) -> Option<Self> {
        let confidence = Reader::of(manifest);
        let bins = confidence.as_ref().map_or(0, |c| c.reference().counts.len());
        let place = |name: &String| {
            Some(Place {
                name: name.clone(),
                tally: Tally::new(bins)?,
                meters: Meters::of(metrics, name, confidence.is_some()),
            })
        };
        let names = config.variants.iter().map(|variant| &variant.name);
        let places = names.map(place).collect::<Option<_>>()?;
        let jitter = |flow| metrics.jitter_seconds.get_or_create_owned(&FlowLabels { flow });
        Some(Self {
            revision: config.revision.clone(),
            places,
            confidence,
            jitter: [jitter(Flow::Arrival), jitter(Flow::Reply)],
            feedback: Mutex::default(),
            totals: Mutex::default(),
            epoch: Epoch::begin(EpochReason::NotKept),
            foreign: Mutex::default(),
            recorder: None,
            tracer: None,
        })
    }

    /// Counts an answer.
    pub fn answered(&self, metrics: &Metrics, served: &Served<'_>) {
        let Some(place) = self.places.get(served.variant) else {
            return;
        };
        let sureness = self.confidence.as_ref().map(|reader| {
            let value = reader.read(served.outputs);
            place.meters.observe_confidence(value);
            reader.sort(value)
        });
        place.meters.observe_time(served.latency, &served.stages);
        place.tally.answered(served.latency, served.energy, sureness);
        if let Some(energy) = served.energy {
            count_energy(metrics, &place.name, energy);
        }
        if served.late {
            self.missed_deadline(metrics);
        }
        if served.sequence_restarted {
            lock(&self.totals).sequences_restarted += 1;
            metrics.sequences_restarted.inc();
        }
        if let Some(reason) = served.fallback {
            lock(&self.totals).fallbacks += 1;
            metrics.count_fallback(&place.name, reason);
        }
    }

    /// Counts a call that gave no answer where another variant gave one.
    pub fn failed(&self, variant: usize) {
        if let Some(place) = self.places.get(variant) {
            place.tally.failed();
        }
    }

    /// Counts a request that no variant answered.
    pub fn unanswered(&self) {
        lock(&self.totals).unanswered += 1;
    }

    /// Counts a request without an answer before its deadline.
    pub fn missed_deadline(&self, metrics: &Metrics) {
        lock(&self.totals).deadlines_missed += 1;
        metrics.deadlines_missed.inc();
    }

    /// Counts a request that no variant answered, and that got the safe value.
    pub fn gave_safe_value(&self, metrics: &Metrics, reason: &'static str) {
        lock(&self.totals).safe_values += 1;
        metrics.safe_values.get_or_create(&SafeLabels { reason }).inc();
    }

    /// Takes in a request of a sequence and its reply, which comes now.
    pub fn beat(&self, rhythm: &mut Rhythm, arrived: Instant) {
        if let Some(jitter) = rhythm.advance(arrived, Instant::now()) {
            let [arrival, reply] = &self.jitter;
            arrival.observe(jitter.arrival);
            reply.observe(jitter.reply);
        }
    }

    /// Records samples from now on.
    pub fn record_to(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Offers a request that a variant answered to the recorder, where there is one.
    pub fn sample(&self, query: &Query, answer: &Answer) {
        if let (Some(recorder), Some(place)) = (&self.recorder, self.place(answer.variant)) {
            recorder.offer(query, answer, &place.name);
        }
    }

    fn place(&self, variant: Option<usize>) -> Option<&Place> {
        self.places.get(variant?)
    }

    /// Traces from now on.
    pub fn trace_to(&mut self, tracer: Tracer) {
        self.tracer = Some(tracer);
    }

    /// Traces a request that was just answered or got an error, where traces are on. `device` tells the device of
    /// a place in the chain.
    pub fn trace<'a>(
        &'a self,
        traceparent: Option<&str>,
        arrived: Instant,
        result: &Result<Answer, InferError>,
        device: impl Fn(usize) -> Option<&'a str>,
    ) {
        let Some(tracer) = &self.tracer else {
            return;
        };
        let who = |answer: &Answer| Who {
            variant: self.place(answer.variant).map_or("none", |place| &place.name),
            device: answer.variant.and_then(&device).unwrap_or("none"),
            revision: &self.revision,
        };
        tracer.trace(
            traceparent,
            arrived,
            result.as_ref().map(|answer| (answer, who(answer))),
        );
    }

    /// Waits until what was traced so far is sent, or given up.
    pub async fn flush_traces(&self) {
        if let Some(tracer) = &self.tracer {
            tracer.flush().await;
        }
    }

    /// Remembers who answered the request with this id, for feedback. An empty id is none.
    pub fn remember(&self, id: &str, variant: usize) {
        if !id.is_empty() {
            lock(&self.feedback).answered(id, variant);
        }
    }

    /// Whether it is remembered who answered the request with this id.
    pub fn remembers(&self, id: &str) -> bool {
        lock(&self.feedback).remembers(id)
    }

    /// Remembers what serves from now on, for feedback.
    pub fn serves(&self, variant: Option<usize>) {
        lock(&self.feedback).serves(variant, SystemTime::now());
    }

    /// Takes in what an application says of an answer.
    ///
    /// # Errors
    /// When it contradicts an earlier word, or speaks of the future.
    pub fn feedback(
        &self,
        metrics: &Metrics,
        subject: &Subject,
        kind: FeedbackKind,
    ) -> Result<(Noted, Option<&str>), FeedbackError> {
        let noted = lock(&self.feedback).note(subject, kind, SystemTime::now())?;
        let place = self.place(noted.variant);
        let name = place.map(|place| place.name.as_str());
        if noted.counted {
            let variant = name.unwrap_or(UNKNOWN).to_owned();
            metrics
                .feedback
                .get_or_create(&FeedbackLabels { variant, kind })
                .inc();
            match place {
                Some(place) => place.tally.feedback(kind),
                None => lock(&self.totals).feedback_unattributed.add(kind),
            }
        }
        Ok((noted, name))
    }

    /// Brings the gauges up to date that are computed, not counted.
    pub fn refresh(&self, metrics: &Metrics) {
        if let Some(bytes) = resident_memory() {
            metrics.resident_memory_bytes.set(bytes);
        }
        let Some(reader) = &self.confidence else {
            return;
        };
        for place in &self.places {
            if let Some(shift) = place.tally.shift(&reader.reference().counts) {
                let labels = VariantLabels::of(&place.name);
                metrics.confidence_shift.get_or_create(&labels).set(shift);
            }
        }
    }

    /// Counts of a variant, for display.
    pub fn read(&self, variant: usize) -> Option<TallyReading> {
        Some(self.places.get(variant)?.tally.read())
    }

    /// Counts that belong to no one variant.
    pub fn totals(&self) -> Totals {
        *lock(&self.totals)
    }

    /// When the counts began.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// All counts by revision, variant and device; `devices` has the device of each variant.
    pub fn records(&self, devices: &[Option<String>]) -> Vec<Record> {
        // Held until the end: a record that is claimed meanwhile would be in both, or in none.
        let foreign = lock(&self.foreign);
        let own = self.places.iter().enumerate().filter_map(|(index, place)| {
            let device = devices.get(index).and_then(Option::as_deref);
            place
                .tally
                .record(&self.revision, &place.name, device, self.edges())
        });
        own.chain(foreign.iter().cloned()).collect()
    }

    /// Goes on from where an earlier process ended.
    pub fn restore(&mut self, saved: Saved, devices: &[Option<String>]) {
        self.epoch = saved.epoch;
        self.totals = Mutex::new(saved.totals);
        self.foreign = Mutex::new(saved.records);
        for (index, device) in devices.iter().enumerate() {
            self.claim(index, device.as_deref());
        }
        lock(&self.foreign).truncate(FOREIGN);
    }

    /// Lets a variant go on with what earlier processes counted of it on this device.
    pub fn claim(&self, variant: usize, device: Option<&str>) {
        let Some(place) = self.places.get(variant) else {
            return;
        };
        let key = (&*self.revision, &*place.name, device);
        lock(&self.foreign).retain(|record| {
            let is_own = (&*record.revision, &*record.variant, record.device.as_deref()) == key;
            !(is_own && place.tally.restore(record, self.edges()))
        });
    }

    /// Begins to count under this epoch.
    pub fn begin(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    fn edges(&self) -> &[f64] {
        self.confidence
            .as_ref()
            .map_or(&[], |reader| &reader.reference().edges)
    }
}

fn count_energy(metrics: &Metrics, variant: &str, energy: &Energy) {
    let labels = EnergyLabels {
        variant: variant.to_owned(),
        source: energy.label(),
    };
    let joules = metrics.energy_joules.get_or_create(&labels);
    joules.inc_by(energy.microjoules / 1e6);
    drop(joules);
    metrics.energy_inferences.get_or_create(&labels).inc();
}

/// Resident memory of this process in bytes, where the system says it.
fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

//! The metrics of one variant, looked up once: a request then takes no lock and makes no label.

use crate::metrics::{Metrics, Stage, StageLabels, VariantLabels};
use crate::stages::Stages;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// What every answer of a variant is observed in.
#[derive(Debug)]
pub struct Meters {
    request: Histogram,
    queue: Histogram,
    preprocess: Histogram,
    inference: Histogram,
    postprocess: Histogram,
    confidence: Option<(Histogram, Counter)>,
}

impl Meters {
    /// The meters of a variant. Confidence has some only where the model declares it.
    pub fn of(metrics: &Metrics, variant: &str, has_confidence: bool) -> Self {
        let labels = VariantLabels::of(variant);
        let stage = |stage| {
            let variant = variant.to_owned();
            metrics
                .stage_seconds
                .get_or_create_owned(&StageLabels { variant, stage })
        };
        let confidence = || {
            let values = metrics.confidence.get_or_create_owned(&labels);
            (values, metrics.confidence_invalid.get_or_create_owned(&labels))
        };
        Self {
            request: metrics.request_seconds.get_or_create_owned(&labels),
            queue: stage(Stage::Queue),
            preprocess: stage(Stage::Preprocess),
            inference: stage(Stage::Inference),
            postprocess: stage(Stage::Postprocess),
            confidence: has_confidence.then(confidence),
        }
    }

    /// Observes where the time of an answer went.
    pub fn observe_time(&self, total: Duration, stages: &Stages) {
        self.request.observe(total.as_secs_f64());
        self.queue.observe(stages.queue.as_secs_f64());
        self.preprocess.observe(stages.preprocess.as_secs_f64());
        self.inference.observe(stages.inference.as_secs_f64());
        self.postprocess.observe(stages.postprocess.as_secs_f64());
    }

    /// Observes how sure an answer was.
    pub fn observe_confidence(&self, confidence: f64) {
        match &self.confidence {
            Some((_, invalid)) if confidence.is_nan() => {
                invalid.inc();
            }
            Some((values, _)) => values.observe(confidence),
            None => {}
        }
    }
}

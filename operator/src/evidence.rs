//! What runtimes say of themselves: latency, energy, the active variant. Pulled from port 9090
//! of a bounded sample of pods, kept in memory for display alone: no decision needs it to
//! survive a restart.

use futures::{StreamExt, stream};
use perwatt_planner::world::ActiveVariant;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Most pods that are asked in one round.
const SAMPLE: usize = 64;
/// Pods that are asked at once.
const CONCURRENT: usize = 8;
/// How long one pod may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes: a variant's whole histogram of latency takes 60 KB.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// Newest version of the answer that is understood. Fields are added within a version; another number means
/// that some changed.
const SCHEMA: u32 = 2;

/// One runtime's answer; what we do not show is left out.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of the format.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// The variant that answers now; nothing while none may.
    pub active_variant: Option<String>,
    /// Whether it is another than the pod's first, or the pod itself stands in.
    #[serde(default)]
    pub degraded: bool,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// Figures of each variant.
    #[serde(default)]
    pub variants: Vec<VariantReport>,
    /// Sequences whose state was lost.
    #[serde(default)]
    pub sequences_restarted: u64,
}

fn first_schema() -> u32 {
    1
}

/// Why an answer is no report.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    /// Not the format.
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A runtime that is newer than this operator.
    #[error("its schema is {0}, this operator reads up to {SCHEMA}: upgrade the operator")]
    Schema(u32),
}

impl Report {
    fn parse(body: &[u8]) -> Result<Self, ReportError> {
        let report: Self = serde_json::from_slice(body)?;
        if report.schema > SCHEMA {
            return Err(ReportError::Schema(report.schema));
        }
        Ok(report)
    }
}

/// Figures of one variant.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VariantReport {
    /// Its name.
    pub name: String,
    /// Latency of an inference, once there is one.
    #[serde(default)]
    pub latency_seconds: Option<Latency>,
    /// Energy, where it is known.
    #[serde(default)]
    pub energy: Option<Energy>,
}

/// Quantiles of latency, in seconds.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Latency {
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile; nothing where the runtime does not say.
    #[serde(default)]
    pub p99: Option<f64>,
    /// Inferences counted.
    #[serde(default)]
    pub count: u64,
}

/// Energy per inference.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Energy {
    /// Microjoules.
    pub microjoules_per_inference: u64,
    /// Where the figure comes from.
    pub source: String,
    /// An emulated device is never measured.
    #[serde(default)]
    pub emulated: bool,
}

/// The last answer of each pod, by uid.
#[derive(Clone, Debug, Default)]
pub struct Evidence(Arc<Mutex<HashMap<String, Report>>>);

/// A pod to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Uid of the pod.
    pub uid: String,
    /// Address of the pod.
    pub address: String,
}

impl Evidence {
    /// The last answer of a pod.
    #[must_use]
    pub fn report(&self, uid: &str) -> Option<Report> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .cloned()
    }

    /// The active variant of a pod, as it said last.
    #[must_use]
    pub fn active(&self, uid: &str) -> Option<ActiveVariant> {
        let report = self.report(uid)?;
        Some(ActiveVariant {
            name: report.active_variant?,
            reason: String::new(),
            since: None,
        })
    }

    /// Asks `sources` (a bounded number of them) and forgets the pods that are not among them.
    /// Returns whether an answer differs from the last one.
    pub async fn pull(&self, client: &reqwest::Client, mut sources: Vec<Source>) -> bool {
        sources.sort_by(|left, right| left.uid.cmp(&right.uid));
        sources.truncate(SAMPLE);
        let answers: HashMap<String, Report> = stream::iter(sources)
            .map(|source| async move { Some((source.uid.clone(), ask(client, &source).await?)) })
            .buffer_unordered(CONCURRENT)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *known != answers;
        *known = answers;
        changed
    }
}

/// Why a runtime gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// Not in time.
    #[error("it does not answer within {} s", DEADLINE.as_secs())]
    Late,
    /// The connection failed.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    /// It said no.
    #[error("{0}: {1}")]
    Refused(reqwest::StatusCode, String),
    /// It said more than is read.
    #[error("its answer is longer than {0} bytes")]
    Long(usize),
}

/// Sends a request to a runtime; its answer, of at most `limit` bytes.
pub(crate) async fn read_answer(
    request: reqwest::RequestBuilder,
    limit: usize,
) -> Result<Vec<u8>, AnswerError> {
    let answer = async {
        let mut response = request.send().await?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > limit {
                return Err(AnswerError::Long(limit));
            }
        }
        if status.is_success() {
            return Ok(body);
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        Err(AnswerError::Refused(status, text.trim().to_owned()))
    };
    tokio::time::timeout(DEADLINE, answer)
        .await
        .unwrap_or(Err(AnswerError::Late))
}

/// An address as it stands in a URL.
pub(crate) fn host(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

async fn ask(client: &reqwest::Client, source: &Source) -> Option<Report> {
    let host = host(&source.address);
    let url = format!("http://{host}:{}/evidence", perwatt_crds::names::PORT_OBSERVE);
    let body = read_answer(client.get(&url), ANSWER_LIMIT).await.ok()?;
    Report::parse(&body)
        .map_err(|error| tracing::debug!(%url, %error, "evidence is not readable"))
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn runtimes_of_both_schemas_are_understood() {
        let first = r#"{"schema": 1, "workload": "gate", "revision": "r1", "epoch": "1-1", "activeVariant": "npu",
            "degraded": false, "reason": null, "variants": [{"name": "npu", "device": "d0", "requests": 3,
            "failures": 0, "latencySeconds": {"p50": 0.001, "p95": 0.002, "p99": 0.002, "count": 3},
            "energy": {"microjoulesPerInference": 910, "source": "nameplate", "emulated": true},
            "state": "Active", "message": ""}], "sequencesRestarted": 0, "fallbacks": 0}"#;
        let second = r#"{"schema": 2, "workload": "gate", "revision": "r1", "epoch": "1-1",
            "epochUnixSeconds": 1764000000, "epochReason": "FirstStart", "activeVariant": "npu", "degraded": false,
            "reason": null, "variants": [{"name": "npu", "device": "d0", "requests": 3, "failures": 0,
            "latencySeconds": {"p50": 0.001, "p95": 0.002, "p99": 0.002, "count": 3},
            "energy": {"microjoulesPerInference": 910, "source": "nameplate", "emulated": true},
            "state": "Active", "message": ""}], "sequencesRestarted": 0, "fallbacks": 0, "deadlinesMissed": 1,
            "feedbackUnattributed": {"falseAlarm": 0, "miss": 0, "correct": 0},
            "records": [{"revision": "r1", "variant": "npu", "device": "d0", "answered": 3, "failed": 0,
            "latency": {"significantDigits": 2, "microseconds": [[1003, 2], [2015, 1]]},
            "energy": [{"source": "nameplate", "emulated": true, "nanojoules": 2730000, "inferences": 3}],
            "confidence": null, "feedback": {"falseAlarm": 1, "miss": 0, "correct": 0}}]}"#;
        for text in [first, second] {
            let report = Report::parse(text.as_bytes()).unwrap();
            assert_eq!(report.active_variant.as_deref(), Some("npu"));
            let variant = &report.variants[0];
            assert_eq!(variant.latency_seconds.as_ref().unwrap().count, 3);
            let energy = variant.energy.as_ref().unwrap();
            assert_eq!((energy.microjoules_per_inference, energy.emulated), (910, true));
        }
    }

    #[test]
    fn a_runtime_that_cannot_serve_still_reports() {
        let report = Report::parse(br#"{"schema": 2, "activeVariant": null, "degraded": true}"#).unwrap();
        assert_eq!((report.active_variant, report.degraded), (None, true));
    }

    #[test]
    fn a_newer_schema_is_left_alone_and_said() {
        let error = Report::parse(br#"{"schema": 3, "activeVariant": "npu"}"#).unwrap_err();
        assert!(error.to_string().contains("upgrade the operator"), "{error}");
        Report::parse(b"[]").unwrap_err();
    }
}

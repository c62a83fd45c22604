//! Streaming infer, for sensors: one stream carries one request after the other, and their replies in that order.

use super::grpc::answer;
use super::memory::Meter;
use super::refusal::Refused;
use super::service::{Envelope, Service};
use futures::stream::{self, BoxStream, StreamExt};
use perwatt_oip::grpc::encode_reply;
use perwatt_oip::grpc::pb::infer_parameter::ParameterChoice;
use perwatt_oip::grpc::pb::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use std::future::ready;
use std::sync::Arc;
use std::time::Instant;
use tonic::{Status, Streaming};

/// Requests of one stream that are under way at once; the next is read when the oldest of them is answered.
const IN_FLIGHT: usize = 16;
/// With this parameter a client asks to be told which reply to a request is its last.
const ASKS_FOR_FINAL: &str = "triton_enable_empty_final_response";
/// And by this one it is told. Here every reply is.
const IS_FINAL: &str = "triton_final_response";

/// What a stream was opened with.
pub(super) struct Opened {
    /// Counts what it holds.
    pub meter: Option<Meter>,
    /// When its time is up, where its client said so.
    pub end: Option<Instant>,
    /// Where in a trace its requests belong.
    pub traceparent: Option<Arc<str>>,
}

/// Answers a stream until its client, its time or the server ends it. A request that fails has its error in its
/// reply's place, and the stream goes on.
pub(super) fn answer_in_order(
    service: Arc<Service>,
    messages: Streaming<ModelInferRequest>,
    opened: Opened,
) -> BoxStream<'static, Result<ModelStreamInferResponse, Status>> {
    let Opened {
        meter,
        end,
        traceparent,
    } = opened;
    let drain = service.drain.clone();
    let stop = {
        let drain = drain.clone();
        async move { drain.stopping().await }
    };
    // Why it ended, where it is not the client who ended it.
    let goodbye = stream::once(async move {
        let stopped = drain.is_stopping();
        stopped.then(|| {
            Err(Status::unavailable(
                "the server stops: open the stream again, elsewhere",
            ))
        })
    });
    messages
        .take_until(Box::pin(stop))
        .map(move |message| {
            let arrived = Instant::now();
            let memory = meter.as_ref().and_then(Meter::take);
            let (service, traceparent) = (service.clone(), traceparent.clone());
            async move {
                let envelope = Envelope {
                    arrived,
                    limit: end.map(|end| end.saturating_duration_since(arrived)),
                    traceparent: traceparent.as_deref(),
                };
                let reply = reply(&service, message?, envelope).await;
                drop(memory);
                Ok(reply)
            }
        })
        .buffered(IN_FLIGHT)
        .chain(goodbye.filter_map(ready))
        .boxed()
}

async fn reply(
    service: &Service,
    message: ModelInferRequest,
    envelope: Envelope<'_>,
) -> ModelStreamInferResponse {
    let id = message.id.clone();
    let asks_for_final = message.parameters.get(ASKS_FOR_FINAL).is_some_and(is_true);
    let (error_message, mut response) = match answer(service, message, envelope).await {
        Ok(answered) => (String::new(), encode_reply(&service.build_reply(&answered))),
        Err(refused) => failed(service, id, refused),
    };
    if asks_for_final {
        let is_final = InferParameter {
            parameter_choice: Some(ParameterChoice::BoolParam(true)),
        };
        response.parameters.insert(IS_FINAL.to_owned(), is_final);
    }
    ModelStreamInferResponse {
        error_message,
        infer_response: Some(response),
    }
}

/// An error in band: the id says to which request.
fn failed(service: &Service, id: String, refused: Refused) -> (String, ModelInferResponse) {
    let manifest = &service.engine.manifest;
    let response = ModelInferResponse {
        model_name: manifest.name.to_string(),
        model_version: manifest.version.as_str().to_owned(),
        id,
        ..ModelInferResponse::default()
    };
    (refused.message, response)
}

fn is_true(parameter: &InferParameter) -> bool {
    matches!(parameter.parameter_choice, Some(ParameterChoice::BoolParam(true)))
}

//! The same request over gRPC, and its reply as the JSON that REST would have given.

use std::time::Duration;

use perwatt_oip::grpc::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use perwatt_oip::grpc::{decode_reply, encode_request};
use perwatt_oip::limits::Limits;
use perwatt_oip::message::{Answer, Outgoing, Output};
use perwatt_oip::rest;
use serde_json::{Value, json};
use tonic::Request;

/// Sends a REST request's body over gRPC to `authority`, such as `10.96.0.7:8081`.
///
/// # Errors
/// With what went wrong.
pub async fn infer(authority: &str, model: &str, body: &Value, deadline: Duration) -> Result<Value, String> {
    let text = body.to_string().into_bytes().into();
    let request = rest::decode_request(&text, None, &Limits::DEFAULT).map_err(|error| error.to_string())?;
    let named = request.inputs.into_iter().map(|input| {
        let name = input.name.to_string();
        input.decode().map(|tensor| (name, tensor))
    });
    let named = named
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    let inputs: Vec<_> = named
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let outgoing = Outgoing {
        id: None,
        parameters: &request.parameters,
        inputs: &inputs,
        outputs: &[],
    };
    let mut message = Request::new(encode_request(model, "", &outgoing));
    message.set_timeout(deadline);
    let client = GrpcInferenceServiceClient::connect(format!("http://{authority}")).await;
    let mut client = client.map_err(|error| format!("{authority}: {error}"))?;
    let reply = client
        .model_infer(message)
        .await
        .map_err(|status| status.to_string())?;
    let reply = decode_reply(reply.into_inner(), &Limits::DEFAULT).map_err(|error| error.to_string())?;
    let outputs = reply.outputs.iter().map(|named| Output {
        name: &named.name,
        tensor: &named.tensor,
        binary: false,
    });
    let answer = Answer {
        model_name: &reply.model_name,
        model_version: &reply.model_version,
        id: None,
        parameters: Vec::new(),
        outputs: outputs.collect(),
    };
    let encoded = rest::encode_reply(&answer).map_err(|error| error.to_string())?;
    let mut whole: Value = serde_json::from_slice(&encoded.content).map_err(|error| error.to_string())?;
    whole["parameters"] = json!(reply.parameters);
    Ok(whole)
}

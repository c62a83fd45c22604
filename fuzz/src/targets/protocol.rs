//! What comes over the network: requests of clients, replies of servers elsewhere.
//!
//! An input for REST is a body after a line that says how many bytes of it are JSON, or `-` where the body is
//! JSON alone: what a header says of a real one.

use super::model;
use perwatt_oip::bytes::Bytes;
use perwatt_oip::grpc::{self, pb};
use perwatt_oip::limits::Limits;
use perwatt_oip::message::InferRequest;
use perwatt_oip::rest;
use perwatt_runtime::protocol::compression::{Encoding, decompress};
use perwatt_runtime::protocol::request::{Timing, check};
use prost::Message;
use std::time::{Duration, Instant};

/// Largest body that is unpacked.
const MOST_BYTES: usize = 1 << 22;

/// The body, and how much of it is JSON.
fn body(input: &[u8]) -> Option<(Bytes, Option<usize>)> {
    let end = input.iter().position(|&byte| byte == b'\n')?;
    let (line, body) = (input.get(..end)?, input.get(end + 1..)?);
    let length = match line {
        b"-" => None,
        line => Some(str::from_utf8(line).ok()?.parse().ok()?),
    };
    Some((Bytes::copy_from_slice(body), length))
}

/// Whether a request that could be read also fits the model.
fn fits(request: InferRequest<'_>, binary: bool) -> bool {
    let Ok(manifest) = model() else { return false };
    let timing = Timing {
        arrived: Instant::now(),
        limit: None,
        default: Duration::from_secs(1),
    };
    check(request, &manifest, timing, binary).is_ok()
}

pub fn rest_request(input: &[u8]) -> bool {
    let Some((content, json_length)) = body(input) else {
        return false;
    };
    let request = rest::decode_request(&content, json_length, &Limits::DEFAULT);
    request.is_ok_and(|request| {
        let binary = rest::wants_binary(&request.parameters);
        fits(request, binary)
    })
}

pub fn rest_reply(input: &[u8]) -> bool {
    let Some((content, json_length)) = body(input) else {
        return false;
    };
    rest::decode_reply(&content, json_length, &Limits::DEFAULT).is_ok()
}

pub fn grpc_request(input: &[u8]) -> bool {
    let Ok(message) = pb::ModelInferRequest::decode(input) else {
        return false;
    };
    grpc::decode_request(message, &Limits::DEFAULT).is_ok_and(|request| fits(request, true))
}

pub fn grpc_reply(input: &[u8]) -> bool {
    let message = pb::ModelInferResponse::decode(input);
    message.is_ok_and(|message| grpc::decode_reply(message, &Limits::DEFAULT).is_ok())
}

pub fn compressed(input: &[u8]) -> bool {
    let unpacks = |encoding| decompress(input, encoding, MOST_BYTES).is_ok();
    unpacks(Encoding::Gzip) || unpacks(Encoding::Deflate)
}

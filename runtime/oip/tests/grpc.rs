//! Requests and replies over gRPC, both ways, and what lies.

#![allow(clippy::unwrap_used, clippy::panic)]

use half::{bf16, f16};
use perwatt_oip::grpc::pb::model_infer_request::InferInputTensor;
use perwatt_oip::grpc::pb::{InferTensorContents, ModelInferRequest};
use perwatt_oip::grpc::{decode_reply, decode_request, encode_reply, encode_request, parse_timeout};
use perwatt_oip::limits::Limits;
use perwatt_oip::message::{Answer, Outgoing, Output, Parameters, Value};
use perwatt_oip::tensor::{Data, Tensor};
use std::time::Duration;

const LIMITS: Limits = Limits::DEFAULT;

fn tensor(data: Data) -> Tensor {
    Tensor {
        shape: vec![1, data.len()],
        data,
    }
}

#[test]
fn a_request_comes_as_it_was_sent() {
    let x = tensor(Data::Bf16(vec![bf16::ONE, bf16::MIN]));
    let y = tensor(Data::Bytes(vec![vec![0xff].into(), "".into()]));
    let parameters = Parameters::from([
        ("sequence_id".to_owned(), "s".into()),
        ("timeout".to_owned(), Value::Uint(5)),
        ("large".to_owned(), Value::Uint(u64::MAX)),
    ]);
    let outgoing = Outgoing {
        id: Some("a-1"),
        parameters: &parameters,
        inputs: &[("x", &x), ("y", &y)],
        outputs: &["out"],
    };
    let message = encode_request("m", "3", &outgoing);
    assert_eq!((&*message.model_name, &*message.model_version), ("m", "3"));
    let request = decode_request(message, &LIMITS).unwrap();
    assert_eq!(request.id.as_deref(), Some("a-1"));
    assert_eq!(request.parameters["sequence_id"].as_str(), Some("s"));
    assert_eq!(request.parameters["timeout"].as_u64(), Some(5));
    assert_eq!(request.parameters["large"].as_u64(), Some(u64::MAX));
    assert_eq!(request.outputs[0].name, "out");
    let read: Vec<_> = request.inputs.into_iter().map(|i| i.decode().unwrap()).collect();
    assert_eq!(read, [x, y]);
}

#[test]
fn a_reply_comes_as_it_was_sent_typed_where_that_can_be() {
    let x = tensor(Data::F32(vec![0.5]));
    let z = tensor(Data::F16(vec![f16::ONE]));
    let output = |name, tensor, binary| Output { name, tensor, binary };
    for (outputs, typed) in [
        (vec![output("x", &x, false)], true),
        (vec![output("x", &x, true)], false),
        (vec![output("x", &x, false), output("z", &z, false)], false),
    ] {
        let answer = Answer {
            model_name: "m",
            model_version: "3",
            id: None,
            parameters: vec![("degraded", true.into()), ("latency_microseconds", 7u64.into())],
            outputs: outputs.clone(),
        };
        let message = encode_reply(&answer);
        assert_eq!(message.raw_output_contents.is_empty(), typed);
        let reply = decode_reply(message, &LIMITS).unwrap();
        assert_eq!(reply.parameters["degraded"].as_bool(), Some(true));
        assert_eq!(reply.parameters["latency_microseconds"].as_u64(), Some(7));
        for (read, sent) in reply.outputs.iter().zip(outputs) {
            assert_eq!((&*read.name, &read.tensor), (sent.name, sent.tensor));
        }
    }
}

fn input(name: &str, contents: Option<Vec<f32>>) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: vec![1],
        contents: contents.map(|fp32_contents| InferTensorContents {
            fp32_contents,
            ..InferTensorContents::default()
        }),
        ..InferInputTensor::default()
    }
}

fn outcome(inputs: Vec<InferInputTensor>, raw: &[&'static [u8]]) -> String {
    let message = ModelInferRequest {
        inputs,
        raw_input_contents: raw.iter().map(|&b| b.into()).collect(),
        ..ModelInferRequest::default()
    };
    let request = match decode_request(message, &LIMITS) {
        Ok(request) => request,
        Err(error) => return error.to_string(),
    };
    let tensors: Result<Vec<_>, _> = request.inputs.into_iter().map(|input| input.decode()).collect();
    tensors.map_or_else(|error| error.to_string(), |tensors| format!("{tensors:?}"))
}

#[test]
fn what_does_not_add_up_is_refused() {
    const ONE: &[u8] = &[0, 0, 0x80, 0x3f];
    let raw = || input("x", None);
    let typed = || input("x", Some(vec![2.0]));
    let shaped = |shape: &[i64]| InferInputTensor {
        shape: shape.to_vec(),
        ..typed()
    };
    for (inputs, contents, says) in [
        (vec![raw()], &[ONE][..], "[1.0]"),
        // One client mixes the two: raw contents are for those without typed ones, in their order.
        (vec![typed(), raw()], &[ONE], "[1.0]"),
        (vec![raw()], &[], "no data"),
        (vec![raw(), raw()], &[ONE], "1 raw contents for 2"),
        (vec![raw()], &[ONE, ONE], "2 raw contents for 1"),
        (vec![typed()], &[ONE], "1 raw contents for 0"),
        (vec![raw()], &[&ONE[1..]], "3 bytes of data"),
        (vec![input("x", Some(vec![1.0, 2.0]))], &[], "2 elements"),
        (vec![input("x", Some(vec![]))], &[], "0 elements"),
        (vec![shaped(&[-1])], &[], "beyond"),
        (vec![shaped(&[i64::MAX, i64::MAX])], &[], "beyond"),
        (vec![raw(); 65], &[], "65 tensors"),
    ] {
        let found = outcome(inputs, contents);
        assert!(found.contains(says), "{says}: {found}");
    }
}

#[test]
fn timeouts_are_read_as_grpc_writes_them() {
    assert_eq!(parse_timeout("20m"), Some(Duration::from_millis(20)));
    assert_eq!(
        parse_timeout("99999999H"),
        Some(Duration::from_secs(99_999_999 * 3600))
    );
    assert_eq!(parse_timeout("5u"), Some(Duration::from_micros(5)));
    for wrong in ["", "m", "5", "-5m", "+5m", "5x", "999999999m", "5.0S", "5é", "é"] {
        assert_eq!(parse_timeout(wrong), None, "{wrong}");
    }
}

//! Requests and replies over HTTP, both ways, and what lies.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use perwatt_oip::limits::Limits;
use perwatt_oip::message::{Answer, Outgoing, Output, Parameters, Value};
use perwatt_oip::rest::{
    Body, decode_reply, decode_request, encode_reply, encode_request, error_message, infer_path, ready_path,
};
use perwatt_oip::tensor::{Data, Tensor};
use proptest::prelude::*;

const LIMITS: Limits = Limits::DEFAULT;

fn tensor(shape: &[usize], data: Data) -> Tensor {
    Tensor {
        shape: shape.to_vec(),
        data,
    }
}

fn tensors() -> [Tensor; 3] {
    [
        tensor(&[1, 2], Data::F32(vec![0.5, -2.0])),
        tensor(&[3], Data::Bytes(vec!["a".into(), "".into(), "é".into()])),
        tensor(&[2], Data::F16(vec![half::f16::ONE, half::f16::MAX])),
    ]
}

fn parameters() -> Parameters {
    let values = [
        ("sequence_id", Value::Uint(7)),
        ("priority", Value::Int(-1)),
        ("share", Value::Double(0.5)),
        ("note", "x".into()),
        ("sequence_start", true.into()),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn bytes(body: &Body) -> Bytes {
    body.content.clone().into()
}

#[test]
fn a_request_comes_as_it_was_sent() {
    let [x, y, z] = tensors();
    let parameters = parameters();
    for binary in [false, true] {
        let inputs = [("x", &x), ("y", &y), ("z", &z)];
        let outgoing = Outgoing {
            id: Some("a-1"),
            parameters: &parameters,
            inputs: &inputs,
            outputs: &["out"],
        };
        let body = encode_request(&outgoing, binary).unwrap();
        assert_eq!(body.json_length.is_some(), binary);
        let content = bytes(&body);
        let request = decode_request(&content, body.json_length, &LIMITS).unwrap();
        assert_eq!(request.id.as_deref(), Some("a-1"));
        for (name, value) in &parameters {
            assert_eq!(&request.parameters[name], value, "{name}");
        }
        assert_eq!(request.outputs[0].name, "out");
        assert_eq!(request.outputs[0].binary, Some(binary));
        for (incoming, (name, sent)) in request.inputs.into_iter().zip(inputs) {
            assert_eq!(incoming.name, name);
            assert_eq!(&incoming.decode().unwrap(), sent);
        }
    }
}

#[test]
fn a_reply_comes_as_it_was_sent_also_where_only_some_outputs_are_bytes() {
    let [x, y, z] = tensors();
    let output = |name, tensor, binary| Output { name, tensor, binary };
    for binary in [[false; 3], [true; 3], [false, true, false], [true, false, true]] {
        let answer = Answer {
            model_name: "m",
            model_version: "3",
            id: Some("a-1"),
            parameters: vec![("variant", "cpu".into()), ("degraded", false.into())],
            outputs: vec![
                output("x", &x, binary[0]),
                output("y", &y, binary[1]),
                output("z", &z, binary[2]),
            ],
        };
        let body = encode_reply(&answer).unwrap();
        let reply = decode_reply(&bytes(&body), body.json_length, &LIMITS).unwrap();
        assert_eq!((&*reply.model_name, &*reply.model_version), ("m", "3"));
        assert_eq!(reply.id.as_deref(), Some("a-1"));
        assert_eq!(reply.parameters["variant"], "cpu".into());
        let read: Vec<_> = reply.outputs.iter().map(|o| (&*o.name, &o.tensor)).collect();
        assert_eq!(read, [("x", &x), ("y", &y), ("z", &z)]);
    }
}

#[test]
fn bytes_that_are_no_text_need_binary_data() {
    let y = tensor(&[1], Data::Bytes(vec![vec![0xff].into()]));
    let answer = |binary| Answer {
        model_name: "m",
        model_version: "3",
        id: None,
        parameters: Vec::new(),
        outputs: vec![Output {
            name: "y",
            tensor: &y,
            binary,
        }],
    };
    let error = encode_reply(&answer(false)).unwrap_err().to_string();
    assert!(error.contains("ask for binary data"), "{error}");
    let body = encode_reply(&answer(true)).unwrap();
    let reply = decode_reply(&bytes(&body), body.json_length, &LIMITS).unwrap();
    assert_eq!(reply.outputs[0].tensor, y);
}

/// Reads a request with one input, `json` put in, followed by `binary`.
fn refused(input: &str, binary: &[u8], header: bool) -> String {
    let json = format!("{{\"inputs\": [{input}]}}");
    let json_length = header.then_some(json.len());
    let content = Bytes::from([json.as_bytes(), binary].concat());
    let request = match decode_request(&content, json_length, &LIMITS) {
        Ok(request) => request,
        Err(error) => return error.to_string(),
    };
    let tensors: Result<Vec<_>, _> = request.inputs.into_iter().map(|input| input.decode()).collect();
    tensors.map_or_else(|error| error.to_string(), |tensors| format!("{tensors:?}"))
}

#[test]
fn what_does_not_add_up_is_refused() {
    let x = |rest: &str| format!(r#"{{"name": "x", "datatype": "FP32", "shape": [1]{rest}}}"#);
    let sized = |size: &str| x(&format!(r#", "parameters": {{"binary_data_size": {size}}}"#));
    for (input, binary, header, says) in [
        (sized("4"), &[0u8; 4][..], true, "F32([0.0])"),
        (sized("4"), &[0; 3], true, "3 bytes of the body are left"),
        (sized("4"), &[0; 5], true, "1 bytes of binary data belong to no"),
        (sized("3"), &[0; 3], true, "3 bytes of data are there, 4"),
        (sized("18446744073709551615"), &[0; 4], true, "are left"),
        (sized("-4"), &[0; 4], true, "number of bytes"),
        (sized("\"4\""), &[0; 4], true, "number of bytes"),
        (sized("0"), b"", true, "0 bytes of data"),
        (sized("0"), b"", false, "needs the header"),
        (x(""), b"", false, "no data"),
        (x(r#", "data": null"#), b"", false, "no data"),
        (
            x(r#", "data": [1], "parameters": {"binary_data_size": 4}"#),
            &[0; 4],
            true,
            "two places",
        ),
        (x(r#", "data": [1]"#), &[0; 4], true, "4 bytes of binary data"),
        (
            x(r#", "parameters": {"shared_memory_region": "r"}"#),
            b"",
            false,
            "shared memory",
        ),
        (x(r#", "data": [1], "parameters": 1"#), b"", false, "request"),
        (
            r#"{"name": "x", "datatype": "FP8", "shape": [1], "data": [1]}"#.into(),
            b"",
            false,
            "FP8",
        ),
        (
            r#"{"name": "x", "datatype": "FP32", "shape": [-1], "data": [1]}"#.into(),
            b"",
            false,
            "request",
        ),
        (
            r#"{"name": "x", "datatype": "FP32", "shape": [4294967296, 4294967296], "data": [1]}"#.into(),
            b"",
            false,
            "beyond",
        ),
        (
            r#"{"name": "x", "datatype": "FP32", "shape": [1,1,1,1,1,1,1,1,1], "data": [1]}"#.into(),
            b"",
            false,
            "beyond",
        ),
        (
            r#"{"name": "x", "datatype": "INT8", "shape": [67108865], "data": [1]}"#.into(),
            b"",
            false,
            "beyond",
        ),
    ] {
        let found = refused(&input, binary, header);
        assert!(found.contains(says), "{input}: {found}");
    }
    let content = Bytes::from_static(b"{}");
    let error = decode_request(&content, Some(3), &LIMITS)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is 3, the body has 2"), "{error}");
}

#[test]
fn more_than_the_limits_is_refused() {
    let many = |n: usize, what: &str| vec![what; n].join(",");
    let input = r#"{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}"#;
    let parameters: Vec<_> = (0..65).map(|n| format!("\"p{n}\": 1")).collect();
    for (body, says) in [
        (format!(r#"{{"inputs": [{}]}}"#, many(65, input)), "65 tensors"),
        (
            format!(
                r#"{{"inputs": [], "outputs": [{}]}}"#,
                many(65, r#"{"name": "y"}"#)
            ),
            "65 outputs",
        ),
        (
            format!(r#"{{"inputs": [], "parameters": {{{}}}}}"#, parameters.join(",")),
            "65 parameters",
        ),
        (
            format!(r#"{{"inputs": [], "id": "{}"}}"#, "x".repeat(4097)),
            "4097 bytes of an id",
        ),
    ] {
        let content = Bytes::from(body);
        let error = decode_request(&content, None, &LIMITS).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_reply_that_lies_is_refused() {
    let reply = |json: &str| {
        let content = Bytes::copy_from_slice(json.as_bytes());
        decode_reply(&content, None, &LIMITS).unwrap_err().to_string()
    };
    let y = r#"{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}"#;
    assert!(reply("<html>").contains("not an inference reply"));
    assert!(reply(r#"{"error": "no"}"#).contains("outputs"));
    assert!(reply(&format!(r#"{{"outputs": [{y}, {y}]}}"#)).contains("twice"));
    assert!(reply(&format!(r#"{{"outputs": [{}]}}"#, y.replace("[1]}", "[1, 2]}"))).contains("\"y\""));
}

#[test]
fn paths_and_errors_are_the_protocols() {
    assert_eq!(infer_path("speech-gate", None), "/v2/models/speech-gate/infer");
    assert_eq!(ready_path("m", Some("3")), "/v2/models/m/versions/3/ready");
    assert_eq!(infer_path("a/../b c", None), "/v2/models/a%2F..%2Fb%20c/infer");
    assert_eq!(error_message(br#"{"error": "no"}"#).as_deref(), Some("no"));
    assert_eq!(error_message(b"<html>"), None);
}

proptest! {
    #[test]
    fn noise_is_refused(content: Vec<u8>, json_length: Option<usize>) {
        let content = Bytes::from(content);
        let _ = decode_request(&content, json_length, &LIMITS);
        prop_assert!(decode_reply(&content, json_length, &LIMITS).is_err());
    }

    #[test]
    fn floats_come_back_exactly(values in proptest::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), 1..50)) {
        let x = tensor(&[values.len()], Data::F32(values));
        let outgoing = Outgoing { id: None, parameters: &Parameters::new(), inputs: &[("x", &x)], outputs: &[] };
        let content = bytes(&encode_request(&outgoing, false).unwrap());
        let mut request = decode_request(&content, None, &LIMITS).unwrap();
        prop_assert_eq!(request.inputs.remove(0).decode().unwrap(), x);
    }
}

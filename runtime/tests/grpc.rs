//! What the runtime promises to gRPC clients, over real connections to the real program.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, grpc_request as request, tiny_folder};
use futures::StreamExt;
use perwatt_oip::grpc::decode_reply;
use perwatt_oip::grpc::health::health_check_response::ServingStatus;
use perwatt_oip::grpc::health::{HealthCheckRequest, health_client::HealthClient};
use perwatt_oip::grpc::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use perwatt_oip::grpc::pb::infer_parameter::ParameterChoice;
use perwatt_oip::grpc::pb::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelReadyRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
};
use perwatt_oip::limits::Limits;
use perwatt_oip::tensor::Data;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

type Client = GrpcInferenceServiceClient<Channel>;

async fn start() -> (tempfile::TempDir, Runtime, Client) {
    let tmp = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(command(&tiny_folder(tmp.path()))).await;
    let client = Client::connect(runtime.grpc.clone()).await.unwrap();
    (tmp, runtime, client)
}

fn sum(reply: ModelInferResponse) -> f32 {
    let reply = decode_reply(reply, &Limits::DEFAULT).unwrap();
    match &reply.outputs[0].tensor.data {
        Data::F32(values) => values[0],
        other => panic!("{other:?}"),
    }
}

async fn refusal(client: &mut Client, message: ModelInferRequest) -> Status {
    client.model_infer(message).await.unwrap_err()
}

#[tokio::test]
async fn metadata_and_health_are_the_protocols() {
    let (_tmp, runtime, mut client) = start().await;
    assert!(
        client
            .server_live(ServerLiveRequest {})
            .await
            .unwrap()
            .into_inner()
            .live
    );
    assert!(
        client
            .server_ready(ServerReadyRequest {})
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    let server = client
        .server_metadata(ServerMetadataRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(server.name, "perwatt");
    assert!(server.extensions.contains(&"binary_tensor_data".to_owned()));
    for version in ["", "3"] {
        let (name, version) = ("tiny".to_owned(), version.to_owned());
        let asked = ModelMetadataRequest {
            name: name.clone(),
            version: version.clone(),
        };
        let model = client.model_metadata(asked).await.unwrap().into_inner();
        assert_eq!(
            (&*model.versions, &*model.inputs[0].shape),
            (&["3".to_owned()][..], &[1, 4][..])
        );
        let asked = ModelReadyRequest { name, version };
        assert!(client.model_ready(asked).await.unwrap().into_inner().ready);
    }
    for (name, version) in [("other", ""), ("tiny", "4")] {
        let (name, version) = (name.to_owned(), version.to_owned());
        let status = client
            .model_ready(ModelReadyRequest { name, version })
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
    let mut health = HealthClient::connect(runtime.grpc.clone()).await.unwrap();
    for (service, expected) in [("", Ok(ServingStatus::Serving)), ("other", Err(Code::NotFound))] {
        let found = health
            .check(HealthCheckRequest {
                service: service.into(),
            })
            .await;
        assert_eq!(
            found.map(|r| r.into_inner().status()).map_err(|s| s.code()),
            expected
        );
    }
}

#[tokio::test]
async fn a_reply_names_who_answered_and_comes_as_the_request_did() {
    let (_tmp, _runtime, mut client) = start().await;
    let raw = client
        .model_infer(request("a-1", [1., 2., 3., 4.], &[]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&*raw.model_name, &*raw.model_version, &*raw.id),
        ("tiny", "3", "a-1")
    );
    assert_eq!(raw.raw_output_contents.len(), 1);
    let reply = decode_reply(raw.clone(), &Limits::DEFAULT).unwrap();
    assert_eq!(reply.parameters["variant"], "tiny.onnx".into());
    assert_eq!(reply.parameters["device"], "none".into());
    assert_eq!(reply.parameters["degraded"], false.into());
    assert!(reply.parameters["latency_microseconds"].as_u64().is_some());
    assert!((sum(raw) - 10.).abs() < 1e-6);
    let mut typed = request("", [0.; 4], &[]);
    typed.raw_input_contents.clear();
    typed.inputs[0].contents = Some(InferTensorContents {
        fp32_contents: vec![1., 2., 3., 5.],
        ..InferTensorContents::default()
    });
    let typed = client.model_infer(typed).await.unwrap().into_inner();
    assert_eq!(typed.outputs[0].contents.as_ref().unwrap().fp32_contents, [11.]);
}

#[tokio::test]
async fn wrong_requests_get_the_right_code_and_a_word_of_help() {
    let (_tmp, _runtime, mut client) = start().await;
    let changed = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut message = request("", [1.; 4], &[]);
        change(&mut message);
        message
    };
    let many = InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(-1)),
    };
    for (message, code, says) in [
        (
            changed(&|m| m.model_name = "other".into()),
            Code::NotFound,
            "tiny",
        ),
        (
            changed(&|m| m.model_version = "4".into()),
            Code::NotFound,
            "\"3\"",
        ),
        (
            changed(&|m| m.inputs[0].name = "y".into()),
            Code::InvalidArgument,
            "no input \"y\"",
        ),
        (
            changed(&|m| m.inputs[0].datatype = "FP64".into()),
            Code::InvalidArgument,
            "FP32",
        ),
        (
            changed(&|m| m.inputs[0].shape = vec![4]),
            Code::InvalidArgument,
            "[1, 4]",
        ),
        (
            changed(&|m| m.raw_input_contents.clear()),
            Code::InvalidArgument,
            "no data",
        ),
        (
            changed(&|m| m.raw_input_contents[0].truncate(15)),
            Code::InvalidArgument,
            "15 bytes",
        ),
        (
            changed(&|m| _ = m.parameters.insert("timeout".into(), many.clone())),
            Code::InvalidArgument,
            "timeout",
        ),
        (
            changed(&|m| _ = m.parameters.insert("sequence_id".into(), many.clone())),
            Code::InvalidArgument,
            "sequence_id",
        ),
    ] {
        let status = refusal(&mut client, message).await;
        assert!(
            status.code() == code && status.message().contains(says),
            "{status:?}"
        );
    }
    let large = changed(&|m| m.raw_input_contents[0] = vec![0; 1 << 20].into());
    let status = refusal(&mut client, large).await;
    assert!(status.message().contains("too large"), "{status:?}");
    let packed = GrpcInferenceServiceClient::connect(_runtime.grpc.clone())
        .await
        .unwrap();
    let mut packed = packed.send_compressed(Gzip).accept_compressed(Gzip);
    let status = refusal(
        &mut packed,
        changed(&|m| m.raw_input_contents[0] = vec![0; 16 << 20].into()),
    )
    .await;
    assert!(
        status.message().contains("limit"),
        "a bomb stops at the limit: {status:?}"
    );
    assert!(
        (sum(packed
            .model_infer(request("", [1.; 4], &[]))
            .await
            .unwrap()
            .into_inner())
            - 4.)
            .abs()
            < 1e-6
    );
}

#[tokio::test]
async fn the_deadline_of_grpc_is_read() {
    let (_tmp, _runtime, mut client) = start().await;
    // A client keeps its own clock too, so that a deadline that passes tells nothing of the server's.
    let mut wrong = Request::new(request("", [1.; 4], &[]));
    wrong
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(
        client.model_infer(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let mut patient = Request::new(request("", [1.; 4], &[]));
    patient.set_timeout(Duration::from_secs(60));
    assert!(client.model_infer(patient).await.is_ok());
}

#[tokio::test]
async fn a_stream_answers_in_order_with_errors_in_band_and_keeps_its_sequence() {
    let (_tmp, _runtime, mut client) = start().await;
    let messages = (0..100).map(|n| {
        let id = format!("r-{n}");
        let mut message = request(
            &id,
            [0.; 4],
            &[("sequence_id", "s".into()), ("sequence_start", (n == 0).into())],
        );
        if n == 50 {
            message.inputs[0].datatype = "FP64".into();
        }
        message
    });
    let messages: Vec<_> = messages.collect();
    let replies = client
        .model_stream_infer(tokio_stream::iter(messages))
        .await
        .unwrap();
    let replies: Vec<_> = replies.into_inner().map(Result::unwrap).collect().await;
    assert_eq!(replies.len(), 100);
    let mut expected = 0.;
    for (n, reply) in replies.into_iter().enumerate() {
        let response = reply.infer_response.unwrap();
        assert_eq!(response.id, format!("r-{n}"));
        if n == 50 {
            assert!(reply.error_message.contains("FP32"), "{}", reply.error_message);
            continue;
        }
        assert_eq!(reply.error_message, "");
        assert_eq!(sum(response), expected, "step {n} of the state");
        expected += 100.;
    }
}

#[tokio::test]
async fn streams_and_watches_end_with_the_server_and_nothing_is_lost() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = command(&tiny_folder(tmp.path()));
    command.args(["--drain-milliseconds", "2000"]);
    let mut runtime = Runtime::start(command).await;
    let mut client = Client::connect(runtime.grpc.clone()).await.unwrap();
    let mut health = HealthClient::connect(runtime.grpc.clone()).await.unwrap();
    let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watch = watch.into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let replies = client
        .model_stream_infer(ReceiverStream::new(receive))
        .await
        .unwrap();
    let mut replies = replies.into_inner();
    send.send(request("before", [1.; 4], &[])).await.unwrap();
    assert!((sum(replies.message().await.unwrap().unwrap().infer_response.unwrap()) - 4.).abs() < 1e-6);
    runtime.signal("TERM");
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    send.send(request("during", [1.; 4], &[])).await.unwrap();
    assert_eq!(
        replies
            .message()
            .await
            .unwrap()
            .unwrap()
            .infer_response
            .unwrap()
            .id,
        "during"
    );
    // A new connection is still served: the balancer may not have heard yet.
    let mut late = Client::connect(runtime.grpc.clone()).await.unwrap();
    assert!(late.model_infer(request("", [1.; 4], &[])).await.is_ok());
    let status = replies.message().await.unwrap_err();
    assert!(
        status.code() == Code::Unavailable && status.message().contains("stops"),
        "{status:?}"
    );
    assert_eq!(runtime.wait().await.code(), Some(0), "{}", runtime.log());
}

#[tokio::test]
async fn noise_and_silence_hurt_nobody() {
    let (_tmp, runtime, mut client) = start().await;
    let address = runtime.grpc.trim_start_matches("http://").to_owned();
    let noise = tokio::task::spawn_blocking(move || {
        let _silent = TcpStream::connect(&address).unwrap();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        // Closed, or reset: either way it ends.
        let _ = stream.read_to_end(&mut answer);
        // Half a message, and gone.
        let mut half = TcpStream::connect(&address).unwrap();
        half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            .unwrap();
    });
    noise.await.unwrap();
    assert!(client.model_infer(request("", [1.; 4], &[])).await.is_ok());
    assert!(runtime.peak_memory() < 256 << 20);
}

"""tritonclient, HTTP and gRPC, against the running program; see shared.py."""

import json
import queue
import urllib.request

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from shared import ECHO, TYPES, case, echo_grpc, echo_rest, tiny_grpc, tiny_rest
from tritonclient.utils import InferenceServerException

# Triton's client cannot send FP16 as JSON; the server could read it.
AS_JSON = {name: name != "half" for name in ECHO}


def refused(call, *says):
    """The message and status of a call that must fail."""
    try:
        call()
    except InferenceServerException as error:
        text = f"{error.status()} {error.message()}"
        assert all(word in text for word in says), f"{text} does not say {says}"
        return
    raise AssertionError(f"it was answered, but should be refused with {says}")


def check_echo(result):
    for name, sent in ECHO.items():
        read = result.as_numpy(f"{name}_out")
        if name == "text":
            # From JSON the client gives texts, from bytes it gives bytes.
            read = np.array([v.encode() if isinstance(v, str) else v for v in read], dtype=np.object_)
        assert read.shape == sent.shape, (name, read.shape)
        assert read.dtype == sent.dtype, (name, read.dtype)
        assert np.array_equal(read, sent), (name, read)


def echo_inputs(module, **options):
    inputs = []
    for name, value in ECHO.items():
        tensor = module.InferInput(name, list(value.shape), TYPES[name])
        tensor.set_data_from_numpy(value, **options.get(name, {}))
        inputs.append(tensor)
    return inputs


def tiny_inputs(module, values):
    x = np.array([values], dtype=np.float32)
    tensor = module.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor]


def parameters_of(result):
    """Of a gRPC reply, as Python values."""
    parameters = result.get_response().parameters
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in parameters.items()}


@case
def both_protocols_say_the_same_of_server_and_model():
    http, grpc = triton_http.InferenceServerClient(tiny_rest), triton_grpc.InferenceServerClient(tiny_grpc)
    for client in (http, grpc):
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "3")
    metadata = http.get_model_metadata("tiny")
    assert metadata == grpc.get_model_metadata("tiny", as_json=True) | {"inputs": metadata["inputs"], "outputs": metadata["outputs"]}
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 4]}]
    assert [list(t.shape) for t in grpc.get_model_metadata("tiny").inputs] == [[1, 4]]
    assert http.get_server_metadata() == grpc.get_server_metadata(as_json=True)
    assert "binary_tensor_data" in http.get_server_metadata()["extensions"]


@case
def a_model_or_version_that_is_not_served_is_not_found():
    http, grpc = triton_http.InferenceServerClient(tiny_rest), triton_grpc.InferenceServerClient(tiny_grpc)
    refused(lambda: http.get_model_metadata("other"), "404", "tiny")
    refused(lambda: http.get_model_metadata("tiny", "4"), "404", '"3"')
    refused(lambda: grpc.get_model_metadata("other"), "NOT_FOUND", "tiny")
    refused(lambda: grpc.get_model_metadata("tiny", "4"), "NOT_FOUND", '"3"')
    assert not http.is_model_ready("other")


@case
def every_datatype_comes_back_over_http_as_bytes_and_as_json():
    client = triton_http.InferenceServerClient(echo_rest)
    check_echo(client.infer("echo", echo_inputs(triton_http)))
    check_echo(client.infer("echo", echo_inputs(triton_http), model_version="7"))
    as_json = {name: {"binary_data": not json} for name, json in AS_JSON.items()}
    outputs = [triton_http.InferRequestedOutput(f"{name}_out", binary_data=not json) for name, json in AS_JSON.items()]
    check_echo(client.infer("echo", echo_inputs(triton_http, **as_json), outputs=outputs))


@case
def compressed_requests_and_replies_are_the_same():
    client = triton_http.InferenceServerClient(echo_rest)
    for sent in (None, "gzip", "deflate"):
        for asked in (None, "gzip", "deflate"):
            result = client.infer(
                "echo",
                echo_inputs(triton_http),
                request_compression_algorithm=sent,
                response_compression_algorithm=asked,
            )
            check_echo(result)
    client = triton_grpc.InferenceServerClient(echo_grpc)
    check_echo(client.infer("echo", echo_inputs(triton_grpc), compression_algorithm="gzip"))


@case
def a_large_reply_is_compressed_where_it_is_asked_for():
    body = json.dumps({"inputs": [
        {"name": name, "datatype": TYPES[name], "shape": list(value.shape), "data": [v.decode() for v in value] if name == "text" else value.tolist()}
        for name, value in ECHO.items()
    ]}).encode()
    sizes = {}
    for encoding in ("identity", "gzip", "deflate"):
        headers = {"Accept-Encoding": encoding, "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{echo_rest}/v2/models/echo/infer", body, headers)
        with urllib.request.urlopen(request) as response:
            sizes[encoding] = len(response.read())
            assert response.headers.get("Content-Encoding", "identity") == encoding, response.headers
    assert sizes["gzip"] < sizes["identity"] / 2 and sizes["deflate"] < sizes["identity"] / 2, sizes


@case
def every_datatype_comes_back_over_grpc():
    client = triton_grpc.InferenceServerClient(echo_grpc)
    check_echo(client.infer("echo", echo_inputs(triton_grpc)))
    outputs = [triton_grpc.InferRequestedOutput("text_out")]
    result = client.infer("echo", echo_inputs(triton_grpc), outputs=outputs, request_id="r-1")
    assert result.as_numpy("wave_out") is None
    assert list(result.as_numpy("text_out")) == list(ECHO["text"])
    assert result.get_response().id == "r-1"


@case
def replies_name_who_answered():
    http = triton_http.InferenceServerClient(tiny_rest).infer("tiny", tiny_inputs(triton_http, [1, 2, 3, 4]), request_id="a")
    assert http.get_response()["id"] == "a"
    grpc = triton_grpc.InferenceServerClient(tiny_grpc).infer("tiny", tiny_inputs(triton_grpc, [1, 2, 3, 4]), request_id="b")
    assert grpc.get_response().id == "b"
    for result, parameters in ((http, http.get_response()["parameters"]), (grpc, parameters_of(grpc))):
        assert result.as_numpy("sum").tolist() == [[10.0]]
        assert parameters["variant"] == "tiny.onnx" and parameters["device"] == "none", parameters
        assert parameters["degraded"] is False and parameters["sequence_restarted"] is False, parameters
        assert parameters["node"] and parameters["revision"] and "latency_microseconds" in parameters, parameters


@case
def sequences_keep_their_state_over_both_by_number_and_by_text():
    http, grpc = triton_http.InferenceServerClient(tiny_rest), triton_grpc.InferenceServerClient(tiny_grpc)
    for module, client in ((triton_http, http), (triton_grpc, grpc)):
        for sequence in (42, "microphone-1"):
            sums = [
                client.infer("tiny", tiny_inputs(module, [0, 0, 0, n]), sequence_id=sequence, sequence_start=n == 1, sequence_end=n == 3)
                .as_numpy("sum")
                .item()
                for n in (1, 2, 3)
            ]
            # The sample, the one before it as context, and a hundred for each step.
            assert sums == [1, 103, 205], sums
    # One sequence, whichever protocol a step comes by.
    http.infer("tiny", tiny_inputs(triton_http, [0, 0, 0, 0]), sequence_id=7, sequence_start=True)
    result = grpc.infer("tiny", tiny_inputs(triton_grpc, [0, 0, 0, 0]), sequence_id=7, sequence_end=True)
    assert result.as_numpy("sum").item() == 100
    lost = grpc.infer("tiny", tiny_inputs(triton_grpc, [0, 0, 0, 0]), sequence_id=7)
    assert parameters_of(lost)["sequence_restarted"] is True


@case
def a_stream_answers_in_order_with_errors_in_band():
    client = triton_grpc.InferenceServerClient(tiny_grpc)
    replies = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    for step in range(50):
        values = [0, 0, 0, 0]
        options = {"sequence_id": "sensor", "sequence_start": step == 0, "sequence_end": step == 49}
        if step == 20:
            wrong = triton_grpc.InferInput("x", [1, 3], "FP32")
            wrong.set_data_from_numpy(np.zeros((1, 3), dtype=np.float32))
            client.async_stream_infer("tiny", [wrong], request_id=str(step), **options)
        else:
            final = {"enable_empty_final_response": step == 30}
            client.async_stream_infer("tiny", tiny_inputs(triton_grpc, values), request_id=str(step), **final, **options)
    expected = 0
    for step in range(50):
        result, error = replies.get(timeout=60)
        if step == 20:
            assert error is not None and "[1, 4]" in error.message(), error
            continue
        assert error is None, error
        assert result.get_response().id == str(step)
        assert result.as_numpy("sum").item() == expected
        assert parameters_of(result).get("triton_final_response") == (True if step == 30 else None)
        expected += 100
    client.stop_stream()


@case
def wrong_requests_are_refused_with_the_right_status():
    http, grpc = triton_http.InferenceServerClient(tiny_rest), triton_grpc.InferenceServerClient(tiny_grpc)
    for module, client, invalid in ((triton_http, http, "400"), (triton_grpc, grpc, "INVALID_ARGUMENT")):
        wrong = module.InferInput("x", [1, 4], "INT32")
        wrong.set_data_from_numpy(np.zeros((1, 4), dtype=np.int32))
        refused(lambda: client.infer("tiny", [wrong]), invalid, "FP32")
        right = tiny_inputs(module, [1, 2, 3, 4])
        refused(lambda: client.infer("tiny", right + right), invalid, "twice")
        refused(lambda: client.infer("tiny", right, outputs=[module.InferRequestedOutput("other")]), invalid, "sum")
        refused(lambda: client.infer("tiny", right, outputs=[module.InferRequestedOutput("sum", class_count=2)]), invalid, "classification")
        refused(lambda: client.infer("tiny", right, timeout=0), invalid, "timeout")
        assert client.infer("tiny", right, timeout=5_000_000, priority=1).as_numpy("sum").item() == 10


@case
def a_deadline_that_cannot_be_met_is_one_of_the_protocols_errors():
    http, grpc = triton_http.InferenceServerClient(tiny_rest), triton_grpc.InferenceServerClient(tiny_grpc)
    refused(lambda: http.infer("tiny", tiny_inputs(triton_http, [1, 2, 3, 4]), timeout=1), "504", "no variant answered")
    refused(lambda: grpc.infer("tiny", tiny_inputs(triton_grpc, [1, 2, 3, 4]), timeout=1), "DEADLINE_EXCEEDED")
    assert grpc.infer("tiny", tiny_inputs(triton_grpc, [1, 2, 3, 4]), client_timeout=60).as_numpy("sum").item() == 10


@case
def what_is_not_offered_says_so():
    client = triton_grpc.InferenceServerClient(tiny_grpc)
    refused(lambda: client.get_model_config("tiny"), "UNIMPLEMENTED")
    refused(lambda: client.get_inference_statistics(), "UNIMPLEMENTED")


@case
def the_openapi_document_is_valid():
    from openapi_spec_validator import OpenAPIV31SpecValidator, validate

    with urllib.request.urlopen(f"http://{tiny_rest}/openapi.json") as response:
        validate(json.load(response), cls=OpenAPIV31SpecValidator)

"""The kserve client, HTTP and gRPC, against the running program; see shared.py."""

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from shared import ECHO, TYPES, case, echo_grpc, echo_rest, tiny_rest


def kserve_request(binary):
    inputs, outputs = [], []
    for name, value in ECHO.items():
        if name == "text":
            value = np.array([v.decode() for v in value], dtype=np.object_)
        tensor = InferInput(name, list(value.shape), TYPES[name])
        tensor.set_data_from_numpy(value, binary_data=binary or name == "half")
        inputs.append(tensor)
        outputs.append(RequestedOutput(f"{name}_out", {"binary_data": binary or name == "half"}))
    return InferRequest("echo", inputs, request_id="k-1", request_outputs=outputs)


def check_kserve(reply):
    assert reply.id == "k-1"
    for name, sent in ECHO.items():
        read = reply.get_output_by_name(f"{name}_out").as_numpy()
        if name == "text":
            read = [v if isinstance(v, bytes) else str(v).encode() for v in read]
        assert np.array_equal(read, sent), (name, read)


@case
async def kserve_over_http():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    tiny, echo = f"http://{tiny_rest}", f"http://{echo_rest}"
    assert await client.is_server_live(tiny) and await client.is_server_ready(tiny)
    assert await client.is_model_ready(tiny, "tiny")
    for binary in (False, True):
        check_kserve(await client.infer(echo, kserve_request(binary), model_name="echo"))
    await client.close()


@case
async def kserve_over_grpc():
    async with InferenceGRPCClient(echo_grpc) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("echo")
        for binary in (False, True):
            check_kserve(await client.infer(kserve_request(binary)))
        try:
            await client.is_model_ready("other")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
        else:
            raise AssertionError("a model that is not there is ready")

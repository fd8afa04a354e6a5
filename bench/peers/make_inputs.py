"""Writes the models and check inputs that all sides read: `python make_inputs.py PLAN.json`.

The plan is {"models": [{"path", "config"}], "inputs": [{"path", "config", "workload", "size", "images"}],
"graphs": [{"path", "model", "config", "images", "fresh_noise"}]}; a graph is the ONNX form of a model of the plan.
"""

import json
import math
import sys

import numpy as np

import safetensors_io
from onnx_model import save_score_graph, score_graph
from schedule import Schedule


def make_model(path, config):
    """Random weights, none zero and no norm an identity, so that a wrong layer shows in the output."""
    random = np.random.default_rng(1)
    tensors = {}

    def weight(name, shape):
        if len(shape) > 1:
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            values = random.uniform(-bound, bound, shape)
        else:
            values = 0.1 * random.standard_normal(shape) + (1.0 if name.endswith("weight") else 0.0)
        tensors[name] = values.astype(np.float32)
        return tensors[name]

    # Walks the network only to learn its parameters. PyTorch refuses the file if a name or a shape is not its own.
    score_graph(config, weight, 1, True)
    metadata = {"format": "ddad-native", "formatVersion": "1", "kind": "model", "config": json.dumps(config)}
    safetensors_io.save(path, tensors, metadata)


def make_inputs(path, config, workload, size, images):
    """`x0`, `noise`, and the network's input `x` [N, C, H, W] at the steps `t` [N] that follow from them."""
    random = np.random.default_rng(2)
    shape = (images, config["unet"]["inChannels"], size, size)
    schedule = Schedule(config["diffusion"]["steps"])
    x0 = random.uniform(-1, 1, shape).astype(np.float32)
    if workload == "score":
        scales = config["score"]["scales"]
        t = np.repeat(np.asarray(scales, np.int32), images)
        noise = random.standard_normal((len(scales), *shape), np.float32)
        starts, flat_noise = np.tile(x0, (len(scales), 1, 1, 1)), noise.reshape(-1, *shape[1:])
    else:
        # Step 0 is among them, since its loss is another formula.
        t = np.linspace(0, schedule.steps - 1, images).astype(np.int32)
        noise = random.standard_normal(shape, np.float32)
        starts, flat_noise = x0, noise
    signal, sigma = (schedule.tables[name][t].astype(np.float32)[:, None, None, None] for name in ("signal", "noise"))
    x = signal * starts + sigma * flat_noise
    safetensors_io.save(path, {"x0": x0, "noise": noise, "x": x, "t": t}, {"format": "ddad-native-bench-inputs"})


def make_graph(path, model, config, images, fresh_noise):
    tensors, _ = safetensors_io.load(model)
    save_score_graph(path, config, lambda name, shape: tensors[name].reshape(shape), images, fresh_noise)


def main():
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    for model in plan["models"]:
        make_model(**model)
    for inputs in plan["inputs"]:
        make_inputs(**inputs)
    for graph in plan["graphs"]:
        make_graph(**graph)


if __name__ == "__main__":
    main()

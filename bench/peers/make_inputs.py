"""Writes the models and check inputs that both sides read: `python make_inputs.py PLAN.json`.

The plan is {"models": [{"path", "config"}], "inputs": [{"path", "config", "workload", "size", "images"}]}.
"""

import json
import sys

import numpy as np
import torch

import safetensors_io
from diffusion_torch import Diffusion
from unet_torch import UNet


def make_model(path, config):
    """Random weights, none zero and no norm an identity, so that a wrong layer shows in the output."""
    torch.manual_seed(1)
    model = UNet(config["unet"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                is_gain = name.endswith("weight")
                p.copy_(0.1 * torch.randn_like(p) + (1.0 if is_gain else 0.0))
    metadata = {"format": "ddad-native", "formatVersion": "1", "kind": "model", "config": json.dumps(config)}
    safetensors_io.save(path, {name: p.detach().numpy() for name, p in model.named_parameters()}, metadata)


def make_inputs(path, config, workload, size, images):
    """`x0`, `noise`, and the network's input `x` [N, C, H, W] at the steps `t` [N] that follow from them."""
    random = np.random.default_rng(2)
    shape = (images, config["unet"]["inChannels"], size, size)
    chain = Diffusion(config["diffusion"]["steps"])
    x0 = random.uniform(-1, 1, shape).astype(np.float32)
    if workload == "score":
        scales = config["score"]["scales"]
        t = np.repeat(np.asarray(scales, np.int32), images)
        noise = random.standard_normal((len(scales), *shape), np.float32)
        starts, flat_noise = np.tile(x0, (len(scales), 1, 1, 1)), noise.reshape(-1, *shape[1:])
    else:
        # Step 0 is among them, since its loss is another formula.
        t = np.linspace(0, chain.steps - 1, images).astype(np.int32)
        noise = random.standard_normal(shape, np.float32)
        starts, flat_noise = x0, noise
    x = chain.q_sample(torch.from_numpy(starts), torch.from_numpy(t).long(), torch.from_numpy(flat_noise)).numpy()
    safetensors_io.save(path, {"x0": x0, "noise": noise, "x": x, "t": t}, {"format": "ddad-native-bench-inputs"})


def main():
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    for model in plan["models"]:
        make_model(**model)
    for inputs in plan["inputs"]:
        make_inputs(**inputs)


if __name__ == "__main__":
    main()

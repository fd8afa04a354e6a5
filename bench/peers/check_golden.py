"""Compares the peer with golden files: `python unet_torch.py --check DIR`.

Kinds checked: `unet` (output and every gradient), `train` (losses, gradient norms, movements), `score` (KL maps).
Others are left out, since nothing of them is timed. Errors are as `golden/README.md` defines them.
"""

import argparse
import json
import math
import pathlib
import re

import numpy as np
import torch

import safetensors_io
from diffusion_torch import Diffusion, Scorer, Trainer
from unet_torch import UNet


def build(config, tensors, layout):
    """The network of a golden file with its weights; the names must match one to one."""
    head = tensors.get("param.feat_rec1.2.weight")
    model = UNet(config, 0 if head is None else head.shape[0])
    parameters = {name[6:]: torch.from_numpy(a) for name, a in tensors.items() if name.startswith("param.")}
    model.load_state_dict(parameters, strict=True)
    return model.to(memory_format=layout)


def error(out, ref, floor=0.0):
    out, ref = np.asarray(out, np.float64), np.asarray(ref, np.float64)
    return np.linalg.norm(out - ref) / max(np.linalg.norm(ref), floor, 1e-300)


def labels_of(tensors):
    return torch.from_numpy(tensors["y"]).long() if "y" in tensors else None


def check_unet(spec, tensors, layout):
    model = build(spec["config"], tensors, layout)
    x = torch.from_numpy(tensors["x"]).contiguous(memory_format=layout).requires_grad_()
    out = model(x, torch.from_numpy(tensors["t"]).long(), labels_of(tensors))
    out.backward(torch.from_numpy(tensors["dout"]))
    yield "out", error(out.detach(), tensors["out"]), 1e-4

    grads = {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    grads["grad.x"] = x.grad
    expected = {name: a for name, a in tensors.items() if name.startswith("grad.")}
    if grads.keys() != expected.keys():
        raise ValueError(f"gradients differ in name: {sorted(grads.keys() ^ expected.keys())}")
    rms = math.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in expected.values()))
    rms /= math.sqrt(sum(a.size for a in expected.values()))
    for name, ref in expected.items():
        yield name, error(grads[name], ref, 0.05 * rms * math.sqrt(ref.size)), 1e-3


def check_train(spec, tensors, layout):
    if spec["schedule"] != "linear" or spec["loss"] != "rescaled_mse":
        return
    model = build(spec["config"], tensors, layout)
    start = [p.detach().clone() for p in model.parameters()]
    trainer = Trainer(model, Diffusion(spec["diffusionSteps"]), spec)
    labels = labels_of(tensors)
    losses, norms = [], []
    for i in range(spec["steps"]):
        x0, noise, t = (torch.from_numpy(tensors[name][i]) for name in ("x0", "noise", "t"))
        x0, noise = (a.contiguous(memory_format=layout) for a in (x0, noise))
        _, loss, mse, vb = trainer.backward(x0, t.long(), noise, None if labels is None else labels[i])
        losses.append([loss.item(), mse.item(), vb.item()])
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in trainer.parameters]).item())
        trainer.update(spec["lr"] * (1 - i / spec["steps"]))
    yield "losses", error(losses, tensors["losses"]), 1e-4
    yield "grad_norms", error(norms, tensors["grad_norms"]), 1e-4
    for prefix, weights in (("movement.", trainer.parameters), ("ema_movement.", trainer.ema)):
        # contiguous(): channels-last weights must be compared element by element in the file's order.
        moved = [(w.detach() - s).contiguous().flatten() for w, s in zip(weights, start)]
        ref = [tensors[prefix + name].ravel() for name, _ in model.named_parameters()]
        yield prefix + "*", error(torch.cat(moved), np.concatenate(ref)), 1e-2


def check_score(spec, tensors, layout):
    model = build(spec["config"], tensors, layout)
    chain = Diffusion(spec["diffusionSteps"], spec["respacing"])
    calibration = {"pixelMean": [0.0] * len(spec["scales"]), "pixelStd": [1.0] * len(spec["scales"])}
    scorer = Scorer(model, chain, spec["scales"], calibration, 64)
    x0 = torch.from_numpy(tensors["x0"]).contiguous(memory_format=layout)
    noise = torch.from_numpy(tensors["noise"]).flatten(0, 1).contiguous(memory_format=layout)
    _, kl = scorer.kl_maps(x0, noise, labels_of(tensors))
    yield "kl_map_nats (channel mean)", error(kl, tensors["kl_map_nats"].mean(axis=2, dtype=np.float64)), 1e-3


CHECKS = {"unet": check_unet, "train": check_train, "score": check_score}


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Compare the PyTorch peer with golden files.")
    parser.add_argument("--check", metavar="DIR", required=True, help="folder with golden .safetensors files")
    folder = pathlib.Path(parser.parse_args(arguments).check)
    torch.set_num_threads(2)
    files = sorted(folder.glob("*.safetensors"))
    checked, failed = 0, 0
    for path in files:
        tensors, metadata = safetensors_io.load(path)
        spec = json.loads(metadata["spec"])
        if spec["kind"] not in CHECKS:
            continue
        for layout in (torch.contiguous_format, torch.channels_last):
            results = list(CHECKS[spec["kind"]](spec, tensors, layout))
            bad = [r for r in results if not r[1] <= r[2]]
            checked, failed = checked + len(results), failed + len(bad)
            groups = {}
            for name, value, _ in results:
                group = re.sub(r"^grad\..*", "grad.*", name)
                groups[group] = max(groups.get(group, 0.0), value)
            worst = ", ".join(f"{name} {value:.1e}" for name, value in groups.items())
            layout_name = str(layout).removeprefix("torch.")
            print(f"{'FAIL' if bad else 'ok  '} {path.name} ({layout_name}): {len(results)} tensors; {worst}")
            for name, value, tolerance in bad:
                print(f"     {name}: error {value:.2e}, tolerance {tolerance:.0e}")
    if not checked:
        print(f"{folder}: no golden file of kind {', '.join(CHECKS)}")
    return 1 if failed or not checked else 0

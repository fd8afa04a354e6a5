"""Checks what `ddad-native export` writes with ONNX's own tools and the PyTorch peer: `python check_export.py --help`.

- ONNX files: the checker with shape inference.
- Weights: `load_state_dict(strict=True)` into unet_torch.py, whose names are those of the public code.
- Golden files of kind `unet`, which hold parameters and outputs of the public code: the parameters become a model, which
  is exported both ways; ONNX's reference evaluator must give the golden output, and the tensors must be the golden ones.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import safetensors_io

BIN = pathlib.Path(__file__).resolve().parents[2] / "bin" / "ddad-native.js"
TOLERANCE = 1e-4


def check_onnx(path):
    # By path: weights in a file of their own are found that way, and may exceed 2 GB.
    onnx.checker.check_model(str(path), full_check=True)
    return "the checker accepts it"


def check_weights(path):
    import torch

    from unet_torch import UNet

    tensors, metadata = safetensors_io.load(path)
    head = tensors.get("feat_rec1.2.weight")
    model = UNet(json.loads(metadata["config"])["unet"], 0 if head is None else head.shape[0])
    model.load_state_dict({name: torch.from_numpy(a) for name, a in tensors.items()}, strict=True)
    return f"{len(tensors)} tensors load strictly"


def export(*arguments):
    subprocess.run(["node", str(BIN), "export", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def check_golden(path):
    tensors, metadata = safetensors_io.load(path)
    spec = json.loads(metadata["spec"])
    parameters = {name[6:]: a for name, a in tensors.items() if name.startswith("param.")}
    config = {"unet": spec["config"], "diffusion": {"steps": 1000}}
    with tempfile.TemporaryDirectory() as folder:
        model, graph, weights = (pathlib.Path(folder) / name for name in ("m.safetensors", "m.onnx", "w.safetensors"))
        about = {"format": "ddad-native", "formatVersion": "1", "kind": "model", "config": json.dumps(config)}
        safetensors_io.save(model, parameters, about)
        export(model, "--onnx", graph, "--safetensors", weights)
        check_onnx(graph)
        check_weights(weights)
        exported, _ = safetensors_io.load(weights)
        different = exported.keys() ^ parameters.keys()
        different |= {name for name in exported.keys() & parameters.keys() if exported[name].tobytes() != parameters[name].tobytes()}
        if different:
            raise ValueError(f"tensors differ: {sorted(different)}")
        feeds = {"x": tensors["x"], "t": tensors["t"].astype(np.int64)}
        if "y" in tensors:
            feeds["y"] = tensors["y"].astype(np.int64)
        (out,) = ReferenceEvaluator(str(graph)).run(["out"], feeds)
    ref = tensors["out"].astype(np.float64)
    error = np.linalg.norm(out - ref) / np.linalg.norm(ref)
    if not error <= TOLERANCE:
        raise ValueError(f"out: error {error:.2e}, more than {TOLERANCE:.0e}")
    return f"out: {error:.1e}; {len(exported)} tensors byte for byte"


def main():
    parser = argparse.ArgumentParser(description="Checks what ddad-native export writes.")
    parser.add_argument("files", nargs="+", help=".onnx, exported .safetensors, golden .safetensors of kind unet")
    failed = 0
    for file in parser.parse_args().files:
        try:
            if file.endswith(".onnx"):
                said = check_onnx(file)
            else:
                golden = "spec" in safetensors_io.load(file)[1]
                said = check_golden(file) if golden else check_weights(file)
            print(f"{file}: ok: {said}")
        except Exception as error:  # every file is checked
            failed += 1
            print(f"{file}: FAILED: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

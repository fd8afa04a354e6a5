"""The scoring pass as PyTorch exports it, to compare with the graph of onnx_model.py: `python export_torch.py PLAN.json`.

Writes the plan's "exports": [{"path", "model", "config", "images", "fresh_noise"}], as "graphs" of make_inputs.py.
"""

import json
import sys
import warnings

import torch

import safetensors_io
from diffusion_torch import Diffusion, Scorer
from onnx_model import OPSET
from unet_torch import UNet


class Pass(torch.nn.Module):
    """Inputs and outputs are those of `score_graph` in onnx_model.py."""

    def __init__(self, model, config):
        super().__init__()
        self.model = model
        score, chain = config["score"], Diffusion(config["diffusion"]["steps"])
        self.scorer = Scorer(model, chain, score["scales"], config["calibration"], score["topPixels"]["count"])

    def forward(self, x0, noise=None):
        fresh = noise is None
        noise = torch.randn(len(self.scorer.scales) * x0.shape[0], *x0.shape[1:]) if fresh else noise.flatten(0, 1)
        out, kl, maps, scores = self.scorer.whole_pass(x0, noise)
        return (maps, scores) if fresh else (maps, scores, out, kl)


def export(path, model, config, images, fresh_noise):
    unet = UNet(config["unet"])
    tensors, _ = safetensors_io.load(model)
    unet.load_state_dict({name: torch.from_numpy(a) for name, a in tensors.items()}, strict=True)
    shape = (images, config["unet"]["inChannels"], config["unet"]["imageSize"], config["unet"]["imageSize"])
    arguments = [torch.zeros(shape)] + ([] if fresh_noise else [torch.zeros(len(config["score"]["scales"]), *shape)])
    torch.onnx.export(
        Pass(unet.eval(), config).eval(),
        tuple(arguments),
        path,
        input_names=["x0", "noise"][: len(arguments)],
        output_names=["maps", "scores"] + ([] if fresh_noise else ["out", "kl"]),
        opset_version=OPSET,
        # The older exporter: it keeps a group norm as InstanceNormalization, which onnxruntime runs faster than what it
        # makes of the newer one's GroupNormalization. And it needs no further package.
        dynamo=False,
    )


def main():
    warnings.simplefilter("ignore")
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    for arguments in plan["exports"]:
        export(**arguments)


if __name__ == "__main__":
    main()

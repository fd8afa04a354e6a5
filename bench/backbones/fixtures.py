"""Narrow EfficientNets with random weights and what the public implementations compute: fixtures of the native tests.

python fixtures.py ../../test/native/fixtures
"""

import sys
from pathlib import Path

import torch
from models import narrow, network_input, pixels, randomise, taps
from safetensors.torch import save_file

WIDTH, DIVISOR = 0.125, 2
# file -> the models that share its weights, by the style that they compute in
FIXTURES = {
    "efficientnet-pytorch": {"same": "efficientnet_pytorch"},
    "efficientnet-lite-pytorch": {"same": "efficientnet_lite_pytorch"},
    "efficientnet-timm": {"symmetric": "efficientnet_b0", "same": "tf_efficientnet_b0"},
    "efficientnet-timm-lite": {"symmetric": "efficientnet_lite0", "same": "tf_efficientnet_lite0"},
}


def used(name):
    """Whether the features up to stride 16 need a tensor of that name."""
    if "num_batches_tracked" in name:
        return False
    if name.startswith("_blocks."):
        return int(name.split(".")[1]) <= 10
    if name.startswith("blocks."):
        return int(name.split(".")[1]) <= 4
    return name.startswith(("_conv_stem.", "_bn0.", "conv_stem.", "bn1."))


def main(folder):
    for seed, (file, styles) in enumerate(FIXTURES.items()):
        tensors, weights = {}, None
        for style, name in styles.items():
            model = narrow(name, WIDTH, DIVISOR)
            if weights is None:
                # half precision is what the file holds, so it is what both sides compute with
                weights = {k: v.half().float() if v.is_floating_point() else v
                           for k, v in randomise(model, seed).state_dict().items()}
            model.load_state_dict(weights)
            model.eval()
            for tap, values in taps(model, network_input(pixels(2, 32, 32))).items():
                tensors[f"expected.{style}.{tap}"] = values.contiguous()
        tensors.update({k: v.half() for k, v in weights.items() if used(k)})
        path = Path(folder) / f"{file}.safetensors"
        save_file(tensors, path)
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    torch.manual_seed(0)
    main(sys.argv[1])

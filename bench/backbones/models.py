"""EfficientNet as its public implementations build it, with random weights and batch-norm statistics."""

import contextlib
import io
import math

import efficientnet_lite_pytorch
import efficientnet_pytorch
import timm
import torch
from efficientnet_lite_pytorch.utils import efficientnet_lite as lite_arguments
from efficientnet_pytorch.utils import efficientnet as pytorch_arguments
from timm.models import efficientnet as timm_efficientnet
from torch import nn

# What a file of timm's tf_* models has to say of itself: nothing in the weights does.
TF_METADATA = {"paddingMode": "same"}


def full_size():
    """Yields (name, model without random weights yet, metadata of its file) for every model of both families."""
    for i in range(8):
        # without an image size the padding is that of each image, as in TensorFlow
        yield f"efficientnet_pytorch b{i}", lambda i=i: efficientnet_pytorch.EfficientNet.from_name(
            f"efficientnet-b{i}", image_size=None
        ), {}
    for i in range(5):
        yield f"efficientnet_lite_pytorch lite{i}", lambda i=i: quietly(
            efficientnet_lite_pytorch.EfficientNet.from_name, f"efficientnet-lite{i}", image_size=None
        ), {}
    for name in [f"b{i}" for i in range(8)] + [f"lite{i}" for i in range(5)]:
        for prefix, metadata in (("", {}), ("tf_", TF_METADATA)):
            model = f"{prefix}efficientnet_{name}"
            yield f"timm {model}", lambda model=model: timm.create_model(model, pretrained=False), metadata


def quietly(build, *arguments, **options):
    with contextlib.redirect_stdout(io.StringIO()):
        return build(*arguments, **options)


def narrow(name, width, divisor):
    """A model of the family with a fraction of the channels, built by the same classes."""
    if name == "efficientnet_pytorch":
        blocks, options = pytorch_arguments(width_coefficient=width, depth_coefficient=1.0, image_size=None)
        return efficientnet_pytorch.EfficientNet(blocks, options._replace(depth_divisor=divisor))
    if name == "efficientnet_lite_pytorch":
        blocks, options = lite_arguments(width_coefficient=width, depth_coefficient=1.0, image_size=None)
        return quietly(efficientnet_lite_pytorch.EfficientNet, blocks, options._replace(depth_divisor=divisor))
    options = {"bn_eps": 1e-3, "pad_type": "same"} if name.startswith("tf_") else {}
    if name.endswith("lite0"):
        return timm_efficientnet._gen_efficientnet_lite(name, channel_multiplier=width, **options)
    return timm_efficientnet._gen_efficientnet(name, channel_multiplier=width, channel_divisor=divisor, **options)


def pixels(samples, height, width):
    """Images in [0, 250] by a formula that the native test repeats, [n, 3, h, w]."""
    n, c, y, x = torch.meshgrid(*(torch.arange(size) for size in (samples, 3, height, width)), indexing="ij")
    return ((y * 31 + x * 17 + c * 53 + n * 101 + x * y) * 29) % 251


def network_input(images):
    return (images.float() - 127) / 128


@torch.no_grad()
def randomise(model, seed):
    """Random weights; statistics near those that the layers have on images like these.

    Far from them deep networks are chaotic: values grow from block to block, and float32 of any program differs from
    float64 by tens of percent.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, std):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    def uniform(tensor, low, high):
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            normal(module.weight, math.sqrt(2 / module.weight[0].numel()))
            if module.bias is not None:
                normal(module.bias, 0.5)
    for norm in norms:
        uniform(norm.weight, 0.7, 1.3)
        normal(norm.bias, 0.2)
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    images = network_input(pixels(4, 64, 64))
    model(images + 0.2 * torch.randn(images.shape, generator=generator))
    for norm in norms:
        norm.eval()
        norm.running_mean += torch.randn(norm.running_mean.shape, generator=generator) * norm.running_var.sqrt() * 0.1
        norm.running_var *= 0.9 + 0.3 * torch.rand(norm.running_var.shape, generator=generator)
    return model


def blocks_of(model):
    if hasattr(model, "_blocks"):
        return list(model._blocks)
    return [block for stage in model.blocks for block in stage]


@torch.no_grad()
def taps(model, x):
    """What the last block at stride 2, 4, 8 and 16 returns: {"block10": [n, c, h, w]}."""
    outputs = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in blocks_of(model)]
    model(x)
    for hook in hooks:
        hook.remove()
    last = {x.shape[2] // out.shape[2]: index for index, out in enumerate(outputs)}
    return {f"block{last[stride]}": outputs[last[stride]] for stride in (2, 4, 8, 16)}

"""PyTorch's side of the GPU bench: training steps and scoring passes of a model's UNet, as bf16 channels-last.

`python torch_unet.py CONFIG.json --batch 8 --images 1` prints a JSON line each for eager and torch.compile. The UNet and
the diffusion are those of ../peers. Training runs under autocast, with float32 weights and optimiser; scoring has all
of the model in bf16.
"""

import argparse
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers"))

import torch

torch.set_default_device("cuda")
torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.benchmark = True

from diffusion_torch import Diffusion, Scorer, Trainer
from unet_torch import UNet


def on_device(diffusion):
    diffusion.tables = {name: table.to("cuda") for name, table in diffusion.tables.items()}
    return diffusion


class MixedTrainer(Trainer):
    """The peers' training step under autocast; with `compiled`, forward and loss are one compiled graph."""

    def __init__(self, model, diffusion, training, compiled):
        super().__init__(model, diffusion, training)
        self.loss = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def _loss(self, x_t, x0, t, noise):
        with torch.autocast("cuda", torch.bfloat16):
            output = self.model(x_t, t)
        out = (output[0] if isinstance(output, tuple) else output).float()
        eps, v = out.chunk(2, dim=1)
        mse = ((noise - eps) ** 2).mean()
        return mse + self.diffusion.kl(x0, x_t, t, eps.detach(), v, clip=False).mean()

    def step(self, x0, lr):
        t = torch.randint(1, self.diffusion.steps, (x0.shape[0],))
        noise = torch.randn_like(x0)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.diffusion.q_sample(x0, t, noise), x0, t, noise)
        loss.backward()
        self.update(lr)
        return loss


class HalfModel(torch.nn.Module):
    """The model with weights and activations in bf16: what inference would keep, and faster than autocast."""

    def __init__(self, model):
        super().__init__()
        self.model = model.to(torch.bfloat16)

    def forward(self, x, t, y=None):
        return self.model(x.to(torch.bfloat16), t, y).float()


def measure(run, seconds):
    """Milliseconds of each run, by events, after a warm-up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times, end = [], time.monotonic() + seconds
    while len(times) < 5 or (time.monotonic() < end and len(times) < 100):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return times


def report(what, mode, count, times, began):
    line = {"side": "pytorch", "what": what, "mode": mode, "count": count, "ms": round(statistics.median(times), 3)}
    line["spread"] = [round(min(times), 3), round(max(times), 3)]
    line["runs"] = len(times)
    line["memoryGB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    line["setupSeconds"] = round(began, 1)
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, nargs="*", default=[1])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--modes", nargs="*", default=["eager", "compile"])
    parser.add_argument("--what", nargs="*", default=["score", "train"])
    options = parser.parse_args()
    with open(options.config) as file:
        config = json.load(file)
    size, channels = config["input"]["size"], config["unet"]["inChannels"]
    torch.manual_seed(0)
    print(json.dumps({"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}), flush=True)
    for what in options.what:
        for mode in options.modes:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch._dynamo.reset()
            model = UNet(config["unet"]).to(memory_format=torch.channels_last)
            diffusion = on_device(Diffusion(config["diffusion"]["steps"]))
            start = time.monotonic()
            if what == "train":
                x0 = (torch.rand(options.batch, channels, size, size) * 2 - 1).to(memory_format=torch.channels_last)
                trainer = MixedTrainer(model.train(), diffusion, config["training"], mode == "compile")
                loss = trainer.step(x0, 1e-5).item()
                assert loss == loss, "the loss is no number"
                ready = time.monotonic() - start
                report(what, mode, options.batch, measure(lambda: trainer.step(x0, 1e-5), options.seconds), ready)
                del trainer
            else:
                # bf16 weights: what inference would keep
                half, scales = HalfModel(model.eval()), config["score"]["scales"]
                calibration = {"pixelMean": [0.0] * len(scales), "pixelStd": [1.0] * len(scales)}
                for images in options.images:
                    x0 = (torch.rand(images, channels, size, size) * 2 - 1).to(memory_format=torch.channels_last)
                    scorer = Scorer(half, diffusion, scales, calibration, 64, mode == "compile")
                    maps, scores = scorer.score(x0)
                    assert bool(torch.isfinite(maps).all()) and bool(torch.isfinite(scores).all())
                    ready = time.monotonic() - start
                    report(what, mode, images, measure(lambda: scorer.score(x0), options.seconds), ready)
                    start = time.monotonic()
            del model


if __name__ == "__main__":
    main()

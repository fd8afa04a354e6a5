"""PyTorch's side of the peer benchmark: answers JSON lines on stdin with JSON lines on stdout (protocol: README.md)."""

import argparse
import base64
import json
import os
import sys
import time

import numpy as np
import torch
import torch._inductor.config

import safetensors_io
from diffusion_torch import Diffusion, Scorer, Trainer, memory_format_of
from unet_torch import UNet

LAYOUTS = {"nchw": torch.contiguous_format, "channels-last": torch.channels_last}


def encode(tensor):
    array = np.ascontiguousarray(tensor.detach().numpy(), np.float32)
    return {"shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}


def process_kb(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


class ScoreWork:
    def __init__(self, model, config, x0, compiled):
        if config["score"]["scaleIndexing"] == "respaced":
            raise ValueError("scaleIndexing: expected original")
        self.x0 = x0
        self.scorer = Scorer(
            model.eval(),
            Diffusion(config["diffusion"]["steps"]),
            config["score"]["scales"],
            config["calibration"],
            config["score"]["topPixels"]["count"],
            compiled,
        )
        if compiled:
            self.run()  # compiles, so that a failure is one of the setup

    def run(self):
        maps, scores = self.scorer.score(self.x0)
        return maps.numpy(), scores.tolist()

    def output(self, inputs):
        noise = inputs["noise"].flatten(0, 1).contiguous(memory_format=memory_format_of(self.scorer.model))
        return dict(zip(("out", "kl", "maps", "scores"), self.scorer.score_with(inputs["x0"], noise)))


class TrainWork:
    def __init__(self, model, config, x0, compiled):
        if compiled:
            raise ValueError("workload: only score is compiled")
        self.x0, self.lr = x0, config["training"]["lr"]
        self.trainer = Trainer(model.train(), Diffusion(config["diffusion"]["steps"]), config["training"])

    def run(self):
        return self.trainer.step(self.x0, self.lr)

    def output(self, inputs):
        out, *losses = self.trainer.backward(inputs["x0"], inputs["t"].long(), inputs["noise"])
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trainer.parameters])
        return {"out": out, "losses": torch.stack(losses), "gradNorm": norm.reshape(1)}


class Worker:
    def __init__(self, layout, compiled=False):
        self.layout, self.compiled, self.work = LAYOUTS[layout], compiled, None

    def setup(self, message):
        torch.set_num_threads(message["threads"])
        torch.manual_seed(0)
        model = UNet(message["preset"])
        if message["model"] is not None:
            tensors, _ = safetensors_io.load(message["model"])
            model.load_state_dict({name: torch.from_numpy(a) for name, a in tensors.items()}, strict=True)
        model = model.to(memory_format=self.layout)
        shape = (message["images"], message["preset"]["inChannels"], message["size"], message["size"])
        x0 = torch.empty(shape, memory_format=self.layout).uniform_(-1, 1)
        work = {"score": ScoreWork, "train": TrainWork}[message["workload"]]
        self.work = work(model, message["config"], x0, self.compiled)
        return {"ok": True, "engine": f"PyTorch {torch.__version__}", "isa": torch.backends.cpu.get_cpu_capability()}

    def output(self, message):
        arrays, _ = safetensors_io.load(message["inputs"])
        inputs = {name: torch.from_numpy(a) for name, a in arrays.items()}
        inputs = {name: a.to(memory_format=self.layout) if a.dim() == 4 else a for name, a in inputs.items()}
        return {"tensors": {name: encode(tensor) for name, tensor in self.work.output(inputs).items()}}

    def run(self, message):
        seconds = []
        for i in range(message.get("warmup", 0) + message["iterations"]):
            start = time.perf_counter()
            self.work.run()
            if i >= message.get("warmup", 0):
                seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def rss(self, message):
        return {"peakKb": process_kb("VmHWM"), "currentKb": process_kb("VmRSS")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layout", choices=LAYOUTS, default="nchw")
    parser.add_argument("--compile", metavar="CACHE", help="torch.compile with its files in this folder")
    arguments = parser.parse_args()
    if arguments.compile:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = arguments.compile
        # The weights become constants: packed once for oneDNN, and folded where they can be.
        torch._inductor.config.freezing = True
    worker = Worker(arguments.layout, bool(arguments.compile))
    torch.set_num_interop_threads(1)
    for line in sys.stdin:
        message = json.loads(line)
        if message["op"] == "quit":
            break
        handlers = {"setup": worker.setup, "output": worker.output, "run": worker.run, "rss": worker.rss}
        try:
            reply = handlers[message["op"]](message)
        except Exception as failure:  # the other side decides what a failure means
            reply = {"error": f"{type(failure).__name__}: {failure}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()

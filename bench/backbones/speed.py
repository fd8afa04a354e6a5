"""Features of a backbone up to stride 16: ours (ddad_bench backbone) and PyTorch eager, taking turns, in JSON.

cmake --build build --target ddad_bench && python speed.py [--model b0] [--batch 1] [--size 224] [--threads 2]
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import timm
import torch
from models import randomise
from safetensors.torch import save_file

BENCH = Path(__file__).resolve().parents[2] / "build" / "ddad_bench"


@torch.inference_mode()
def torch_ms(model, x, rounds):
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        model(x)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="b0")
    for name, default in (("batch", 1), ("size", 224), ("threads", 2), ("rounds", 15), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    whole = randomise(timm.create_model(f"efficientnet_{a.model}", pretrained=False), 0)
    # only what the features need: the stem and the first five stages, channels last as PyTorch is fastest with
    model = torch.nn.Sequential(whole.conv_stem, whole.bn1, *whole.blocks[:5]).eval()
    model = model.to(memory_format=torch.channels_last)
    x = torch.randn(a.batch, 3, a.size, a.size).to(memory_format=torch.channels_last)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, file.name)
        command = [str(BENCH), "backbone", file.name, *map(str, (a.batch, a.size, a.threads, a.rounds))]
        for _ in range(a.turns):
            ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(json.dumps({"model": a.model, "batch": a.batch, "size": a.size, "ours": ours,
                              "torchMs": torch_ms(model, x, a.rounds)}), flush=True)


if __name__ == "__main__":
    main()

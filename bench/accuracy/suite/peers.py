"""The peers of the suite, on PyTorch and the backbone that ddad-native has: answers a job with a stream of scored images.

    python bench/accuracy/suite/peers.py JOB.json

The job: `method` (patchcore or padim), `train` and `images` (lists of files), `side` that images are squashed to, `seed`,
`threads`, and the method's own settings. For each image, in order, stdout gets a line of JSON with the image's scores,
the seconds from file to map, and the map's width and height, and then the map: float32, row by row. Before them comes a
line that says what was fitted.

- PatchCore: as in ../patchcore.py, its channels divided by their deviation; scored by the largest and the mean distance.
- PaDiM (Defard et al., "PaDiM: a Patch Distribution Modeling Framework", 2020): for each place a Gaussian of `channels`
  features, drawn at random; the distance of Mahalanobis; scored by the largest.
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from patchcore import SIDE, EfficientNetLite, PatchCore, map_of, patches_of, read_gray  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
SMOOTHING = 4


class Padim:
    """A Gaussian a place. The covariance gets 0.01 on its diagonal, as published."""

    def __init__(self, backbone, seed, channels, side=SIDE):
        self.backbone, self.side = backbone, side
        self.seed, self.channels = seed, channels
        self.chosen = None

    def patches(self, image):
        features, grid = patches_of(self.backbone, image, self.side)
        if self.chosen is None:
            order = np.random.default_rng(self.seed).permutation(features.shape[1])
            self.chosen = torch.from_numpy(np.sort(order[: self.channels]))
        return features[:, self.chosen], grid

    def fit(self, files):
        total, squares = None, None
        for file in files:
            features, _ = self.patches(read_gray(file))
            if total is None:
                places, channels = features.shape
                total = torch.zeros(places, channels)
                squares = torch.zeros(places, channels, channels)
                first = features
            # From the first image on, so that little cancels below.
            centred = features - first
            total += centred
            squares.baddbmm_(centred[:, :, None], centred[:, None, :])
        count = len(files)
        self.mean = first + total / count
        covariance = squares - total[:, :, None] * total[:, None, :] / count
        covariance = covariance / max(1, count - 1) + 0.01 * torch.eye(total.shape[1])
        self.factor = torch.linalg.cholesky(covariance)

    def distances(self, image):
        features, grid = self.patches(image)
        away = (features - self.mean)[:, :, None]
        solved = torch.linalg.solve_triangular(self.factor, away, upper=False)
        return solved.square().sum((1, 2)).sqrt().reshape(grid)


def make(job):
    backbone = EfficientNetLite(ROOT / "weights" / "efficientnet-lite0-backbone.safetensors")
    if job["method"] == "patchcore":
        return PatchCore(backbone, job["seed"], job["bank"], job["side"], normalised=True)
    if job["method"] == "padim":
        return Padim(backbone, job["seed"], job["channels"], job["side"])
    raise SystemExit(f"expected the method patchcore or padim, got {job['method']}")


def answer(job, out):
    def say(line, data=b""):
        out.write(json.dumps(line).encode() + b"\n" + data)
        out.flush()

    peer = make(job)
    start = time.perf_counter()
    peer.fit([pathlib.Path(file) for file in job["train"]])
    say({"fitSeconds": time.perf_counter() - start, "engine": f"PyTorch {torch.__version__}"})
    peer.distances(read_gray(job["train"][0]))  # the first call sets things up
    for file in job["images"]:
        start = time.perf_counter()
        image = read_gray(file)
        distances = peer.distances(image)
        anomaly_map = map_of(distances, image, SMOOTHING)
        seconds = time.perf_counter() - start
        scores = {"largest": distances.max().item(), "mean": distances.mean().item()}
        line = {"image": file, "scores": scores, "seconds": seconds, "width": image.width, "height": image.height}
        say(line, np.ascontiguousarray(anomaly_map, "<f4").tobytes())


def main():
    job = json.loads(pathlib.Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.inference_mode():
        answer(job, sys.stdout.buffer)


if __name__ == "__main__":
    main()

"""How different ways to turn the residuals of a model into scores would do, from what dump-scores.mjs wrote:

    python bench/accuracy/calibration-variants.py FOLDER [--step INDEX] [--only NAME]

Prints, for each variant, the mean image AUROC over the defects (score: the largest 1 % of a map smoothed by one cell),
and image and pixel AUROC of each. "By place": minus the mean, over the deviation of the held-back images at each cell,
smoothed by 1.5 cells. Pixel figures are over every seventh pixel. `--kl` prints the pixel-level score instead: for each
noise step the pixel AUROC within each image, averaged over the images of each defect, the map smoothed by 4 pixels.

Needs numpy, scipy and torch, as patchcore.py does.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, uniform_filter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import safetensors_io  # noqa: E402

LITE0_WIDTHS = {2: 16, 4: 24, 8: 40, 16: 112}


def auroc(good, bad):
    good = np.sort(good)
    return (np.searchsorted(good, bad, "left") + np.searchsorted(good, bad, "right")).mean() / 2 / len(good)


def smooth(grid, sigma):
    return gaussian_filter(grid, sigma, mode="nearest")


class Images:
    def __init__(self, folder):
        self.entries = json.loads((pathlib.Path(folder) / "index.json").read_text())
        self.groups = {}
        for entry in self.entries:
            self.groups.setdefault(entry["group"], []).append(entry)
        self.defects = [g for g in self.groups if g not in ("held-back", "trained", "good")]

    @staticmethod
    def tensors(entry):
        return safetensors_io.load(entry["out"])[0]

    @staticmethod
    def mask(entry):
        return np.fromfile(entry["mask"], np.uint8) > 0

    @staticmethod
    def enlarge(grid, entry):
        tensor = torch.from_numpy(np.ascontiguousarray(grid, np.float32))[None, None]
        return F.interpolate(tensor, size=(entry["height"], entry["width"]), mode="bilinear")[0, 0].numpy().ravel()


def report(name, images, maps, by_place):
    if by_place:
        held = np.stack([maps[e["out"]] for e in images.groups["held-back"]])
        mean = smooth(held.mean(0), 1.5)
        deviation = np.sqrt(smooth(held.var(0), 1.5)) + 0.05 * held.std()
        maps = {key: (grid - mean) / deviation for key, grid in maps.items()}
    maps = {key: smooth(grid, 1) for key, grid in maps.items()}

    def score(entry):
        values = np.sort(maps[entry["out"]].ravel())
        return values[-max(1, len(values) // 100) :].mean()

    good = [score(e) for e in images.groups["good"]]
    good_pixels = np.concatenate([images.enlarge(maps[e["out"]], e)[::7] for e in images.groups["good"]])
    image_figures, pixel_figures = [], []
    for defect in images.defects:
        entries = images.groups[defect]
        image_figures.append(auroc(good, np.array([score(e) for e in entries])))
        pixels = np.concatenate([images.enlarge(maps[e["out"]], e)[::7] for e in entries])
        bad = np.concatenate([images.mask(e)[::7] for e in entries])
        pixel_figures.append(auroc(np.concatenate([good_pixels, pixels[~bad]]), pixels[bad]))
    name += ", by place" if by_place else ""
    figures = "  ".join(f"{d} {i:.3f} / {p:.3f}" for d, i, p in zip(images.defects, image_figures, pixel_figures))
    print(f"{name:45s} mean {np.mean(image_figures):.3f}   {figures}", flush=True)


def residual_variants(images, step, only):
    residuals = {}
    for entry in images.entries:
        tensors = images.tensors(entry)
        residuals[entry["out"]] = tensors["predicted"][step] - tensors["features"]
    channels = next(iter(residuals.values())).shape[-1]
    good = np.concatenate([residuals[e["out"]].reshape(-1, channels) for e in images.groups["trained"]])
    mean, deviation = good.mean(0), good.std(0)
    covariance = np.cov(good.T)
    covariance += 0.01 * np.trace(covariance) / channels * np.eye(channels)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance)).astype(np.float32)

    def squares(r):
        return (r**2).mean(-1)

    def pooled(r, border="constant"):
        """Means of 3x3 cells; beyond the border there are zeros, or the border's values ("nearest")."""
        return uniform_filter(r, (3, 3, 1), mode=border)

    class Nearest:
        """Distance to the nearest of 20 000 vectors drawn from the images that were trained on."""

        def __init__(self, change):
            self.change = change
            known = np.concatenate([change(e["out"]).reshape(-1, channels) for e in images.groups["trained"]])
            self.bank = torch.from_numpy(known[np.random.default_rng(0).permutation(len(known))[:20000]])
            self.squares = (self.bank * self.bank).sum(1)

        def __call__(self, key):
            vectors = self.change(key)
            q = torch.from_numpy(np.ascontiguousarray(vectors.reshape(-1, channels)))
            nearest = torch.addmm(self.squares[None], q, self.bank.T, alpha=-2).min(1).values
            return (nearest + (q * q).sum(1)).clamp_min(0).sqrt().numpy().reshape(vectors.shape[:2])

    def features(key):
        return images.tensors({"out": key})["features"]

    variants = {
        "all channels": squares,
        "over each channel's deviation": lambda r: squares((r - mean) / (deviation + 0.03)),
        "whitened": lambda r: squares((r - mean) @ whiten),
        "minus the image's mean": lambda r: squares(r - r.mean((0, 1))),
        "over the image's median": lambda r: squares(r) / np.median(squares(r)),
    }
    strides = {strides: sum(LITE0_WIDTHS[s] for s in strides) for strides in [(2, 4, 8, 16), (4, 8, 16), (2, 4, 8)]}
    first = 0
    for stride in next((s for s, width in strides.items() if width == channels), ()):
        part = slice(first, first + LITE0_WIDTHS[stride])
        first += LITE0_WIDTHS[stride]
        variants[f"tap of stride {stride}"] = lambda r, part=part: squares(r[..., part])
    of_key = {name: lambda key, v=v: v(residuals[key]) for name, v in variants.items()}
    of_key["nearest residual"] = Nearest(lambda key: residuals[key])
    of_key["nearest residual, means of 3x3, border repeated"] = Nearest(lambda key: pooled(residuals[key], "nearest"))
    of_key["nearest residual, means of 3x3"] = Nearest(lambda key: pooled(residuals[key]))
    of_key["nearest features, means of 3x3"] = Nearest(lambda key: pooled(features(key)))
    scored = [e["out"] for e in images.entries if e["group"] != "trained"]
    for name, variant in of_key.items():
        if only not in name:
            continue
        maps = {key: variant(key) for key in scored}
        for by_place in (False, True):
            report(name, images, maps, by_place)


def kl_by_step(images):
    for defect in images.defects:
        figures = []
        for entry in images.groups[defect]:
            mask = images.mask(entry)
            if not mask.any():
                continue
            width, height = entry["seen"]
            row = []
            for kl in images.tensors(entry)["kl"]:
                if (width, height) == (entry["width"], entry["height"]):
                    grid = smooth(kl[:height, :width], 4).ravel()
                else:
                    grid = images.enlarge(smooth(kl, 4), entry)
                row.append(auroc(grid[~mask], grid[mask]))
            figures.append(row)
        print(f"{defect:12s} {len(figures)} images", np.round(np.mean(figures, 0), 3), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--step", type=int, default=0, help="which of the noise steps that were written (0)")
    parser.add_argument("--only", default="", help="variants whose name has this in it")
    parser.add_argument("--kl", action="store_true")
    args = parser.parse_args()
    images = Images(args.folder)
    if args.kl:
        kl_by_step(images)
    else:
        residual_variants(images, args.step, args.only)


if __name__ == "__main__":
    main()

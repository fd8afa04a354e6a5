"""PatchCore on a dataset in MVTec layout: the peer for accuracy, what a user would take instead.

PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", 2022) keeps features of patches of good
images and scores a patch by the distance to the nearest of them. Here it runs on PyTorch with the backbone that
ddad-native has, so that the methods are compared and not the networks:

    python bench/accuracy/patchcore.py DATASET --json report.json

- The image, gray repeated to three channels, is squashed to 256x256; the backbone gets (pixels - 127) / 128.
- Patches: the taps at stride 8 and 16 (blocks 4 and 10 of EfficientNet-Lite0), each averaged over 3x3 positions, the
  coarser one resized to the finer one's grid, concatenated: 32x32 patches of 152 features.
- Memory: 20 000 patches drawn at random from all of train/good, instead of the paper's greedy coreset.
  The draw matters, on magnetic tiles by 0.01 of image AUROC and up to 0.03 of pixel AUROC: try several (`--seed`).
- Image score: the largest distance of a patch, without the paper's reweighting by neighbours (b = 1).
- Anomaly map: the distances resized to the image's own size, and a Gaussian of 4 pixels (`--smoothing`, 0 for none).

Figures are those of `ddad-native evaluate`: of a defect over the good test images and its own, all pixels at the
image's own size. AUPRO is MVTec's, up to a false-positive rate of 0.3. Pixel figures are exact: no threshold grid.
The time of an image is from the file to the smoothed map, one image at a time.

`python bench/accuracy/patchcore.py --check features-lite0.safetensors` compares the backbone with a golden file.
"""

import argparse
import json
import pathlib
import platform
import sys
import time

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench" / "peers"))
import safetensors_io  # noqa: E402

SIDE = 256
TAPS = (4, 10)
QUERIES_AT_ONCE = 256
FPR_LIMIT = 0.3


class EfficientNetLite:
    """EfficientNet-Lite0 up to block 10, under the parameter names of efficientnet_pytorch."""

    # Of the first block of each stage; the others have stride 1.
    STRIDES = {1: 2, 3: 2, 5: 2, 8: 1}
    BLOCKS = 11

    def __init__(self, path):
        arrays, metadata = safetensors_io.load(path)
        self.tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.eps = float(metadata.get("batchNormEps", "1e-3"))
        self.stem = self._layer("_conv_stem", "_bn0")
        self.blocks = []
        for index in range(self.BLOCKS):
            layers = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
            prefix = f"_blocks.{index}."
            present = [(c, n) for c, n in layers if f"{prefix}{c}.weight" in self.tensors]
            self.blocks.append([self._layer(prefix + c, prefix + n) for c, n in present])

    def _layer(self, conv, norm):
        """Weight and bias of a convolution with the batch norm behind it folded in, computed in double precision."""
        mean, var, gain, shift = (
            self.tensors[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gain / torch.sqrt(var + self.eps)
        weight = self.tensors[f"{conv}.weight"].double() * scale[:, None, None, None]
        return weight.float(), (shift - mean * scale).float()

    @staticmethod
    def _convolve(x, layer, stride=1):
        weight, bias = layer
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(same_padded(x, weight.shape[-1], stride), weight, bias, stride, groups=groups)

    def __call__(self, x, taps=TAPS):
        """The outputs of the blocks `taps` for x [N, 3, H, W]."""
        x = x.to(memory_format=torch.channels_last)  # the faster layout
        x = F.relu6(self._convolve(x, self.stem, 2))
        outputs = {}
        for index, layers in enumerate(self.blocks):
            start, stride = x, self.STRIDES.get(index, 1)
            for layer in layers[:-2]:
                x = F.relu6(self._convolve(x, layer))
            x = F.relu6(self._convolve(x, layers[-2], stride))
            x = self._convolve(x, layers[-1])
            if stride == 1 and x.shape[1] == start.shape[1]:
                x = x + start
            outputs[index] = x
        return [outputs[tap] for tap in taps]


def same_padded(x, kernel, stride):
    """TensorFlow's SAME: what does not divide evenly goes below and to the right."""
    totals = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    return F.pad(x, (left, right, top, bottom))


def patches_of(backbone, image, side):
    """The features [positions, channels] of a gray PIL image, row by row, and the height and width of the grid."""
    pixels = torch.from_numpy(np.array(image.resize((side, side), Image.Resampling.BILINEAR), np.float32))
    x = ((pixels - 127) / 128).expand(1, 3, side, side)
    taps = [F.avg_pool2d(tap, 3, stride=1, padding=1) for tap in backbone(x)]
    grid = taps[0].shape[-2:]
    resized = [F.interpolate(tap, grid, mode="bilinear", align_corners=False) for tap in taps[1:]]
    features = torch.cat([taps[0], *resized], dim=1)[0]
    return features.flatten(1).T.contiguous(), tuple(grid)


def map_of(distances, image, smoothing):
    """Distances of a grid as an anomaly map at the image's own size."""
    size = (image.height, image.width)
    resized = F.interpolate(distances[None, None], size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return ndimage.gaussian_filter(resized, smoothing, mode="mirror", truncate=3) if smoothing > 0 else resized


class PatchCore:
    """With `normalised`, each channel is divided by its deviation over the memory."""

    def __init__(self, backbone, seed, bank_size, side=SIDE, normalised=False):
        self.backbone, self.seed, self.bank_size = backbone, seed, bank_size
        self.side, self.normalised = side, normalised
        self.deviation = None

    def patches(self, image):
        features, grid = patches_of(self.backbone, image, self.side)
        return (features if self.deviation is None else features / self.deviation), grid

    def fit(self, files):
        """Fills the memory. The places are drawn before the images are read, so that no more than it is ever held."""
        per_image = (self.side // 8) ** 2
        total = len(files) * per_image
        chosen = np.random.default_rng(self.seed).choice(total, min(self.bank_size, total), replace=False)
        chosen.sort()
        bank = []
        for i, file in enumerate(files):
            first, last = np.searchsorted(chosen, [i * per_image, (i + 1) * per_image])
            if first < last:
                features, _ = self.patches(read_gray(file))
                bank.append(features[torch.from_numpy(chosen[first:last] - i * per_image)])
        self.bank = torch.cat(bank)
        if self.normalised:
            self.deviation = self.bank.std(0).clamp_min(1e-12)
            self.bank = self.bank / self.deviation
        self.bank_squares = self.bank.square().sum(1)

    def distances(self, image):
        """The distance of each patch to the nearest one in memory [H, W]."""
        features, grid = self.patches(image)
        nearest = []
        for queries in features.split(QUERIES_AT_ONCE):
            # Without the square of the query, which does not change which one is nearest.
            order = torch.addmm(self.bank_squares, queries, self.bank.T, alpha=-2)
            # Again from the difference: the sum above cancels where a patch is close.
            nearest.append((queries - self.bank[order.argmin(1)]).square().sum(1).sqrt())
        return torch.cat(nearest).reshape(grid)

    def score(self, image, smoothing):
        """The image score, and the anomaly map at the image's own size."""
        distances = self.distances(image)
        return distances.max().item(), map_of(distances, image, smoothing)


def read_gray(file):
    with Image.open(file) as image:
        return image.convert("L")


def images_in(folder):
    kinds = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in kinds)


def regions_of(mask):
    """For each pixel of the defect, in order, the area of its region (8 neighbours); and the number of regions."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    return areas[labels[mask]], count


def area_up_to(limit, normal, anomalous, weights):
    """The mean height, up to the false-positive rate `limit`, of the curve of the anomalous pixels found, by weight.

    `normal` is sorted. Each anomalous pixel adds a step to the curve, at the rate of the normal pixels above it; where
    some are equal to it the step is a slope, as the trapezoidal rule has it. So the area is a sum over pixels and no
    thresholds are needed.
    """
    above = 1 - np.searchsorted(normal, anomalous, "right") / len(normal)
    at_or_above = 1 - np.searchsorted(normal, anomalous, "left") / len(normal)
    ends = np.minimum(at_or_above, limit)
    starts = np.minimum(above, limit)
    risen = (ends - starts) / np.maximum(at_or_above - above, 1e-300)
    areas = (limit - ends) + (ends - starts) * risen / 2
    return float(np.dot(weights, areas) / limit)


def figures(images):
    """The figures over scored images, under the names of `ddad-native evaluate`; None where they have no meaning."""
    truth = [image["defect"] != "good" for image in images]
    scores = [image["score"] for image in images]
    result = {"images": len(images), "imageAuroc": None, "imageAp": None, "pixelAuroc": None, "aupro": None}
    if 0 < sum(truth) < len(truth):
        result["imageAuroc"] = float(roc_auc_score(truth, scores))
        result["imageAp"] = float(average_precision_score(truth, scores))
    normal = np.concatenate([image["normal"] for image in images])
    anomalous = np.concatenate([image["anomalous"] for image in images])
    areas = np.concatenate([image["areas"] for image in images])
    if len(normal) and len(anomalous):
        normal.sort()
        regions = sum(image["regions"] for image in images)
        every = np.full(len(anomalous), 1 / len(anomalous))
        result["pixelAuroc"] = area_up_to(1, normal, anomalous, every)
        result["aupro"] = area_up_to(FPR_LIMIT, normal, anomalous, 1 / (areas * regions))
    return result


def score_image(peer, dataset, defect, file, smoothing):
    start = time.perf_counter()
    score, anomaly_map = peer.score(read_gray(file), smoothing)
    seconds = time.perf_counter() - start
    scored = {"defect": defect, "image": f"test/{defect}/{file.name}", "score": score, "seconds": seconds}
    mask = np.zeros(anomaly_map.shape, bool)
    if defect != "good":
        mask_file = dataset / "ground_truth" / defect / f"{file.stem}_mask.png"
        mask = np.array(read_gray(mask_file)) > 127
        if mask.shape != anomaly_map.shape:
            raise SystemExit(f"{mask_file}: expected the size of {file}")
    areas, regions = regions_of(mask)
    return {**scored, "normal": anomaly_map[~mask], "anomalous": anomaly_map[mask], "areas": areas, "regions": regions}


def measure(args):
    dataset = pathlib.Path(args.dataset)
    peer = PatchCore(EfficientNetLite(args.weights), args.seed, args.bank)
    train = images_in(dataset / "train" / "good")
    start = time.perf_counter()
    peer.fit(train)
    fit_seconds = time.perf_counter() - start

    folders = sorted(folder for folder in (dataset / "test").iterdir() if folder.is_dir())
    defects = [folder.name for folder in folders if folder.name != "good"]
    peer.distances(read_gray(train[0]))  # the first call sets things up
    scored = [
        score_image(peer, dataset, folder.name, file, args.smoothing)
        for folder in folders
        for file in images_in(folder)
    ]
    seconds = [image["seconds"] for image in scored]
    per_defect = {
        defect: figures([image for image in scored if image["defect"] in ("good", defect)]) for defect in defects
    }
    return {
        "engine": f"PatchCore, EfficientNet-Lite0, PyTorch {torch.__version__}",
        "dataset": dataset.name,
        "trainImages": len(train),
        "patchesInMemory": len(peer.bank),
        "seed": args.seed,
        "smoothing": args.smoothing,
        "threads": torch.get_num_threads(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pillow": PIL.__version__},
        "fitSeconds": fit_seconds,
        "secondsPerImage": {"mean": float(np.mean(seconds)), "median": float(np.median(seconds))},
        **figures(scored),
        "perDefect": per_defect,
        "scores": [{key: image[key] for key in ("image", "defect", "score")} for image in scored],
    }


def print_table(report):
    names = {"imageAuroc": "image AUROC", "imageAp": "image AP", "pixelAuroc": "pixel AUROC", "aupro": "AUPRO 0.3"}
    print(f"{'defect':<16}{'images':>8}" + "".join(f"{title:>14}" for title in names.values()))
    for defect, row in [*report["perDefect"].items(), ("together", report)]:
        cells = ["-" if row[name] is None else f"{row[name]:.3f}" for name in names]
        print(f"{defect:<16}{row['images']:>8}" + "".join(f"{cell:>14}" for cell in cells))
    times = report["secondsPerImage"]
    print(f"\n{report['engine']}, {report['threads']} thread(s), {report['patchesInMemory']} patches in memory")
    print(f"{1000 * times['mean']:.1f} ms an image (median {1000 * times['median']:.1f})", end="; ")
    print(f"{report['fitSeconds']:.1f} s to fill the memory")


def check(path, weights):
    """Compares the backbone with a golden file of kind `features`; the exit code."""
    golden, metadata = safetensors_io.load(path)
    names = json.loads(metadata["spec"])["taps"]
    outputs = EfficientNetLite(weights)(torch.from_numpy(golden["input"]), [int(name[5:]) for name in names])
    worst = 0.0
    for name, output in zip(names, outputs, strict=True):
        if output.shape != golden[name].shape:
            raise SystemExit(f"{name}: expected the shape {golden[name].shape}, got {tuple(output.shape)}")
        reference = golden[name].astype(np.float64)
        error = np.linalg.norm(output.numpy() - reference) / np.linalg.norm(reference)
        worst = max(worst, error) if np.isfinite(error) else np.inf
        print(f"{name:<10}{error:.2e}")
    passed = worst <= 1e-4
    print("ok" if passed else "FAILED: an error above 1e-4")
    return 0 if passed else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", help="folder with train/good, test/<defect>, ground_truth/<defect>")
    parser.add_argument("--check", metavar="FILE", help="compare the backbone with a golden file instead")
    parser.add_argument("--weights", default=ROOT / "weights" / "efficientnet-lite0-backbone.safetensors")
    parser.add_argument("--json", metavar="FILE", help="write the report")
    parser.add_argument("--smoothing", type=float, default=4, metavar="SIGMA", help="in pixels of the image; 0: none")
    parser.add_argument("--bank", type=int, default=20000, help="patches in memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.inference_mode():
        if args.check:
            return check(args.check, args.weights)
        if not args.dataset:
            parser.error("expected a dataset")
        report = measure(args)
    print_table(report)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

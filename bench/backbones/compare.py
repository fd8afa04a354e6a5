"""Features of every EfficientNet of the public implementations at full size, with random weights, against
`ddad-native verify`; the reference is in float64.

python compare.py [PART OF A NAME ...]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from models import full_size, network_input, pixels, randomise, taps
from safetensors.torch import save_file

CLI = Path(__file__).resolve().parents[2] / "bin" / "ddad-native.js"
SAMPLES, HEIGHT, WIDTH = 2, 64, 96
# Of float32 against float64: sums of up to 2 304 products, 38 blocks deep, each off by some 1e-7 of its values.
TOLERANCE = 2e-5


def verify(golden, weights):
    run = subprocess.run(
        ["node", str(CLI), "verify", str(golden), "--backbone", str(weights), "--json"],
        capture_output=True,
        text=True,
        env=dict(os.environ, DDAD_AUTOTUNE="off"),
    )
    report = json.loads(run.stdout.strip() or "{}")
    if "tensors" not in report:
        raise SystemExit(f"{golden}: {run.stdout}{run.stderr}")
    return {tensor["name"]: tensor["error"] for tensor in report["tensors"] if tensor["name"].startswith("block")}


def main(wanted):
    failures = 0
    images = pixels(SAMPLES, HEIGHT, WIDTH)
    print("| model | stride 2 | stride 4 | stride 8 | stride 16 | PyTorch at 16 |\n|" + " --- |" * 6)
    with tempfile.TemporaryDirectory() as folder:
        weights, golden = Path(folder) / "weights.safetensors", Path(folder) / "golden.safetensors"
        for seed, (name, build, metadata) in enumerate(full_size()):
            if wanted and not any(part in name for part in wanted):
                continue
            model = randomise(build(), seed)
            single = taps(model, network_input(images))
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, weights, metadata)
            spec = {"kind": "features", "model": "efficientnet-" + name.rsplit("_", 1)[-1].split()[-1]}
            tensors = {"pixels": images.float(), "input": network_input(images)}
            expected = taps(model.double(), network_input(images).double())
            tensors.update({key: value.float().contiguous() for key, value in expected.items()})
            save_file(tensors, golden, {"spec": json.dumps(spec)})
            errors = verify(golden, weights)
            ok = len(errors) == 4 and all(isinstance(e, float) and e <= TOLERANCE for e in errors.values())
            failures += not ok
            # what float32 makes of it in PyTorch, for comparison
            tap = list(expected)[-1]
            errors["torch"] = float((single[tap] - expected[tap]).norm() / expected[tap].norm())
            cells = [f"{e:.1e}" if isinstance(e, float) else "NaN" for e in errors.values()]
            print(f"| {name} | {' | '.join(cells)} |{'' if ok else ' FAILED'}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

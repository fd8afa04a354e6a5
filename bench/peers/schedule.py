"""The noise schedule of the chain, float64 NumPy, for PyTorch and for the ONNX graph alike."""

import numpy as np


def respaced_steps(steps, respacing):
    """The steps that `"250"` or `"10,15,20"` keeps of a chain of `steps`: one count for each equal section."""
    counts = [int(count) for count in respacing.split(",")]
    kept, start = [], 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (1 if i < steps % len(counts) else 0)
        stride = 1 if count <= 1 else (size - 1) / (count - 1)
        kept += [start + round(stride * k) for k in range(count)]
        start += size
    return kept


class Schedule:
    """A linear schedule with learned-range variance, of all `steps` or of those that `respacing` keeps."""

    def __init__(self, steps=1000, respacing=None):
        beta = np.linspace(0.0001 * 1000 / steps, 0.02 * 1000 / steps, steps)
        abar = np.cumprod(1 - beta)
        # The network sees the step number of the whole chain.
        self.timestep_map = list(range(steps))
        if respacing:
            self.timestep_map = respaced_steps(steps, respacing)
            abar = abar[self.timestep_map]
            beta = 1 - abar / np.append(1.0, abar[:-1])
        before = np.append(1.0, abar[:-1])
        variance = beta * (1 - before) / (1 - abar)
        self.steps = len(beta)
        self.tables = {
            "signal": np.sqrt(abar),
            "noise": np.sqrt(1 - abar),
            "recip": np.sqrt(1 / abar),
            "recip_m1": np.sqrt(1 / abar - 1),
            "coef1": beta * np.sqrt(before) / (1 - abar),
            "coef2": (1 - before) * np.sqrt(1 - beta) / (1 - abar),
            "log_beta": np.log(beta),
            # The variance is 0 at step 0, so the value of step 1 stands there.
            "log_posterior": np.log(np.append(variance[1], variance[1:])),
        }

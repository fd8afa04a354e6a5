"""The diffusion side of the peer: noising, losses and the pixel-level score, as PyTorch code is written.

Equation numbers are those of the paper. Schedules are float64; images are [N, C, H, W] in [-1, 1]; steps `t` count
from 0.
"""

import math

import torch

from schedule import Schedule


class Diffusion:
    """A linear schedule with learned-range variance, of all `steps` or of those that `respacing` keeps."""

    def __init__(self, steps=1000, respacing=None):
        schedule = Schedule(steps, respacing)
        self.steps, self.timestep_map = schedule.steps, schedule.timestep_map
        self.tables = {name: torch.from_numpy(table) for name, table in schedule.tables.items()}

    def _at(self, name, t, dtype):
        return self.tables[name][t].to(dtype)[:, None, None, None]

    def q_sample(self, x0, t, noise):
        """Forward noising (1)."""
        return self._at("signal", t, x0.dtype) * x0 + self._at("noise", t, x0.dtype) * noise

    def _posteriors(self, x0, x_t, t, eps, v, clip):
        """Mean and log variance of q(x_{t-1} | x_t, x_0) and of p(x_{t-1} | x_t)."""
        coef1, coef2 = self._at("coef1", t, x0.dtype), self._at("coef2", t, x0.dtype)
        log_q = self._at("log_posterior", t, x0.dtype)
        frac = (v + 1) / 2
        log_p = frac * self._at("log_beta", t, x0.dtype) + (1 - frac) * log_q
        xhat0 = self._at("recip", t, x0.dtype) * x_t - self._at("recip_m1", t, x0.dtype) * eps
        if clip:
            xhat0 = xhat0.clamp(-1, 1)
        return coef1 * x0 + coef2 * x_t, log_q, coef1 * xhat0 + coef2 * x_t, log_p

    def kl(self, x0, x_t, t, eps, v, clip):
        """KL of the two posteriors in nats for each element (5), (9)."""
        mean_q, log_q, mean_p, log_p = self._posteriors(x0, x_t, t, eps, v, clip)
        return 0.5 * (-1 + log_p - log_q + torch.exp(log_q - log_p) + (mean_q - mean_p) ** 2 * torch.exp(-log_p))

    def decoder_nll(self, x0, x_t, t, eps, v):
        """Negative log-likelihood of x_0 under the Gaussian discretised to 255 levels, in nats for each element (6)."""
        _, _, mean, log_p = self._posteriors(x0, x_t, t, eps, v, clip=False)
        centred, inv_std = x0 - mean, torch.exp(-0.5 * log_p)
        upper = _approx_normal_cdf(inv_std * (centred + 1 / 255))
        lower = _approx_normal_cdf(inv_std * (centred - 1 / 255))
        inside = torch.where(x0 > 0.999, 1 - lower, upper - lower)
        return -torch.where(x0 < -0.999, upper, inside).clamp(min=1e-12).log()

    def losses(self, output, x0, x_t, t, noise):
        """The rescaled loss of each sample (4)-(8): (loss, mse, vb), each [N]."""
        eps, v = output.chunk(2, dim=1)
        mse = ((noise - eps) ** 2).mean(dim=(1, 2, 3))
        # The variational term trains the variance only.
        fixed = eps.detach()
        vb = self.kl(x0, x_t, t, fixed, v, clip=False).mean(dim=(1, 2, 3))
        first = t == 0
        if first.any():
            nll = self.decoder_nll(x0, x_t, t, fixed, v).mean(dim=(1, 2, 3))
            vb = torch.where(first, nll, vb)
        vb = vb / math.log(2) * (self.steps / 1000)
        return mse + vb, mse, vb


def _approx_normal_cdf(x):
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Scorer:
    """The batched multi-scale scoring pass: noising, one UNet forward over scales x images, KL maps, their ensemble."""

    def __init__(self, model, diffusion, scales, calibration, top_pixels, compiled=False):
        self.model, self.diffusion, self.scales = model, diffusion, scales
        self.mean = torch.tensor(calibration["pixelMean"])[:, None, None, None]
        self.inv_std = 1 / torch.tensor(calibration["pixelStd"])[:, None, None, None]
        self.top_pixels = top_pixels
        self.step_of_scale = torch.tensor(diffusion.timestep_map)
        self.whole_pass = torch.compile(self._whole_pass, dynamic=False) if compiled else self._whole_pass

    def _kl_maps(self, x0, noise, labels=None):
        images, scales = x0.shape[0], len(self.scales)
        t = torch.tensor(self.scales, device=x0.device).repeat_interleave(images)
        x0 = x0.repeat(scales, 1, 1, 1)
        x_t = self.diffusion.q_sample(x0, t, noise)
        output = self.model(x_t, self.step_of_scale[t], None if labels is None else labels.repeat(scales))
        out = output[0] if isinstance(output, tuple) else output
        eps, v = out.chunk(2, dim=1)
        kl = self.diffusion.kl(x0, x_t, t, eps, v, clip=True)
        return output, kl.mean(dim=1).reshape(scales, images, *kl.shape[2:])

    def _whole_pass(self, x0, noise):
        output, kl = self._kl_maps(x0, noise)
        maps = ((kl - self.mean) * self.inv_std).mean(dim=0)
        return output, kl, maps, maps.flatten(1).topk(self.top_pixels, dim=1).values.mean(dim=1)

    @torch.inference_mode()
    def kl_maps(self, x0, noise, labels=None):
        """x0 [N, C, H, W], noise [scales * N, C, H, W], scale-major -> (UNet output, KL maps [scales, N, H, W])."""
        return self._kl_maps(x0, noise, labels)

    @torch.inference_mode()
    def score_with(self, x0, noise):
        """As `kl_maps`, then maps [N, H, W] and image scores [N] (11): what `score` runs, with given noise."""
        return self.whole_pass(x0, noise)

    @torch.inference_mode()
    def score(self, x0):
        """x0 [N, C, H, W] -> (maps [N, H, W], image scores [N]) (11)."""
        images, channels, height, width = x0.shape
        noise = torch.empty(
            (len(self.scales) * images, channels, height, width), memory_format=memory_format_of(self.model)
        ).normal_()
        return self.whole_pass(x0, noise)[2:]


class Trainer:
    """One training step: noising, forward, loss, backward, AdamW, EMA of the weights."""

    def __init__(self, model, diffusion, training):
        self.model, self.diffusion, self.training = model, diffusion, training
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=training["lr"],
            betas=tuple(training["betas"]),
            eps=training["eps"],
            weight_decay=training["weightDecay"],
            fused=True,
        )
        self.ema = [p.detach().clone() for p in self.parameters]

    def backward(self, x0, t, noise, labels=None):
        """Leaves the gradients of the batch mean in the parameters; returns the batch's (output, loss, mse, vb)."""
        self.optimizer.zero_grad(set_to_none=True)
        x_t = self.diffusion.q_sample(x0, t, noise)
        output = self.model(x_t, t, labels)
        loss, mse, vb = (term.mean() for term in self.diffusion.losses(output, x0, x_t, t, noise))
        loss.backward()
        return output, loss, mse, vb

    def update(self, lr):
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - self.training["ema"])

    def step(self, x0, lr):
        """A step with fresh noise and steps t; returns its loss as a number."""
        t = torch.randint(self.diffusion.steps, (x0.shape[0],))
        _, loss, _, _ = self.backward(x0, t, torch.randn_like(x0))
        self.update(lr)
        return loss.item()


def memory_format_of(model):
    """The layout that the model's convolutions were put into."""
    weight = next(p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last

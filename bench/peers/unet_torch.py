"""The UNet of the public guided-diffusion code, written compactly for PyTorch eager.

Parameters have the names and shapes of the public checkpoints. `python unet_torch.py --check DIR` compares it with the
golden files in DIR.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def timestep_embedding(t, channels):
    """Sinusoidal embedding of the steps `t` [N]: cosines first, then sines, [N, channels]."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies[None]
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    return F.pad(embedding, (0, 1)) if channels % 2 else embedding


def group_norm(channels):
    return nn.GroupNorm(32, channels)


def conv3(channels, out_channels, stride=1):
    return nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)


class Down(nn.Module):
    """Halves the image by a strided convolution."""

    def __init__(self, channels):
        super().__init__()
        self.op = conv3(channels, channels, stride=2)

    def forward(self, x, emb):
        return self.op(x)


class Up(nn.Module):
    """Doubles the image by nearest up-sampling and a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv = conv3(channels, channels)

    def forward(self, x, emb):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResBlock(nn.Module):
    """Residual block conditioned on the embedding; `resample` is None, "down" or "up"."""

    def __init__(self, channels, out_channels, emb_channels, scale_shift, resample=None):
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), conv3(channels, out_channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels * (2 if scale_shift else 1)))
        # The identity stands where the public code has dropout, which is off in every configuration here.
        self.out_layers = nn.Sequential(
            group_norm(out_channels), nn.SiLU(), nn.Identity(), conv3(out_channels, out_channels)
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def _resample(self, x):
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x

    def forward(self, x, emb):
        norm, act, conv = self.in_layers
        h = conv(self._resample(act(norm(x))))
        x = self._resample(x)
        emb_out = self.emb_layers(emb)[:, :, None, None]
        norm, act, _, conv = self.out_layers
        if self.scale_shift:
            scale, shift = emb_out.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb_out)
        return self.skip_connection(x) + conv(act(h))


class AttentionBlock(nn.Module):
    """Self-attention over positions. `new_order` splits q, k, v before the heads, otherwise the heads come first."""

    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, channels * 3, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, emb):
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height * width)
        qkv = self.qkv(self.norm(x))
        if self.new_order:
            qkv = qkv.reshape(batch, 3, self.heads, channels // self.heads, -1).permute(1, 0, 2, 4, 3)
        else:
            qkv = qkv.reshape(batch, self.heads, 3, channels // self.heads, -1).permute(2, 0, 1, 4, 3)
        # Contiguous, since the fused kernel is chosen only then; it was the fastest of three ways, einsum included.
        q, k, v = qkv.contiguous().unbind(0)
        h = F.scaled_dot_product_attention(q, k, v)
        h = h.transpose(2, 3).reshape(batch, channels, -1)
        return (x + self.proj_out(h)).reshape(batch, channels, height, width)


class EmbedSequential(nn.Sequential):
    """Passes the embedding on to every block; a plain convolution takes none."""

    def forward(self, x, emb):
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
        return x


class UNet(nn.Module):
    """`config` is the `unet` object of a model's configuration; its keys are those of the golden files.

    forward: x [N, inChannels, H, W], t [N] steps, y [N] labels when numClasses -> [N, outChannels, H, W].
    With `feature_channels`, the head `feat_rec1` on the last output block of stride 4 adds a second result
    [N, feature_channels, H/4, W/4].
    """

    def __init__(self, config, feature_channels=0):
        super().__init__()
        channels = config["modelChannels"]
        mult = config["channelMult"]
        blocks = config["numResBlocks"]
        attention = {config["imageSize"] // r for r in config.get("attentionResolutions", [])}
        scale_shift = config.get("useScaleShiftNorm", False)
        updown = config.get("resblockUpdown", False)
        emb_channels = channels * 4
        self.channels = channels

        self.time_embed = nn.Sequential(
            nn.Linear(channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if config.get("numClasses"):
            self.label_emb = nn.Embedding(config["numClasses"], emb_channels)

        def res_block(channels_in, channels_out, resample=None):
            return ResBlock(channels_in, channels_out, emb_channels, scale_shift, resample)

        def attention_block(width):
            per_head = config.get("numHeadChannels") or -1
            heads = config.get("numHeads", 1) if per_head == -1 else width // per_head
            return AttentionBlock(width, heads, config.get("useNewAttentionOrder", False))

        width = mult[0] * channels
        self.input_blocks = nn.ModuleList([EmbedSequential(conv3(config["inChannels"], width))])
        skips = [width]
        rate = 1
        for level, m in enumerate(mult):
            for _ in range(blocks):
                layers = [res_block(width, m * channels)]
                width = m * channels
                if rate in attention:
                    layers.append(attention_block(width))
                self.input_blocks.append(EmbedSequential(*layers))
                skips.append(width)
            if level != len(mult) - 1:
                self.input_blocks.append(EmbedSequential(res_block(width, width, "down") if updown else Down(width)))
                skips.append(width)
                rate *= 2

        self.middle_block = EmbedSequential(res_block(width, width), attention_block(width), res_block(width, width))

        self.output_blocks = nn.ModuleList()
        self.feature_block = -1
        for level, m in reversed(list(enumerate(mult))):
            for i in range(blocks + 1):
                layers = [res_block(width + skips.pop(), m * channels)]
                width = m * channels
                if rate in attention:
                    layers.append(attention_block(width))
                if level and i == blocks:
                    layers.append(res_block(width, width, "up") if updown else Up(width))
                    rate //= 2
                self.output_blocks.append(EmbedSequential(*layers))
                if rate == 4:
                    self.feature_block, feature_width = len(self.output_blocks) - 1, width
        self.out = nn.Sequential(group_norm(width), nn.SiLU(), conv3(width, config["outChannels"]))
        if feature_channels:
            self.feat_rec1 = nn.Sequential(
                group_norm(feature_width), nn.SiLU(), nn.Conv2d(feature_width, feature_channels, 1)
            )

    def forward(self, x, t, y=None):
        emb = self.time_embed(timestep_embedding(t, self.channels).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        features = None
        for i, block in enumerate(self.output_blocks):
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
            if i == self.feature_block and hasattr(self, "feat_rec1"):
                features = self.feat_rec1(x)
        out = self.out(x)
        return out if features is None else (out, features)


if __name__ == "__main__":
    import sys

    import check_golden

    sys.exit(check_golden.main())

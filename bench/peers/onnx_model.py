"""The scoring pass as one ONNX graph: noising, UNet, KL map, its normalisation, mean over the scales, image score.

Written op by op instead of with `torch.onnx.export`, so that the peer needs no PyTorch, and so that onnxruntime gets
the graph it runs best: every shape is fixed; the time embedding and what follows from it are constants, since a scoring
model knows its steps; a norm's affine part and the block's scale and shift are one multiplication and one addition.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from schedule import Schedule

OPSET = 20
IR_VERSION = 10
GROUPS = 32
EXPECTED = {"useScaleShiftNorm": True, "resblockUpdown": True, "useNewAttentionOrder": False, "numClasses": None}


def silu(a):
    return a / (1 + np.exp(-a))


def timestep_embedding(t, channels):
    half = channels // 2
    angles = np.asarray(t, np.float64)[:, None] * np.exp(-math.log(10000.0) * np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


class Graph:
    """Nodes and constants in the order in which they are added; values are known by their names."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, array, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype), name))
        return name

    def add(self, op, *inputs, outputs=None, **attributes):
        """Inputs that are arrays or numbers become constants. Returns the output's name, or a list when several."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        outputs = outputs or [f"v{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, names, outputs, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def reshape(self, x, shape):
        return self.add("Reshape", x, self.constant(shape, np.int64))

    def silu(self, x):
        return self.add("Mul", x, self.add("Sigmoid", x))


class UNet:
    """Appends the network to `graph`; `weight(name, shape)` returns a parameter, `t` are the steps of the rows."""

    def __init__(self, graph, config, weight, t):
        for key, value in EXPECTED.items():
            if config.get(key) != value:
                raise ValueError(f"{key}: expected {value}, got {config.get(key)}")
        self.graph, self.config, self.weight, self.rows = graph, config, weight, len(t)
        channels = config["modelChannels"]
        emb = timestep_embedding(t, channels)
        emb = silu(self.dense("time_embed.0", emb, channels * 4))
        self.emb = silu(self.dense("time_embed.2", emb, channels * 4))

    def dense(self, name, a, width):
        return a @ self.weight(f"{name}.weight", (width, a.shape[1])).T + self.weight(f"{name}.bias", (width,))

    def conv(self, name, x, width, out_width, kernel=3, weight_shape=None):
        shape = (out_width, width, kernel, kernel)
        weight = self.weight(f"{name}.weight", weight_shape or shape).reshape(shape)
        bias = self.weight(f"{name}.bias", (out_width,))
        return self.graph.add("Conv", x, weight, bias, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)

    def norm(self, name, x, width, size, scale_shift=None):
        """`scale_shift`: per row and channel, after the norm's own gain and bias."""
        gain, bias = self.weight(f"{name}.weight", (width,)), self.weight(f"{name}.bias", (width,))
        gain, bias = gain[None], bias[None]
        if scale_shift is not None:
            scale, shift = np.split(scale_shift, 2, axis=1)
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
        groups = self.graph.reshape(x, [self.rows, GROUPS, -1])
        ones = [np.ones(GROUPS), np.zeros(GROUPS)]
        normed = self.graph.add("InstanceNormalization", groups, *ones, epsilon=1e-5)
        normed = self.graph.reshape(normed, [self.rows, width, size, size])
        scaled = self.graph.add("Mul", normed, gain[:, :, None, None])
        return self.graph.add("Add", scaled, bias[:, :, None, None])

    def resample(self, x, direction):
        if direction == "down":
            return self.graph.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        if direction == "up":
            attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            return self.graph.add("Resize", x, "", np.array([1, 1, 2, 2]), **attributes)
        return x

    def block(self, name, x, width, out_width, size, direction=None):
        out_size = {None: size, "down": size // 2, "up": size * 2}[direction]
        h = self.graph.silu(self.norm(f"{name}.in_layers.0", x, width, size))
        h = self.conv(f"{name}.in_layers.2", self.resample(h, direction), width, out_width)
        scale_shift = self.dense(f"{name}.emb_layers.1", self.emb, 2 * out_width)
        h = self.graph.silu(self.norm(f"{name}.out_layers.0", h, out_width, out_size, scale_shift))
        h = self.conv(f"{name}.out_layers.3", h, out_width, out_width)
        x = self.resample(x, direction)
        if width != out_width:
            x = self.conv(f"{name}.skip_connection", x, width, out_width, 1)
        return self.graph.add("Add", x, h)

    def attention(self, name, x, width, size):
        graph, positions = self.graph, size * size
        depth = self.config["numHeadChannels"]
        heads = width // depth
        h = self.norm(f"{name}.norm", x, width, size)
        qkv = self.conv(f"{name}.qkv", h, width, 3 * width, 1, (3 * width, width, 1))
        qkv = graph.reshape(qkv, [self.rows, heads, 3 * depth, positions])
        parts = [f"{name}.{part}" for part in "qkv"]
        q, k, v = graph.add("Split", qkv, outputs=parts, axis=2, num_outputs=3)
        # onnxruntime makes the transpositions and the factor part of its matrix products.
        scores = graph.add("MatMul", graph.add("Transpose", q, perm=[0, 1, 3, 2]), k)
        attention = graph.add("Softmax", graph.add("Mul", scores, depth**-0.5), axis=-1)
        h = graph.add("MatMul", v, graph.add("Transpose", attention, perm=[0, 1, 3, 2]))
        h = graph.reshape(h, [self.rows, width, size, size])
        return graph.add("Add", x, self.conv(f"{name}.proj_out", h, width, width, 1, (width, width, 1)))

    def build(self, x):
        config, channels, size = self.config, self.config["modelChannels"], self.config["imageSize"]
        mult, attention = config["channelMult"], config["attentionResolutions"]
        width = mult[0] * channels
        x = self.conv("input_blocks.0.0", x, config["inChannels"], width)
        skips, index = [(x, width)], 1
        for level, m in enumerate(mult):
            for _ in range(config["numResBlocks"]):
                x = self.block(f"input_blocks.{index}.0", x, width, m * channels, size)
                width = m * channels
                if size in attention:
                    x = self.attention(f"input_blocks.{index}.1", x, width, size)
                skips, index = [*skips, (x, width)], index + 1
            if level != len(mult) - 1:
                x = self.block(f"input_blocks.{index}.0", x, width, width, size, "down")
                skips, index, size = [*skips, (x, width)], index + 1, size // 2

        x = self.block("middle_block.0", x, width, width, size)
        x = self.attention("middle_block.1", x, width, size)
        x = self.block("middle_block.2", x, width, width, size)

        index = 0
        for level, m in reversed(list(enumerate(mult))):
            for i in range(config["numResBlocks"] + 1):
                skip, skip_width = skips.pop()
                name, layer = f"output_blocks.{index}", 1
                x = self.graph.add("Concat", x, skip, axis=1)
                x = self.block(f"{name}.0", x, width + skip_width, m * channels, size)
                width = m * channels
                if size in attention:
                    x, layer = self.attention(f"{name}.1", x, width, size), 2
                if level and i == config["numResBlocks"]:
                    x, size = self.block(f"{name}.{layer}", x, width, width, size, "up"), size * 2
                index += 1
        x = self.graph.silu(self.norm("out.0", x, width, size))
        return self.conv("out.2", x, width, config["outChannels"])


def score_graph(config, weight, images, fresh_noise):
    """`config` is a model's configuration; `weight` is as in `UNet`. Shapes are those of README.md.

    Input `x0`, outputs `maps` and `scores`. With `fresh_noise` the graph draws its noise, else that is the input
    `noise`, and `out` and `kl` are outputs as well.
    """
    graph, unet, score = Graph(), config["unet"], config["score"]
    schedule, steps = Schedule(config["diffusion"]["steps"]), score["scales"]
    scales, size, channels = len(steps), unet["imageSize"], unet["inChannels"]
    noise_shape, rows = [scales, images, channels, size, size], [scales * images, channels, size, size]

    def of_scale(values):
        return np.reshape(values, (scales, 1, 1, 1, 1))

    def table(name):
        return of_scale(schedule.tables[name][steps])

    def difference(a, b):
        return graph.add("Sub", a, b)

    def product(a, b):
        return graph.add("Mul", a, b)

    def total(a, b):
        return graph.add("Add", a, b)

    noise = graph.add("RandomNormal", shape=noise_shape) if fresh_noise else "noise"
    x_t = total(product("x0", table("signal")), product(noise, table("noise")))
    network = UNet(graph, unet, weight, np.repeat(steps, images))
    out = network.build(graph.reshape(x_t, rows))
    out = graph.add("Identity", out, outputs=["out"]) if not fresh_noise else out

    both = graph.reshape(out, [scales, images, 2 * channels, size, size])
    eps, v = graph.add("Split", both, outputs=["eps", "v"], axis=2, num_outputs=2)
    # The KL of the posteriors, whose means differ by coef1 (x0 - xhat0), whose log variances by `wider`.
    xhat0 = difference(product(x_t, table("recip")), product(eps, table("recip_m1")))
    xhat0 = graph.add("Clip", xhat0, -1.0, 1.0)
    gap = product(difference("x0", xhat0), table("coef1") * np.exp(-0.5 * table("log_posterior")))
    half_range = 0.5 * (table("log_beta") - table("log_posterior"))
    wider = total(product(v, half_range), half_range)
    ratio = graph.add("Exp", graph.add("Neg", wider))
    kl = total(difference(wider, 1.0), product(ratio, total(product(gap, gap), 1.0)))
    kl = graph.add("ReduceMean", kl, graph.constant([2], np.int64), keepdims=0)
    kl = graph.add("Mul", kl, 0.5, outputs=["kl"])

    calibration = config["calibration"]
    normed = difference(kl, np.reshape(calibration["pixelMean"], (scales, 1, 1, 1)))
    normed = product(normed, 1 / np.reshape(calibration["pixelStd"], (scales, 1, 1, 1)))
    maps = graph.add("ReduceMean", normed, graph.constant([0], np.int64), outputs=["maps"], keepdims=0)
    count = graph.constant([score["topPixels"]["count"]], np.int64)
    top, _ = graph.add("TopK", graph.reshape(maps, [images, -1]), count, outputs=["top", "places"], axis=1, sorted=0)
    graph.add("ReduceMean", top, graph.constant([1], np.int64), outputs=["scores"], keepdims=0)

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [value("x0", [images, channels, size, size])]
    outputs = [value("maps", [images, size, size]), value("scores", [images])]
    if not fresh_noise:
        inputs.append(value("noise", noise_shape))
        outputs += [value("out", [rows[0], 2 * channels, size, size]), value("kl", [scales, images, size, size])]
    onnx_graph = helper.make_graph(graph.nodes, "score", inputs, outputs, graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(onnx_graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="ddad-native bench")


def save_score_graph(path, *arguments):
    model = score_graph(*arguments)
    onnx.checker.check_model(model)
    onnx.save(model, path)

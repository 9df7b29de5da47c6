"""The Inception network of the Frechet Inception distance (FID) in evaluation mode, as a Flax module.

It is Inception v3 (Szegedy et al. 2016) as TensorFlow's graph of 2015-12-05 has it, on which FID, KID and Inception
scores are defined. It differs from the published v3: average pooling leaves the padding out of its count, and the last
block has max pooling. Each convolution has its batch norm folded into it, and the 1x1 convolutions of a block that read
the same images are one product.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SIZE, CLASSES = 299, 1008
EPSILON = 0.001  # Of the batch norms.
HEADS = "heads"  # The name of a block's joined 1x1 convolutions.


# The layers, under their published names.


class _Layer(NamedTuple):
    """A convolution with batch norm and ReLU; blocks pad theirs so that the size stays, unless they halve it."""

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class _Block(NamedTuple):
    """Branches whose outputs are concatenated.

    Attributes:
      branches: `{name: its convolutions}`, as texts such as "64:1x1 96:3x3"; "384:1x3|384:3x1" are two that read the
        same images. Those of the branch "branch_pool" read pooled images.
      pool: "average" or "max"; or "halve", for a block whose last convolutions have stride 2, and which concatenates
        maxima of its input.
    """

    branches: dict[str, str]
    pool: str = "average"

    def stages(self, branch: str) -> list[dict[str, _Layer]]:
        """The convolutions of a branch, by name; those of one stage read the same images."""
        texts = self.branches[branch].split()
        halve = {"stride": 2, "padding": "VALID"} if self.pool == "halve" else {}
        result = []
        for number, text in enumerate(texts, 1):
            options = halve if number == len(texts) else {}
            layers = [
                _Layer(int(features), tuple(map(int, size.split("x"))), **options)
                for features, size in (layer.split(":") for layer in text.split("|"))
            ]
            suffixes = [f"_{number}"] if len(texts) > 1 else [""]
            if len(layers) > 1:
                suffixes = [f"_{number}{letter}" for letter in "ab"]
            result.append({f"{branch}{suffix}": layer for suffix, layer in zip(suffixes, layers, strict=True)})
        return result

    @property
    def heads(self) -> dict[str, _Layer]:
        """The 1x1 convolutions that read the input. An average of such outputs is the output of the averages."""
        firsts = {branch: self.stages(branch)[0] for branch in self.branches}
        return {
            name: layer
            for branch, stage in firsts.items()
            for name, layer in stage.items()
            if layer.size == (1, 1) and (branch != "branch_pool" or self.pool == "average")
        }


def _block_a(pool):
    branches = {"branch1x1": "64:1x1", "branch5x5": "48:1x1 64:5x5", "branch3x3dbl": "64:1x1 96:3x3 96:3x3"}
    return _Block({**branches, "branch_pool": f"{pool}:1x1"})


def _block_c(n):
    seven, double = f"{n}:1x1 {n}:1x7 192:7x1", f"{n}:1x1 {n}:7x1 {n}:1x7 {n}:7x1 192:1x7"
    return _Block({"branch1x1": "192:1x1", "branch7x7": seven, "branch7x7dbl": double, "branch_pool": "192:1x1"})


def _block_e(pool):
    three, double = "384:1x1 384:1x3|384:3x1", "448:1x1 384:3x3 384:1x3|384:3x1"
    branches = {"branch1x1": "320:1x1", "branch3x3": three, "branch3x3dbl": double, "branch_pool": "192:1x1"}
    return _Block(branches, pool)


STEM = {
    "Conv2d_1a_3x3": _Layer(32, (3, 3), 2, "VALID"),
    "Conv2d_2a_3x3": _Layer(32, (3, 3), 1, "VALID"),
    "Conv2d_2b_3x3": _Layer(64, (3, 3)),
    "Conv2d_3b_1x1": _Layer(80),
    "Conv2d_4a_3x3": _Layer(192, (3, 3), 1, "VALID"),
}
BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": _Block({"branch3x3": "384:3x3", "branch3x3dbl": "64:1x1 96:3x3 96:3x3"}, "halve"),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": _Block({"branch3x3": "192:1x1 320:3x3", "branch7x7x3": "192:1x1 192:1x7 192:7x1 192:3x3"}, "halve"),
    "Mixed_7b": _block_e("average"),
    "Mixed_7c": _block_e("max"),
}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in the published file, but for the number of batches that each batch norm has seen."""

    def convolutions() -> Iterator[tuple[str, _Layer, int]]:
        channels = 3
        for name, layer in STEM.items():
            yield name, layer, channels
            channels = layer.features
        for name, block in BLOCKS.items():
            outputs = channels if block.pool == "halve" else 0
            for branch in block.branches:
                inputs = channels
                for stage in block.stages(branch):
                    yield from ((f"{name}.{part}", layer, inputs) for part, layer in stage.items())
                    inputs = sum(layer.features for layer in stage.values())
                outputs += inputs
            channels = outputs

    shapes = {}
    for name, layer, inputs in convolutions():
        shapes[f"{name}.conv.weight"] = (layer.features, inputs, *layer.size)
        shapes |= {f"{name}.bn.{part}": (layer.features,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"fc.weight": (CLASSES, 2048), "fc.bias": (CLASSES,)}


def params_of(tensors: Mapping[str, np.ndarray]) -> dict:
    """The parameters of `Inception` from tensors of `published_shapes`: batch norms are folded, 1x1 kernels joined."""

    def folded(name):
        scale, bias, mean, variance = (
            tensors[f"{name}.bn.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / np.sqrt(variance + EPSILON)
        kernel = tensors[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * scale
        return {"kernel": kernel.astype(np.float32), "bias": (bias - mean * scale).astype(np.float32)}

    params = {name: folded(name) for name in STEM}
    for name, block in BLOCKS.items():
        layers = [part for branch in block.branches for stage in block.stages(branch) for part in stage]
        params[name] = {part: folded(f"{name}.{part}") for part in layers}
        heads = [params[name].pop(part) for part in block.heads]
        params[name][HEADS] = {key: np.concatenate([head[key] for head in heads], -1) for key in ("kernel", "bias")}
    return params | {"fc_kernel": np.ascontiguousarray(tensors["fc.weight"].T), "fc_bias": tensors["fc.bias"]}


# The network.


class _Convolution(nn.Module):
    """A convolution and its bias, into which the batch norm is folded, with ReLU if asked."""

    layer: _Layer
    relu: bool = True
    precision: Any = lax.Precision.HIGHEST

    @nn.compact
    def __call__(self, x):
        zeros = nn.initializers.zeros
        kernel = self.param("kernel", zeros, (*self.layer.size, x.shape[-1], self.layer.features))
        bias = self.param("bias", zeros, (self.layer.features,))
        y = _convolved(x, kernel, self.layer.stride, self.layer.padding, self.precision) + bias
        return nn.relu(y) if self.relu else y


def _convolved(x, kernel, stride, padding, precision):
    """`[batch, h, w, in]` and `[kh, kw, in, out]` -> `[batch, h', w', out]`."""

    def plain(x, kernel, stride=stride, padding=padding):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=dimensions, precision=precision
        )

    def as_product(x, kernel):
        rows, columns = kernel.shape[:2]
        height, width = ((n - taps) // stride + 1 for n, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True))
        taps = [
            x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            for i in range(rows)
            for j in range(columns)
        ]
        return jnp.concatenate(taps, -1) @ kernel.reshape(-1, kernel.shape[-1])

    def cropped(x, kernel):
        i, j = (taps // 2 for taps in kernel.shape[:2])
        return plain(x, kernel, padding="SAME")[:, i : x.shape[1] - i, j : x.shape[2] - j]

    if kernel.shape[:2] == (1, 1):
        return jnp.matmul(x, kernel[0, 0], precision=precision)
    if padding == "SAME":
        return plain(x, kernel)
    # XLA's CPU back end runs convolutions without padding, or with strides, at a fraction of the rate of the others.
    return lax.platform_dependent(x, kernel, cpu=as_product if stride > 1 else cropped, default=plain)


def _windows(x, combine, stride):
    """`combine` over windows of 3x3 positions of `x: [batch, h, w, c]`, one axis after the other.

    XLA's CPU back end runs `reduce_window` at a fraction of the rate of sums and maxima of slices.
    """
    for axis in (1, 2):
        last = x.shape[axis] - 2
        x = functools.reduce(combine, (lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(3)))
    return x


def max_pool(x, stride: int = 2, padding: int = 0):
    """Maxima over 3x3 positions of `x: [batch, h, w, c]`."""
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return _windows(jnp.pad(x, pads, constant_values=-jnp.inf), jnp.maximum, stride)


def average_pool(x):
    """Means over the 3x3 positions around each position of `x: [batch, h, w, c]`, of those that are in the image."""

    def counts(n):
        return np.minimum(np.arange(n) + 2, n) - np.maximum(np.arange(n) - 1, 0)

    share = 1 / np.outer(*map(counts, x.shape[1:3])).astype(np.float32)
    return _windows(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), jnp.add, 1) * share[..., None]


class _Mixed(nn.Module):
    """The block of `BLOCKS` that has the module's name."""

    precision: Any = lax.Precision.HIGHEST

    @nn.compact
    def __call__(self, x):
        block = BLOCKS[self.name]
        convolution = functools.partial(_Convolution, precision=self.precision)
        heads = block.heads
        widths = [layer.features for layer in heads.values()]
        merged = convolution(_Layer(sum(widths)), relu=False, name=HEADS)(x)
        parts = dict(zip(heads, jnp.split(merged, list(itertools.accumulate(widths))[:-1], axis=-1), strict=True))
        outputs = []
        for branch in block.branches:
            images = [x if branch != "branch_pool" else max_pool(x, 1, 1)]
            for stage in block.stages(branch):
                (read,) = images
                images = []
                for name, layer in stage.items():
                    if name not in heads:
                        images.append(convolution(layer, name=name)(read))
                    else:
                        images.append(nn.relu(average_pool(parts[name]) if branch == "branch_pool" else parts[name]))
            outputs += images
        if block.pool == "halve":
            outputs.append(max_pool(x))
        return jnp.concatenate(outputs, axis=-1)


class Inception(nn.Module):
    """The network in evaluation mode.

    Attributes:
      precision: of products on accelerators. By default they are float32, as on CPUs; FID moves with faster ones.
    """

    precision: Any = lax.Precision.HIGHEST

    @nn.compact
    def __call__(self, x) -> dict[str, jax.Array]:
        """Takes `x: [batch, 299, 299, 3]` in [-1, 1] to features, each `[batch, n]`.

        Returns:
          "64", "192", "768", "2048": the means over all positions after the first and second max pooling, the blocks 6
          and the blocks 7; "logits": of the 1008 classes; "logits_unbiased": without their biases, from which Inception
          scores are computed.
        """
        taps = {}

        def tap(x):
            taps[str(x.shape[-1])] = x.mean(axis=(1, 2))

        for name, layer in STEM.items():
            x = _Convolution(layer, precision=self.precision, name=name)(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = max_pool(x)
                tap(x)
        for name in BLOCKS:
            x = _Mixed(self.precision, name=name)(x)
            if name in ("Mixed_6e", "Mixed_7c"):
                tap(x)
        shapes = {"fc_kernel": (x.shape[-1], CLASSES), "fc_bias": (CLASSES,)}
        head = {name: self.param(name, nn.initializers.zeros, shape) for name, shape in shapes.items()}
        return taps | logits_of(head, taps["2048"], self.precision)


def logits_of(params, features, precision=Inception.precision) -> dict[str, jax.Array]:
    """The last layer of `Inception` with its parameters: "logits" and "logits_unbiased" of the 2048 features."""
    unbiased = jnp.matmul(features, params["fc_kernel"], precision=precision)
    return {"logits_unbiased": unbiased, "logits": unbiased + params["fc_bias"]}

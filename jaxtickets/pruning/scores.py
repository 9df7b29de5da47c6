"""Scores of weights: how much each prunable weight matters. The lowest are pruned first.

Each is a function `(params, masks, ...) -> scores` over pytrees of any kind, with `None` on leaves that are not
prunable; of a run they are `{component: {layer: ...}}`. What it needs beside parameters and masks it names as an
argument:

  start: the parameters at the rewind point.
  movement: the sums over training of -gradient * weight, like the parameters.
  seed: a whole number.
  initial: the parameters of the initialisation.
  batch_stats: the batch statistics.
  axes: the input and output axes of kernels, a tree like the parameters (`jaxtickets.pruning.axes`).
  losses: `{names of components: loss}`; `loss(params, batch) -> scalar` takes the parameters of these components. A GAN
    has one per player: the discriminator's weights are scored by the discriminator's loss, with its penalty
    if it has one, the generator's by the generator's loss; encoder, decoder and codebook share theirs. Each component
    that has prunable weights needs one. One loss of all parameters may be given by itself.
  batches: what the losses are evaluated on and averaged over, a sequence of pytrees.
  flows: `{component: flow}`, or one of all parameters by itself; see `synflow`.

A score of channels that needs no more than `batch_stats`, `axes`, `initial`, `losses` and `batches` is also called once
before the run, with stand-ins of the right shapes and batches that are None, to see which channels it is for.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxtickets import checks, pytrees
from jaxtickets import masks as mask_lib
from jaxtickets.fields import Field, above, refuse, whole
from jaxtickets.pruning import channels
from jaxtickets.pruning.components import check_all_scored, check_losses
from jaxtickets.pruning.score import Score
from jaxtickets.pruning.structures import parse_structure
from jaxtickets.pytrees import is_hole


def _prunable(function, masks, params, **others):
    """`function` of the leaves of `params` and `others` where a leaf is prunable, `None` elsewhere.

    Raises:
      UserError: masks or others are not built like the parameters.
    """
    pytrees.check_fit(masks, params, exactly=False)
    for name, other in others.items():
        pytrees.check_shapes(other, params, name, masks=masks)

    def score(leaf, mask, *rest):
        return mask if is_hole(mask) else function(leaf, *rest)

    return pytrees.map_with_holes(score, params, masks, *others.values())


def magnitude(params, masks) -> Any:
    """|w| (Han et al. 2015; Frankle, Carbin 2019)."""
    return _prunable(abs, masks, params)


def magnitude_change(params, masks, start) -> Any:
    """|w - w_k|: how far a weight has moved since the rewind point (Zhou et al. 2019, section 4, "movement")."""
    return _prunable(lambda leaf, before: abs(leaf - before), masks, params, start=start)


def movement(params, masks, movement) -> Any:
    """The sum over training of -dL/dw * w: weights that move away from zero stay (Sanh et al. 2020, equation 4)."""
    return _prunable(lambda _, moved: moved, masks, params, movement=movement)


def random(params, masks, seed) -> Any:
    """Uniform random numbers, the same for the same seed and path: the simplest control."""
    seed = checks.check_count(seed, "seed", below=1 << 64)
    pytrees.check_fit(masks, params, exactly=False)

    def score(path, leaf, mask):
        return mask if is_hole(mask) else _uniform(path, leaf.shape, seed)

    return jax.tree_util.tree_map_with_path(score, params, masks, is_leaf=is_hole)


def random_channels(params, axis_names, seed):
    """Uniform random numbers for each channel, the same for the same seed and channel name."""
    everything = jax.tree.map(lambda size: np.ones(size, bool), channels.groups(params, axis_names))
    return random(everything, everything, seed)


def _uniform(path, shape, seed):
    key = [seed, zlib.crc32(mask_lib.path_name(path).encode())]
    return np.random.Generator(np.random.Philox(key=key)).random(shape, np.float32)


@partial(jax.jit, static_argnames="loss")
def _gradient(loss, params, batch):
    return jax.grad(loss)(params, batch)


@partial(jax.jit, static_argnames="loss")
def _hessian_product(loss, params, tangent, batch):
    # Forward over reverse: one more pass, and no Hessian.
    return jax.jvp(lambda params: jax.grad(loss)(params, batch), (params,), (tangent,))[1]


def _mean(function, batches):
    total = None
    for batch in batches:
        value = function(batch)
        total = value if total is None else jax.tree.map(jax.numpy.add, total, value)
    return jax.tree.map(lambda leaf: leaf / len(batches), total)


@dataclass(frozen=True)  # Equal ones are one program.
class _OfAll:
    """A loss of all parameters as that of the one component ""."""

    loss: Callable

    def __call__(self, params, batch):
        return self.loss(params[""], batch)


def _of_each_loss(score, params, masks, losses, name="losses"):
    """`{component: score}`: `score(loss, own effective weights, own masks)` for each loss that has a prunable weight.

    Each loss has a unit of its own, so the scores of its components are divided by the sum of their absolute values
    (Lee, Ajanthan, Torr 2019, equation 6), which makes them comparable over losses and changes no order within one.
    """
    check_losses(losses, params, name, "params", "batch")
    effective = mask_lib.apply(params, masks)
    check_all_scored(losses, masks, name)
    if callable(losses):
        return _of_each_loss(score, {"": params}, {"": masks}, {("",): _OfAll(losses)})[""]
    scores = {name: jax.tree.map(lambda _: None, tree) for name, tree in params.items()}
    for components, loss in losses.items():
        own, own_masks = ({name: tree[name] for name in components} for tree in (effective, masks))
        if not jax.tree.leaves(own_masks):
            continue
        raw = jax.device_get(score(loss, own, own_masks))
        total = sum(float(np.abs(leaf).sum(dtype=np.float64)) for leaf in jax.tree.leaves(raw))
        scores |= jax.tree.map(lambda leaf, total=total: leaf / (total or 1.0), raw)
    return scores


def gradients(params, masks, losses, batches) -> Any:
    """dL/dw at the effective weights, those of pruned weights too, averaged over the batches: RigL's growth criterion.

    Each component's gradient is that of its own loss (Evci et al. 2020, section 3).
    """
    check_losses(losses, params, "losses", "params", "batch")
    checks.check_batches(batches)
    effective = mask_lib.apply(params, masks)
    check_all_scored(losses, masks, "losses")
    if callable(losses):
        return gradients({"": params}, {"": masks}, {("",): _OfAll(losses)}, batches)[""]
    result = dict(params)
    for components, loss in losses.items():
        if jax.tree.leaves([masks[name] for name in components]):
            result |= _mean(partial(_gradient, loss, {name: effective[name] for name in components}), batches)
    return jax.device_get(_prunable(lambda leaf: leaf, masks, result))


def snip(params, masks, losses, batches) -> Any:
    """|g * w|: how removing a weight changes the loss, to first order (Lee, Ajanthan, Torr 2019, equations 4 and 6).

    g is the mean gradient over the batches; the absolute value is taken of the mean.
    """

    checks.check_batches(batches)

    def score(loss, own, own_masks):
        mean = _mean(partial(_gradient, loss, own), batches)
        return _prunable(lambda leaf, gradient: abs(leaf * gradient), own_masks, own, gradient=mean)

    return _of_each_loss(score, params, masks, losses)


def grasp(params, masks, tempered_losses, batches) -> Any:
    """w * Hg: how much removing a weight weakens the gradient (Wang, Zhang, Grosse 2020, section 4).

    Their score is -w * Hg and its *highest* weights are removed (algorithm 1), so its negative ranks weights from the
    least to the most important, like every score here. H is the Hessian of the component's own loss with respect to the
    components of that loss alone, g their mean gradient; the product is the mean over the batches.

    tempered_losses: losses in which a discriminator's outputs are divided by a temperature, 200 as published, as the
      classifier's are in their code; a reconstruction error has no outputs to soften.
    """

    checks.check_batches(batches)

    def of_prunable(leaf, mask):
        """What can't be pruned, biases and scales, and what is pruned already are no variables of the score."""
        return leaf if is_hole(leaf) else 0 * leaf if is_hole(mask) else leaf * mask

    def score(loss, own, own_masks):
        gradient = _mean(partial(_gradient, loss, own), batches)
        gradient = pytrees.map_with_holes(of_prunable, gradient, own_masks)
        product = _mean(lambda batch: _hessian_product(loss, own, gradient, batch), batches)
        return _prunable(lambda leaf, change: leaf * change, own_masks, own, product=product)

    return _of_each_loss(score, params, masks, tempered_losses, "tempered_losses")


@partial(jax.jit, static_argnames="flow")
def _flow_gradient(flow, params):
    return jax.value_and_grad(flow)(params)


def synflow(params, masks, flows) -> Any:
    """|w| dR/d|w| / R, the synaptic flow through a weight (Tanaka et al. 2020, equation 2), without any data.

    R is the sum of what a component made linear gives for an input of ones, with the absolute value of every parameter.
    Over R, the scores of each layer of a chain sum to 1, whatever component it belongs to: the conservation that keeps
    layers from collapsing when pruning in many small steps (their algorithm 1; `Score.steps`).

    flows: `{component: flow}`; `flow(params) -> R` takes the component's parameters, already non-negative.
    """
    check_losses(flows, params, "flows", "params", of_many=False)
    pytrees.check_fit(masks, params, exactly=False)
    check_all_scored(flows, masks, "flows", of_many=False)
    if callable(flows):
        return synflow({"": params}, {"": masks}, {"": flows})[""]
    scores = {name: jax.tree.map(lambda _: None, tree) for name, tree in params.items()}
    for name, flow in flows.items():
        own = jax.tree.map(abs, mask_lib.apply(params[name], masks[name]))
        total, gradient = jax.device_get(_flow_gradient(flow, own))
        scores[name] = _prunable(
            lambda leaf, slope, total=total: leaf * slope / (total or 1.0), masks[name], own, gradient=gradient
        )
    return scores


BATCHES = Field(
    "prune.score_batches", 10, whole(1), "The number of batches over which the score's gradient is averaged."
)
TEMPERATURE = Field(
    "prune.temperature", 200.0, above(0), "What the outputs of a discriminator are divided by while weights are scored."
)


def _check_synflow(config):
    if parse_structure(config.prune.structure).kind == "n:m":
        refuse("prune.structure", config.prune.structure, "one that many small steps can lead to with synflow")


WEIGHT_SCORES = (
    Score("magnitude", magnitude, at_init=True),
    Score("magnitude_change", magnitude_change),
    Score("movement", movement),
    Score("random", random, random_channels, at_init=True),
    Score("snip", snip, mean_of_weights=True, at_init=True, fields=(BATCHES,)),
    Score("grasp", grasp, mean_of_weights=True, at_init=True, fields=(BATCHES, TEMPERATURE)),
    Score("synflow", synflow, mean_of_weights=True, at_init=True, steps=100, check=_check_synflow),
)

# Those of channels alone. Scales start alike, or as random numbers, so they say nothing of an untrained network.
CHANNEL_SCORES = (
    Score("gamma", channels=channels.gamma, wants="batch norm"),
    Score("gamma_taylor", channels=channels.gamma_taylor, at_init=True, wants="batch norm", fields=(BATCHES,)),
    Score("filter_l1", channels=channels.filter_l1, at_init=True),
    Score("filter_l2", channels=channels.filter_l2, at_init=True),
    Score("filter_change", channels=channels.filter_change),
)

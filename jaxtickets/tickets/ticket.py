"""Tickets as users hold them: masks, the rewind point and what was trained from it; and their files."""

import os
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import tensor_files
from jaxtickets.checks import check_count, place
from jaxtickets.errors import UserError
from jaxtickets.fields import is_finite
from jaxtickets.progress import say
from jaxtickets.tickets import content as content_lib
from jaxtickets.tickets import given
from jaxtickets.train import TrainState, rewind
from jaxtickets.trained import Trained

UNTRAINED = (
    "holds the rewind point of the ticket and no trained weights, because of config.trained_in_ticket=False, an older "
    "version or weights that were not kept; allowed is a ticket file with them, or the --workdir of a run"
)


@flax.struct.dataclass
class Ticket:
    """A ticket.

    Attributes:
      masks: the masks of the ticket.
      params, batch_stats: at the rewind point; pruned weights are zero.
      trained: what was trained from it (`trained.Trained`), or None. `network` is {} for a network without a config.
      metadata: JSON values; of a run's ticket its `config`, its `verdict`, and where it comes from.
      network: how the network is built, as in `trained.Trained`; None where the file does not tell.
      axes: the names of the axes by the path of the parameter, where there are any.
      path: of the file.
      has_moments: whether the file has the optimiser's moments at the rewind point.
    """

    masks: Any
    params: Any
    batch_stats: Any
    trained: Trained | None
    metadata: dict = flax.struct.field(pytree_node=False, default_factory=dict)
    network: dict | None = flax.struct.field(pytree_node=False, default=None)
    axes: dict = flax.struct.field(pytree_node=False, default_factory=dict)
    path: Path | None = flax.struct.field(pytree_node=False, default=None)
    has_moments: bool = flax.struct.field(pytree_node=False, default=False)

    def __repr__(self) -> str:
        """The file, the sparsity, the network, whether it is trained, and the metric: no arrays."""
        network = (self.trained.network if self.trained else None) or self.network
        verdict = self.metadata.get("verdict")
        verdict = verdict if isinstance(verdict, dict) else {}
        counts = mask_lib.counts(self.masks)
        told = [
            f"{self.sparsity:.2%} of {counts.weights:,} prunable weights pruned",
            network["model"]["name"] if network else "own network",
            "trained weights" if self.trained else "no trained weights",
            *([f"{verdict.get('metric')} {value:.4g}"] if is_finite(value := verdict.get("value")) else []),
        ]
        return f"Ticket({str(self.path)!r}: {', '.join(told)})"

    @property
    def sparsity(self) -> float:
        """The share of prunable weights that are pruned, in [0, 1)."""
        return mask_lib.sparsity(self.masks)

    def need_trained(self) -> Trained:
        """What was trained from the ticket.

        Raises:
          UserError: the file holds the rewind point alone.
        """
        if self.trained is None:
            raise UserError(f"{self.path}: {UNTRAINED}")
        return self.trained

    @cached_property
    def opened(self):
        """The network as `opening.Opened`: the trained one; without trained weights that of the rewind point.

        Raises:
          UserError: the file does not tell the network.
        """
        from jaxtickets import opening  # It opens workdirs as well as tickets, and stands above both.

        found = opening.open_loaded(self)
        if self.trained is None:
            say(f"{self.path}: has no trained weights; the network is that of the rewind point")
        return found

    def sample(self, n: int = 64, seed: int | None = None, labels=None) -> np.ndarray:
        """Samples `[n, height, width, channels]`, float32 in [-1, 1].

        The program is compiled once for each size of a batch, which is `n` or `config.eval.batch_size`, whichever is
        smaller, and kept with the ticket.

        Args:
          n: the number of samples, at least 1.
          seed: of the samples, from 0 to 2^32 - 1; None: that of the run, so that sample k is sample k of its metrics.
          labels: the class of all samples, or those of consecutive ones, which are repeated; None: as in the metrics.

        Raises:
          UserError: an argument is not what it can be, the network can't be sampled, or has no such classes.
        """
        from jaxtickets import sample

        check_count(n, "n", 1)
        if seed is not None:
            check_count(seed, "seed", below=1 << 32)
        opened = self.opened
        if not opened.objective.sample:
            raise UserError(f"{self.path}: config.objective.name={opened.config.objective.name!r} can't be sampled")
        seed = opened.config.seed if seed is None else seed
        labels = sample.labels_of(labels, opened.objective, "labels")
        return np.concatenate(list(sample.samples(opened, seed, n, labels, self._sampler)))

    @cached_property
    def _sampler(self):
        """The program of `sample`."""
        from jaxtickets import sample

        return sample.sampler(self.opened.objective, convert=lambda images: images)

    def reconstruct(self, images) -> np.ndarray:
        """Reconstructions `[batch, height, width, channels]`, float32 in [-1, 1].

        Args:
          images: `[batch, height, width, channels]`, float in [-1, 1], or uint8 in [0, 255].

        Raises:
          UserError: the network reconstructs nothing, or the images are not of its shape, these types or ranges.
        """
        opened = self.opened
        if not opened.objective.reconstruct:
            raise UserError(f"{self.path}: config.objective.name={opened.config.objective.name!r} can't reconstruct")
        images = given.images(images, opened.objective.components["encoder"].input_shape)
        return np.asarray(jax.jit(opened.objective.reconstruct)(opened.params, opened.batch_stats, images))

    def apply(self, component: str, inputs, labels=None):
        """The outputs of one component, such as "generator", for `inputs: [batch, ...]`, in evaluation mode.

        A codebook has two: the nearest codes and their indices.

        Args:
          labels: `[batch]`, the classes of the inputs, for a conditional network.

        Raises:
          UserError: there is no such component, the inputs have another shape, or the network has no such classes.
        """
        from jaxtickets import sample

        opened = self.opened
        if not isinstance(component, str) or component not in opened.objective.components:
            raise UserError(f"component {component!r}: allowed are {', '.join(opened.objective.components)}")
        inputs = given.inputs(inputs, opened.objective.components[component].input_shape)
        labels = sample.labels_of(labels, opened.objective, "labels")
        return jax.device_get(self._outputs(component, opened.params, opened.batch_stats, inputs, labels))

    @cached_property
    def _outputs(self):
        """The program of `apply`, which is compiled once for each component and shape."""
        from jaxtickets import models

        components = self.opened.objective.components

        @partial(jax.jit, static_argnums=0)
        def outputs(component, params, batch_stats, inputs, labels):
            return models.apply(components, params, batch_stats, component, inputs, False, labels)[0]

        return outputs


def save_ticket(
    path: str | os.PathLike,
    masks,
    params,
    *,
    trained=None,
    metadata: dict | None = None,
    axis_names=None,
    network: dict | None = None,
    moments: bool = True,
) -> None:
    """Writes a ticket file; pruned weights are left out, in the optimiser's moments and the trained weights too.

    A file that is there is replaced, as `numpy.savez` and safetensors do it: as a whole, once the new one is complete.

    Args:
      masks: like `params`, with None for each leaf that is not prunable.
      params: the parameters at the rewind point, any pytree; leaves that are neither arrays nor numbers are left out.
        Or a `train.TrainState`, whose batch statistics, moments and step are stored too.
      trained: what was trained from the ticket: a tree like `params`, of the same shapes, or a `trained.Trained`.
      metadata: JSON values; NumPy's and JAX's numbers become such, NaN and infinities None, and numbers as keys texts.
      axis_names: a tree like the parameters: the name of each axis of each leaf, or None.
      network: how the network is built, as in `trained.Trained`; whoever leaves it out can't sample from the ticket.
      moments: whether the moments and the averages of a train state are stored. Without them the file of a late rewind
        point is smaller; training goes on from it with those of its dense run at that step.

    Raises:
      UserError: the masks prune nothing or do not fit, or an array has a type that the file has no room for, or
        metadata has none in JSON, or another argument is not what it can be.
      OSError: the file can't be written.
    """
    path = place(path, "path")
    if path.is_dir():
        raise UserError(f"path={path}: is a directory; allowed is a file")
    given.check(masks, params.params if isinstance(params, TrainState) else params, trained, axis_names, network)
    if all(np.all(mask) for mask in jax.tree.leaves(masks)):
        what = "a network in which nothing is pruned is no ticket"
        raise UserError(f"{path}: {what}; allowed are masks that prune, of a compacted network those before compaction")
    trees, state, of_trained = {"params": params}, {}, None
    if isinstance(params, TrainState):
        point = rewind(params, masks)
        trees = {"params": point.params, "batch_stats": point.batch_stats}
        stored = [name for name in content_lib.STATE if moments or name not in content_lib.MOMENTS]
        state = {name: getattr(point, name) for name in stored}
    if trained is not None:
        own = trained if isinstance(trained, Trained) else Trained(trained, {}, {})
        trees["trained"], of_trained = {"params": own.params, "batch_stats": own.batch_stats}, own.network
    content_lib.write(
        path, trees | state, masks, given.as_json({} if metadata is None else metadata), network, of_trained, axis_names
    )


def load_ticket(path: str | os.PathLike, like=None) -> Ticket:
    """Reads a ticket file, or the one in the directory of a card.

    Args:
      like: parameters, or their shapes, that give the structure of the trees; leaves that a file does not hold, such as
        functions, come from it. Without it trees are nested dicts, lists and tuples.

    Raises:
      UserError: the file is missing or is no ticket, or is that of a network of another structure than `like`.
      DamagedError: it is not what was written.
    """
    path = content_lib.place_of(place(path, "path"))
    with content_lib.reading(path):
        found = content_lib.read(path)
        params, masks, trained = found.tree("params", {}), found.mask_tree(), None
        if found.trained is not None:
            trees = found.tree("trained", {})
            trained = Trained(trees.get("params", {}), trees.get("batch_stats", {}), found.trained)
        if like is not None:
            params = _shaped(path, found.leaves, like, "params")
            masks = _masks_like(found.masks, like)
            trained = trained and trained._replace(params=_shaped(path, found.leaves, like, "trained/params"))
        axes = {name.removeprefix("params/"): names for name, names in found.axes.items()}
        own = (found.metadata, found.network, axes, Path(path), found.has_moments)
        return Ticket(masks, params, found.tree("batch_stats", {}), trained, *own)


def _shaped(path, leaves, like, tree):
    """The leaves of a tree with the structure of `like`, and of the kind that its leaves are."""
    prefix = f"{tree}/"
    named = {f"{prefix}{name}" if name else tree: leaf for name, leaf in tensor_files.named(like).items()}
    wanted = {
        name: leaf for name, leaf in named.items() if isinstance(leaf, (*tensor_files.NUMBERS, jax.ShapeDtypeStruct))
    }
    found = {name for name in leaves if f"{name}/".startswith(prefix)}
    shapes = {name: jnp.shape(leaves[name]) for name in found}
    wrong = {name for name, leaf in wanted.items() if name in found and jnp.shape(leaf) != shapes[name]}
    if wrong := sorted(wrong | (found ^ wanted.keys())):
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} others" if len(wrong) > 3 else "")
        raise UserError(f"{path}: {shown} of the ticket and of `like` differ; allowed is the network of the ticket")
    restored = [_as(leaves[name], leaf) if name in wanted else leaf for name, leaf in named.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _as(array, leaf):
    """An array as the kind of array or number that a leaf is."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return type(leaf)(array)
    return jnp.asarray(array) if isinstance(leaf, jax.Array) else array


def _masks_like(masks, like):
    names = tensor_files.named({"params": like})
    return jax.tree.unflatten(jax.tree.structure(like), [masks.get(name) for name in names])


def load_trained(path: os.PathLike) -> tuple[Trained, dict]:
    """Reads the trained weights of a ticket file, and its metadata (`Ticket.metadata`).

    Raises:
      UserError: the file is missing or is no ticket, or holds the rewind point alone.
      DamagedError: it is not what was written.
    """
    ticket = load_ticket(path)
    return ticket.need_trained(), ticket.metadata


def load_state(path: os.PathLike, like: TrainState) -> TrainState:
    """Reads the whole rewind point of a ticket file, with the structure of `like`.

    Args:
      like: a train state of its run. If the file was saved without moments, moments and averages are those of `like`.

    Raises:
      UserError: the file is no ticket of a run, or that of another network or optimiser.
      DamagedError: it is not what was written.
    """
    with content_lib.reading(path):
        found = content_lib.read(path)
    if "step" not in found.leaves:
        raise UserError(f"{path}: does not tell the step of its rewind point; allowed is the ticket of a train state")
    fields = {name: getattr(like, name) for name in ("params", "batch_stats", *content_lib.STATE)}
    left_out = [name for name in content_lib.MOMENTS if jax.tree.leaves(fields[name]) and not found.has(name)]
    of_like = {name: fields.pop(name) for name in left_out}
    is_old = found.format == content_lib.older.WITHOUT_CHECKSUM
    named = mask_lib.named_leaves(fields) if is_old else tensor_files.named(fields)
    kinds = {name: (np.shape(leaf), np.asarray(leaf).dtype) for name, leaf in named.items()}
    ignored = ("trained", *(() if like.movement else ("movement",)))
    own = {name: leaf for name, leaf in found.leaves.items() if name.partition("/")[0] not in ignored}
    there = {name: (leaf.shape, leaf.dtype) for name, leaf in own.items()}
    if wrong := sorted(name for name in kinds.keys() | there.keys() if kinds.get(name) != there.get(name)):
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} others" if len(wrong) > 3 else "")
        raise UserError(f"{path}: {shown} of the ticket and of this network or optimiser differ; use its run's config")
    return TrainState(**jax.tree.unflatten(jax.tree.structure(fields), [own[name] for name in kinds]), **of_like)


def run_of(metadata: dict, path: os.PathLike) -> tuple[dict, dict]:
    """`(config, verdict)` of the run that has found a ticket; the verdict has a `winning_round`.

    Args:
      metadata: see `Ticket`.
      path: of the ticket file, for the message.

    Raises:
      UserError: the metadata does not tell.
    """
    config, verdict = metadata.get("config"), metadata.get("verdict")
    verdict = verdict if isinstance(verdict, dict) else {}
    round_, digests = verdict.get("winning_round"), verdict.get("data") or {}
    is_known = isinstance(config, dict) and type(round_) is int and round_ > 0
    if not is_known or not isinstance(digests, dict) or not all(isinstance(each, str) for each in digests.values()):
        raise UserError(f"{path}: does not tell the config and the round of its run; allowed is the ticket of a run")
    return config, verdict

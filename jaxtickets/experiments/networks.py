"""What a config says of its networks; no data is read for it."""

from functools import cached_property

import jax
import jax.numpy as jnp

from jaxtickets import config as config_lib
from jaxtickets import data, flops, models, train
from jaxtickets import masks as mask_lib
from jaxtickets.experiments import scoring
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.pruning import channels


class Networks:
    """The networks of a config, their players and their prunable weights.

    Attributes:
      config: the validated config.
      levels: the level of each round.
      objective: the players' losses.
      params, batch_stats: the shapes of the parameters and the batch statistics.
      dense_masks: the masks that keep everything.
    """

    def __init__(self, config):
        """Refuses levels that these networks can't be pruned to."""
        self.config, self.levels = config, config_lib.levels(config)
        self._channels = data.channels(config.data.name)
        self._classes = data.classes(config.data.name, config.data.dir or None) if config.model.conditional else 0
        components = self.components(train.AXIS if config.sync_batch_norm else None)
        self.objective = OBJECTIVES[config.objective.name](components, config.objective)
        options = config.prune
        self.params, self.batch_stats = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))
        self.dense_masks = mask_lib.ones(self.params, options.include, options.exclude, options.components)
        scoring.check(self)

    def components(self, axis_name=None, **sizes):
        """The config's networks, or whole ones of other sizes, whose batch statistics are averaged over `axis_name`."""
        model = self.config.model.copy_and_resolve_references()
        if sizes:
            model.channels = {}
            model.update(sizes)
        style = {"dtype": jnp.dtype(self.config.dtype), "axis_name": axis_name}
        style["rematerialize"] = self.config.train.rematerialize
        return models.build(model, self._channels, self._classes, **style)

    @cached_property
    def axis_names(self):
        """See `models.axis_names`."""
        return models.axis_names(self.objective.components)

    # What they cost.

    @cached_property
    def _uses(self):
        return models.kernel_uses(self.objective.components)

    @cached_property
    def _flops_of_products(self):
        return 2 * sum(models.products(self.objective.components).values())

    def flops(self, masks=None) -> int:
        """Of one example's forward pass through every component; with masks, of the kept weights alone."""
        return self._flops_of_products + sum(flops.forward(self._uses, self.params, masks).values())

    def flops_with(self, channel_masks) -> float:
        """The same without the pruned channels. (Attention's two products are counted as they are.)"""
        shares = channels.kept_shares(self.params, self.axis_names.params, channel_masks)
        left = sum(cost * shares[path] for path, cost in flops.forward(self._uses, self.params).items())
        return self._flops_of_products + left

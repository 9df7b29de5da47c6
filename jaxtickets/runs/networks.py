"""The networks of a config, and what they cost; no data is read for them, but for `Networks.data`."""

from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import config as config_lib
from jaxtickets import cost, data, models, pruning
from jaxtickets import masks as mask_lib
from jaxtickets.devices import AXIS
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.pruning import channels
from jaxtickets.runs import scoring


class Networks:
    """The networks of a config, their players and their prunable weights.

    Attributes:
      config: the validated config.
      levels: the level of each round.
      image_channels: the number of channels of the images.
      classes: the number of classes that conditional networks tell apart; 0 with others.
      objective: the players' losses.
      params, batch_stats: the shapes of the parameters and the batch statistics.
      dense_masks: the masks that keep everything.
    """

    def __init__(self, config):
        """
        Raises:
          UserError: these networks can't be pruned to a level.
          ValueError: the plug-ins do not fit each other.
        """
        self.config, self.levels = config, config_lib.levels(config)
        self.image_channels = data.channels(config.data.name, config.data.background)
        self.classes = data.classes(config.data.name, config.data.dir or None) if config.model.conditional else 0
        self.objective = self.make_objective(AXIS if config.sync_batch_norm else None)
        components, options = self.objective.components, config.prune
        self._check_components()
        self.params, self.batch_stats = jax.eval_shape(lambda: models.init(components, jax.random.key(0)))
        self.dense_masks = mask_lib.ones(
            self.params, options.include, options.exclude, options.components, prefix="prune."
        )
        scoring.check(self)

    def _check_components(self):
        """Refuses a game, a network and players that do not name the same components."""
        game, components = self.config.objective.name, set(self.objective.components)
        trained = {name for player in self.objective.players.values() for name in player.components}
        for whose, names in ((f"game {game!r}", set(OBJECTIVES[game].components)), ("its players", trained)):
            if names != components:
                network = f"network {self.config.model.name!r} has {', '.join(sorted(components))}"
                raise ValueError(f"{whose}: the components are {', '.join(sorted(names))}; {network}")

    def make_objective(self, axis_name=None):
        """The config's objective; batch statistics are averaged over the mapped axis `axis_name`, if there is one."""
        return OBJECTIVES[self.config.objective.name].make(self.components(axis_name), self.config)

    def components(self, axis_name=None, **sizes):
        """The config's networks, or whole ones of other sizes, whose batch statistics are averaged over `axis_name`."""
        model = self.config.model.copy_and_resolve_references()
        if sizes:
            model.channels = {}
            model.update(sizes)
        style = {"dtype": jnp.dtype(self.config.dtype), "axis_name": axis_name}
        style["rematerialize"] = self.config.train.rematerialize
        return models.build(model, self.image_channels, self.classes, **style)

    @cached_property
    def axis_names(self):
        """The names of the parameters' and batch statistics' axes; see `models.axis_names`."""
        return models.axis_names(self.objective.components)

    @cached_property
    def axes(self):
        """The input and output axes of each kernel of Flax's own layers, where `prune.structure` goes along axes."""
        if self.config.prune.structure == "weight":
            return None
        found = {}
        for name, component in self.objective.components.items():
            inputs = [np.zeros((1, *shape), np.float32) for shape in component.input_shapes]
            found[name] = pruning.flax_axes(component.module, *inputs, train=False, labels=np.zeros(1, np.int32))
        return found

    @cached_property
    def data(self) -> dict[str, str]:
        """The digests of the data by the name of the split (`data.identity`)."""
        return data.digests(self.config)

    @property
    def json_config(self) -> dict:
        """The config as plain JSON values."""
        return config_lib.to_dict(self.config)

    @property
    def json_network(self) -> dict:
        """All that `models.build` needs to make the same networks again, as plain JSON values."""
        return {"model": self.json_config["model"], "channels": self.image_channels, "classes": self.classes}

    @property
    def json_defaults(self) -> dict:
        """The value of each field for a workdir whose config.json lacks it, as plain JSON values."""
        return config_lib.missing_values(self.config)

    # What they cost.

    @cached_property
    def _uses(self):
        return models.kernel_uses(self.objective.components)

    @cached_property
    def _flops_of_products(self):
        return 2 * sum(models.products(self.objective.components).values())

    def flops(self, masks=None) -> int:
        """The FLOPs of one example's forward pass through every component; with masks, of the kept weights alone."""
        return self._flops_of_products + sum(cost.forward(self._uses, self.params, masks).values())

    def flops_with(self, channel_masks) -> float:
        """The FLOPs without those of the pruned channels. (Attention's two products are counted as they are.)"""
        shares = channels.kept_shares(self.params, self.axis_names.params, channel_masks)
        left = sum(flops * shares[path] for path, flops in cost.forward(self._uses, self.params).items())
        return self._flops_of_products + left

"""Tiny early-bird runs: 12 steps; a mask after 2, 4, 6 and 8 steps, of which three in a row must be alike."""

import json

from conftest import tiny

from jaxtickets.pruning import channels

LEVELS, STOPS, PER_EPOCH = (0.3, 0.5), (2, 4, 6, 8), 93  # Of 1,501 digits in batches of 16.
SEARCH = {
    "early_bird.every": 2,
    "early_bird.until": 8.0,
    "early_bird.queue": 3,
    "early_bird.threshold": 1.0,  # Any three masks are alike.
    "early_bird.moved": 0.0,
}
CHANNELS = {"prune.structure": "channel", "prune.score": "gamma", "prune.target": "flops", "prune.scope": "layerwise"}


def configured(data_directory, experiment="early_bird", game="gan_digits", **changes):
    """A tiny config whose masks move while it trains, with a state saved after 5 and 10 steps."""
    options = {"optimizer.learning_rate": 1e-2, "train.checkpoint_every": 5, "prune.sparsities": LEVELS[1:]}
    search = SEARCH if experiment == "early_bird" else {}
    return tiny(game, data_directory, experiment=experiment, **{**options, **search, **changes})


class Kept:
    """Programs that stay compiled when a run gives them back, because the other runs of this file need them."""

    def __init__(self, programs):
        self.get, self.step_bytes = programs.get, programs.step_bytes

    def release(self):
        pass


def kept_channels(run, masks):
    return channels.from_weight_masks(masks, run.networks.axis_names.params)


def search_file(run, round_):
    return json.loads(run.place.search(round_).read_text())

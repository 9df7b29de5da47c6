"""Early-bird tickets in a convolutional autoencoder: channels by how far their filters have moved.

    python -m jaxtickets.main --config=configs/early_bird_ae.py

The paper's autoencoder on CelebA at 32x32, 100 epochs of 1,271 steps, for a GPU or a TPU. It has no batch norm, and the
norms of its filters start as random numbers, so channels are scored by the change of their filters since the
initialisation. This experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/early_bird_ae.py:quick

Width 32 on the digits, 1,400 steps (60 epochs), in less than 2 minutes on two CPU cores. Over five seeds the held-out
error is 0.0065 for the dense network, and 1.2, 1.4 and 2.2 times that at 53, 72 and 89% fewer FLOPs: no winning ticket
within 10%.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.experiment = "early_bird"
    config.rewind_step = 0.05
    config.model.update(name="conv_ae", width=64, latent_size=32, image_size=32)
    config.objective.update(name="autoencoder")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="celeb_a")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(structure="channel", score="filter_change", target="flops", scope="layerwise")
    config.prune.channel_multiple = 8
    config.prune.sparsities = (0.5, 0.7, 0.88)
    if config_lib.is_quick(variant):
        config.model.update(width=32, image_size=16)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1400, log_every=50)
        config.early_bird.update(until=0.4)  # Of 60 epochs.
    return config

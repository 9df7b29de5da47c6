"""Early-bird tickets in a convolutional VAE: finds channels in the first epochs and trains the smaller network.

    python -m jaxtickets.main --config=configs/early_bird_vae.py

The paper's VAE on CelebA at 32x32, 100 epochs of 1,271 steps, for a GPU or a TPU. This experiment has not been run to
its end yet.

    python -m jaxtickets.main --config=configs/early_bird_vae.py:quick

Width 32 on the digits, 700 steps (30 epochs), in about 1.6 minutes on two CPU cores. `fd_digits` is 63 for the dense
network, and 62, 59 and 69 at 53, 72 and 88% fewer FLOPs: a winning ticket with 14% of the weights, found in epoch 6.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.experiment = "early_bird"
    config.rewind_step = 0.05
    config.model.update(name="conv_vae", width=64, latent_size=32, image_size=32)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="celeb_a")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(structure="channel", score="gamma", target="flops", scope="layerwise", channel_multiple=8)
    config.prune.sparsities = (0.5, 0.7, 0.88)
    config.eval.update(samples=50_000, batch_size=256, features="faces")
    if config_lib.is_quick(variant):
        config.model.update(width=32, image_size=16)
        config.optimizer.update(final_rate=0.0)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1400, log_every=50)
        config.early_bird.update(until=0.4)  # Of 60 epochs.
        config.eval.update(samples=8192, features="digits")
    return config

"""Early-bird tickets in a convolutional VAE: finds channels in the first epochs and trains the smaller network.

    python -m jaxtickets.main --config=configs/early_bird_vae.py

The paper's VAE on CelebA at 32x32, 100 epochs of 1,271 steps, for a GPU or a TPU. This experiment has not been run to
its end yet.

    python -m jaxtickets.main --config=configs/early_bird_vae.py:quick

Width 32 on the digits, 1,400 steps (60 epochs), in less than 2 minutes on two CPU cores. Over five seeds `fd_digits` is
64 for the dense network, and 1.04, 1.01 and 1.07 times that at 53, 72 and 88% fewer FLOPs: a winning ticket with 31% of
the weights, found in epochs 7 to 9; at 88% five seeds do not decide.
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
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=32, image_size=16)
        config.optimizer.update(final_rate=0.0)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1400, log_every=50)
        config.early_bird.update(until=0.4)  # Of 60 epochs.
        config.eval.update(samples=8192, features="digits")
    return config

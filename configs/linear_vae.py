"""Winning tickets in a linear VAE, 784-128-64-32-2x8 and back.

    python -m jaxtickets.main --config=configs/linear_vae.py

The settings of the paper's reference code on MNIST, with the weight decay of its other networks. Twenty rounds of 100
epochs, for a GPU or a TPU. This experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/linear_vae.py:quick

Five rounds of 4,000 steps on the digits in about 1 to 2 minutes on two CPU cores. `fd_digits` is 41.8 for the dense
network and 33.6 at 67% sparsity, the sparsest within 10%. The samples are soft digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="linear_vae", width=128, latent_size=8, image_size=28)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="mnist")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.optimizer.update(learning_rate=2e-3)
        config.data.update(name="digits")
        config.train.update(batch_size=256, epochs=0, steps=4000, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048, features="digits")
    return config

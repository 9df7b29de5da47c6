"""Winning tickets in a linear VAE, 784-128-64-32-2x8 and back.

    python -m jaxtickets.main --config=configs/linear_vae.py

At the settings of the paper's reference on MNIST, twenty rounds of 100 epochs: for a GPU or a TPU. This file has not
been run to its end yet.

    python -m jaxtickets.main --config=configs/linear_vae.py:quick

Five rounds of 4,000 steps on the digits in at most 5 minutes of two shared CPU cores: `fd_digits` is 33.3 dense and
29.8 at 67% sparsity, the winning ticket. The samples are soft digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="linear_vae", width=128, latent_size=8, image_size=28)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=2e-3 if quick else 1e-3, weight_decay=1e-5)
    config.data.update(name="digits" if quick else "mnist")
    config.prune.update(rounds=5 if quick else 20, rate=0.2)
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="digits")
    if quick:
        config.train.update(batch_size=256, steps=4000, log_every=50)
    else:
        config.train.update(batch_size=128, epochs=100)
    return config

"""Winning tickets in SNGAN's CNN: spectral norm and the hinge loss (Miyato et al. 2018, table 3).

    python -m jaxtickets.main --config=configs/sngan.py

At the published settings on CIFAR-10, twenty rounds of 128 epochs (100,000 steps): for a GPU or a TPU. This file has
not been run to its end yet.

    python -m jaxtickets.main --config=configs/sngan.py:quick

Four rounds of 700 steps on the digits in at most 8 minutes of two shared CPU cores: `fd_digits` is 14.1 dense and
12.7 at 59% sparsity, the winning ticket. The samples are digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="sngan", width=12 if quick else 64, latent_size=64 if quick else 128)
    config.model.image_size = 16 if quick else 32
    config.objective.update(name="gan", loss="hinge", ema_decay=0.99 if quick else 0.0)
    config.optimizer.update(
        learning_rate=1e-3 if quick else 2e-4, beta1=0.0 if quick else 0.5, beta2=0.9 if quick else 0.999
    )
    config.data.update(name="digits" if quick else "cifar10")
    config.prune.update(rounds=4 if quick else 20, rate=0.2)
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="digits" if quick else "faces")
    if quick:
        config.train.update(batch_size=64, steps=700, log_every=50)
    else:
        config.train.update(batch_size=64, epochs=128)
    return config

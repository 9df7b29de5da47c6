"""Winning tickets in SNGAN's CNN: spectral norm and the hinge loss (Miyato et al. 2018, table 3).

    python -m jaxtickets.main --config=configs/sngan.py

The published settings on CIFAR-10, twenty rounds of 128 epochs (100,000 steps), for a GPU or a TPU. This experiment has
not been run to its end yet.

    python -m jaxtickets.main --config=configs/sngan.py:quick

Four rounds of 700 steps on the digits in about 2 minutes on two CPU cores. `fd_digits` is 15.1 for the dense network;
no pruned round is within 10%, the best has 18.5 at 59% sparsity. The samples are digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="sngan", width=64, latent_size=128, image_size=32)
    config.objective.update(name="gan", loss="hinge")
    config.optimizer.update(learning_rate=2e-4, beta1=0.5, beta2=0.999)
    config.data.update(name="cifar10")
    config.train.update(batch_size=64, epochs=128)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=12, latent_size=64, image_size=16)
        config.objective.update(ema_decay=0.99)
        config.optimizer.update(learning_rate=1e-3, beta1=0.0, beta2=0.9)
        config.data.update(name="digits")
        config.train.update(epochs=0, steps=700, log_every=50)
        config.prune.update(rounds=4)
        config.eval.update(samples=2048, features="digits")
    return config

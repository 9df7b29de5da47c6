"""Winning tickets in a ResNet VAE, 32-32-64-128-256 channels.

    python -m jaxtickets.main --config=configs/resnet_vae.py

At the settings of the paper's reference on CIFAR-10, twenty rounds of 100 epochs: for a GPU or a TPU. This file has
not been run to its end yet.

    python -m jaxtickets.main --config=configs/resnet_vae.py:quick

Five rounds of 1,000 steps on the digits in at most 3 minutes of two shared CPU cores: `fd_digits` is 54.8 dense and
39.7 at 67% sparsity, the winning ticket. The samples are soft digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="resnet_vae", width=8 if quick else 32, latent_size=16 if quick else 32)
    config.model.image_size = 16 if quick else 32
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=3e-3 if quick else 1e-3, weight_decay=1e-5)
    config.data.update(name="digits" if quick else "cifar10")
    config.prune.update(rounds=5 if quick else 20, rate=0.2)
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="digits" if quick else "faces")
    if quick:
        config.train.update(batch_size=64, steps=1000, log_every=50)
    else:
        config.train.update(batch_size=128, epochs=100)
    return config

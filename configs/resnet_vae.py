"""Winning tickets in a ResNet VAE, 32-32-64-128-256 channels.

    python -m jaxtickets.main --config=configs/resnet_vae.py

The settings of the paper's reference code on CIFAR-10, twenty rounds of 100 epochs, for a GPU or a TPU. This experiment
has not been run to its end yet.

    python -m jaxtickets.main --config=configs/resnet_vae.py:quick

Five rounds of 1,000 steps on the digits in about 2 minutes on two CPU cores. `fd_digits` is 53.3 for the dense network
and 39.9 at 67% sparsity, the sparsest within 10%. The samples are soft digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="resnet_vae", width=32, latent_size=32, image_size=32)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="cifar10")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=8, latent_size=16, image_size=16)
        config.optimizer.update(learning_rate=3e-3)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1000, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048, features="digits")
    return config

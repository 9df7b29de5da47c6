"""Winning tickets in a WGAN-GP: DCGAN's networks, a critic with a gradient penalty (Gulrajani et al. 2017).

    python -m jaxtickets.main --config=configs/wgan_gp.py

The published settings on CIFAR-10, twenty rounds of 200 epochs, for a GPU or a TPU. This experiment has not been run to
its end yet.

    python -m jaxtickets.main --config=configs/wgan_gp.py:quick

Four rounds of 600 steps on the digits in about 2 minutes on two CPU cores. `fd_digits` is 13.1 for the dense network
and 10.9 at 59% sparsity, the sparsest within 10%. The samples are digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=128, latent_size=32, image_size=32, discriminator_norm="layer")
    config.objective.update(name="gan", loss="wasserstein", penalty="wgan_gp", n_critic=5)
    config.optimizer.update(learning_rate=1e-4, beta1=0.0, beta2=0.9)
    config.data.update(name="cifar10")
    config.train.update(batch_size=64, epochs=200)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=48, latent_size=64, image_size=16)
        config.objective.update(n_critic=2, ema_decay=0.99)
        config.optimizer.update(learning_rate=5e-4)
        config.data.update(name="digits")
        config.train.update(epochs=0, steps=600, log_every=50)
        config.prune.update(rounds=4)
        config.eval.update(samples=2048, features="digits")
    return config

"""Winning tickets in a WGAN: DCGAN's networks, a critic with clipped weights (Arjovsky, Chintala, Bottou 2017).

    python -m jaxtickets.main --config=configs/wgan.py

The published settings on CIFAR-10, with RMSProp's decay as in its authors' code (PyTorch's default), twenty rounds of
200 epochs, for a GPU or a TPU. This experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/wgan.py:quick

Five rounds of 1,000 steps on the digits in about 2 minutes on two CPU cores. `fd_digits` is 14.8 for the dense network
and 15.9 at 49% sparsity, the sparsest within 10%. The samples are digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=128, latent_size=32, image_size=32)
    config.objective.update(name="gan", loss="wasserstein", clip=0.01, n_critic=5)
    config.optimizer.update(name="rmsprop", learning_rate=5e-5, beta2=0.99)
    config.data.update(name="cifar10")
    config.train.update(batch_size=64, epochs=200)
    # Clipped weights are all small: one threshold for both players would prune the critic alone.
    config.prune.update(rounds=20, rate=0.2, scope="layerwise")
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=48, latent_size=64, image_size=16)
        config.objective.update(n_critic=2, ema_decay=0.99)
        config.optimizer.update(learning_rate=3e-4)
        config.data.update(name="digits")
        config.train.update(epochs=0, steps=1000, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048, features="digits")
    return config

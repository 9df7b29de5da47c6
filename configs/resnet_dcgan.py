"""Winning tickets in a ResNet-DCGAN: DCGAN with residual blocks in place of its stages.

    python -m jaxtickets.main --config=configs/resnet_dcgan.py

The published settings on CIFAR-10, twenty rounds of 200 epochs, for a GPU or a TPU. This experiment has not been run to
its end yet.

    python -m jaxtickets.main --config=configs/resnet_dcgan.py:quick

Four rounds of 700 steps on the digits in about 3 minutes on two CPU cores. `fd_digits` is 35.8 for the dense network
and 24.9 at 59% sparsity, the sparsest within 10%. The samples are digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="resnet_dcgan", width=64, latent_size=32, image_size=32)
    config.objective.update(name="gan")
    config.optimizer.update(learning_rate=2e-4, beta1=0.5)
    config.data.update(name="cifar10")
    config.train.update(batch_size=100, epochs=200)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=16, latent_size=64, image_size=16)
        config.objective.update(real_label=0.9, ema_decay=0.99)
        config.optimizer.update(learning_rate=1e-3)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=700, log_every=50)
        config.prune.update(rounds=4)
        config.eval.update(samples=2048, features="digits")
    return config

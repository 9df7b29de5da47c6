"""Winning tickets in a ResNet-DCGAN: DCGAN with residual blocks in the place of its stages.

    python -m jaxtickets.main --config=configs/resnet_dcgan.py

At the published settings on CIFAR-10, twenty rounds of 200 epochs: for a GPU or a TPU. This file has not been run to
its end yet.

    python -m jaxtickets.main --config=configs/resnet_dcgan.py:quick

Four rounds of 700 steps on the digits in at most 7 minutes of two shared CPU cores: `fd_digits` is 35.8 dense and
21.5 at 59% sparsity, the winning ticket. The samples are digits.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="resnet_dcgan", width=16 if quick else 64, latent_size=64 if quick else 32)
    config.model.image_size = 16 if quick else 32
    config.objective.update(name="gan", real_label=0.9 if quick else 1.0, ema_decay=0.99 if quick else 0.0)
    config.optimizer.update(learning_rate=1e-3 if quick else 2e-4, beta1=0.5)
    config.data.update(name="digits" if quick else "cifar10")
    config.prune.update(rounds=4 if quick else 20, rate=0.2)
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="digits" if quick else "faces")
    if quick:
        config.train.update(batch_size=64, steps=700, log_every=50)
    else:
        config.train.update(batch_size=100, epochs=200)
    return config

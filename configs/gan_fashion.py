"""Winning tickets in a DCGAN on Fashion-MNIST, 70,000 real images of garments.

    apt-get install dataset-fashion-mnist
    python -m jaxtickets.main --config=configs/gan_fashion.py

TODO

    python -m jaxtickets.main --config=configs/gan_fashion.py:quick

TODO minutes
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=64, latent_size=64, image_size=32)
    config.objective.update(name="gan", real_label=0.9, ema_decay=0.999)
    config.optimizer.update(learning_rate=5e-4, beta1=0.5)
    config.data.update(name="files:/usr/share/datasets/fashion-mnist")
    config.train.update(batch_size=128, epochs=15)
    config.prune.update(rounds=10, rate=0.2)
    config.eval.update(samples=10_000, batch_size=256, features="labels")
    if config_lib.is_quick(variant):
        config.model.update(width=48, image_size=16)
        config.objective.update(ema_decay=0.99)
        config.optimizer.update(learning_rate=1e-3)
        config.train.update(batch_size=64, epochs=0, steps=600, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048)
    return config

"""Winning tickets in a DCGAN on 1,797 real handwritten digits, on two CPU cores.

    python -m jaxtickets.main --config=configs/gan_digits.py

@FULL@

    python -m jaxtickets.main --config=configs/gan_digits.py:quick

Five rounds of 400 steps in less than 1 minute: @QUICK@
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=48, latent_size=64, image_size=16)
    config.objective.update(name="gan", real_label=0.9)
    config.optimizer.update(learning_rate=3e-4, beta1=0.5)
    config.data.update(name="digits")
    config.train.update(batch_size=64, steps=250 if quick else 700, log_every=50)
    config.prune.update(rounds=5 if quick else 10, rate=0.2)
    config.eval.update(samples=2048, batch_size=256, features="digits")
    return config

"""Winning tickets in a DCGAN on 1,797 real handwritten digits, on two CPU cores.

    python -m jaxtickets.main --config=configs/gan_digits.py

Ten rounds of 700 steps in about 4 minutes. The samples are recognisable digits. `fd_digits` is 23 for the dense network
and lower in every round up to the winning ticket, which has 22 at 79.0% sparsity; at 89% it is 39. The width matters: a
network of width 32, trained for 1,100 steps, has no winning ticket. Its dense runs differ by 9% over five seeds (20.1
to 25.5, standard deviation 2.0), so a single run cannot decide at a tolerance much below 10%.

    python -m jaxtickets.main --config=configs/gan_digits.py:quick

Five rounds of 250 steps in about 1 minute. `fd_digits` is 34 for the dense network, for which 250 steps are too few,
and 21 at 67% sparsity.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=48, latent_size=64, image_size=16)
    config.objective.update(name="gan", real_label=0.9, ema_decay=0.997)
    config.optimizer.update(learning_rate=1e-3, beta1=0.5)
    config.data.update(name="digits")
    config.train.update(batch_size=64, steps=1800, log_every=50)
    config.prune.update(rounds=10, rate=0.2)
    config.eval.update(samples=8192, batch_size=256, features="digits")
    if config_lib.is_quick(variant):
        config.objective.update(ema_decay=0.98)
        config.train.update(steps=250)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048)
    return config

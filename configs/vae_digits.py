"""Winning tickets in a convolutional VAE on 1,797 real handwritten digits, on two CPU cores.

    python -m jaxtickets.main --config=configs/vae_digits.py

Twelve rounds of 2,000 steps in about 2 minutes. Over five seeds the dense network's `fd_digits` is 51.3 (spread 5%),
and the winning ticket, at 83.2% sparsity, has 1.01 [0.95, 1.09] times that of its seed. The learning rate falls to 0.
The samples are digits, soft as a VAE's are.

    python -m jaxtickets.main --config=configs/vae_digits.py:quick

Five rounds of 400 steps at a constant learning rate in less than 1 minute. `fd_digits` is 73.5 for the dense network
and 71.7 at 67% sparsity.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="conv_vae", width=16, latent_size=16, image_size=16)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=1e-3, final_rate=0.0, weight_decay=1e-5)
    config.data.update(name="digits")
    config.train.update(batch_size=64, steps=2000, log_every=50)
    config.prune.update(rounds=12, rate=0.2)
    config.eval.update(samples=8192, batch_size=256, features="digits")
    if config_lib.is_quick(variant):
        config.optimizer.update(final_rate=1.0)
        config.train.update(steps=400)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048)
    return config

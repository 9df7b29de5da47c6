"""Winning tickets in a convolutional autoencoder on 1,797 real handwritten digits, on two CPU cores.

    python -m jaxtickets.main --config=configs/ae_digits.py

Twenty rounds of 2,000 steps in about 3 minutes. Over five seeds the dense network's held-out error is 0.0137 (spread
3%), and the winning ticket, at 79.0% sparsity, has 1.02 [0.98, 1.06] times that of its seed; at 83.2% it is 1.09.

    python -m jaxtickets.main --config=configs/ae_digits.py:quick

Five rounds of 400 steps in less than 1 minute. The held-out error is 0.0231 for the dense network and 0.0216 at 67%
sparsity.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="conv_ae", width=16, latent_size=16, image_size=16)
    config.objective.update(name="autoencoder")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="digits")
    config.train.update(batch_size=64, steps=2000, log_every=50)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=2048, batch_size=256, features="digits")
    if config_lib.is_quick(variant):
        config.train.update(steps=400)
        config.prune.update(rounds=5)
    return config

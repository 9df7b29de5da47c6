"""Winning tickets in a linear autoencoder, 784-128-64-12-3 and back.

    python -m jaxtickets.main --config=configs/linear_ae.py

The settings of the paper's reference code on MNIST, twenty rounds of 100 epochs, for a GPU or a TPU. This experiment
has not been run to its end yet.

    python -m jaxtickets.main --config=configs/linear_ae.py:quick

Five rounds of 1,500 steps on the digits in less than two minutes on two CPU cores. `reconstruction_error` is 0.117 for
the dense network and 0.115 at 67% sparsity, the sparsest within 10%. Reconstructions from three numbers are soft, and
some show another digit.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="linear_ae", width=128, latent_size=3, image_size=28)
    config.objective.update(name="autoencoder")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="mnist")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1500, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048, features="digits")
    return config

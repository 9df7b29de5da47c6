"""Winning tickets in a VQ-VAE: 128 codes of size 32, commitment 0.25 (van den Oord et al. 2017).

    python -m jaxtickets.main --config=configs/vq_vae.py

The settings of the paper's reference code on CIFAR-10, twenty rounds of 100 epochs, for a GPU or a TPU. This experiment
has not been run to its end yet.

    python -m jaxtickets.main --config=configs/vq_vae.py:quick

Five rounds of 1,000 steps on the digits in at most 4 minutes of two shared CPU cores. `reconstruction_error` is 0.0217
for the dense network and 0.0192 at 67% sparsity, the sparsest within 10%. The reconstructions are the digits, softer.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="vq_vae", width=32, latent_size=32, image_size=32)
    config.objective.update(name="vq_vae")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="cifar10")
    config.train.update(batch_size=128, epochs=100)
    # A code is looked up, not multiplied: the codebook stays whole.
    config.prune.update(rounds=20, rate=0.2, include=(r"kernel$",))
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=8, image_size=16)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1000, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048, features="digits")
    return config

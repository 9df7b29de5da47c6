"""Winning tickets in a VQ-VAE: 128 codes of size 32, commitment 0.25 (van den Oord et al. 2017).

    python -m jaxtickets.main --config=configs/vq_vae.py

At the settings of the paper's reference on CIFAR-10, twenty rounds of 100 epochs: for a GPU or a TPU. This file has
not been run to its end yet.

    python -m jaxtickets.main --config=configs/vq_vae.py:quick

Five rounds of 1,000 steps on the digits in at most 4 minutes of two shared CPU cores: `reconstruction_error` is
0.0217 dense and 0.0192 at 67% sparsity, the winning ticket. Reconstructions are the digits, softer.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="vq_vae", width=8 if quick else 32, latent_size=32, image_size=16 if quick else 32)
    config.objective.update(name="vq_vae")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="digits" if quick else "cifar10")
    # A code is looked up, not multiplied: the codebook stays whole.
    config.prune.update(rounds=5 if quick else 20, rate=0.2, include=(r"kernel$",))
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="digits" if quick else "faces")
    if quick:
        config.train.update(batch_size=64, steps=1000, log_every=50)
    else:
        config.train.update(batch_size=128, epochs=100)
    return config

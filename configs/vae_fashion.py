"""Winning tickets in a convolutional VAE on Fashion-MNIST, 70,000 real images of garments.

    apt-get install dataset-fashion-mnist
    python -m jaxtickets.main --config=configs/vae_fashion.py

The dense run and twelve pruned rounds of 15 epochs (7,020 steps) at 32x32, 9 seconds each on an H100. Not run over
five seeds yet; in two seeds the dense negative ELBO on held-out images is 57.9 and 57.8, and within 2% of it at up to
89% sparsity; tickets of 20 to 83% are better than it. Elsewhere than on Debian and Ubuntu,
`--config.data.name=files:PATH` with the four files of Fashion-MNIST, or fashion_mnist through TFDS.

    python -m jaxtickets.main --config=configs/vae_fashion.py:quick

Eight rounds of 1,500 steps at 16x16 in about 2 minutes on two CPU cores. The negative ELBO is 22.9 for the dense
network and 22.9 at 74% sparsity, the sparsest within 2%. The samples are garments, soft as a VAE's are.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.tolerance = 0.02
    config.model.update(name="conv_vae", width=32, latent_size=32, image_size=32)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=1e-3, final_rate=0.0, weight_decay=1e-5)
    config.data.update(name="files:/usr/share/datasets/fashion-mnist")
    config.train.update(batch_size=128, epochs=15)
    config.prune.update(rounds=12, rate=0.2)
    config.eval.update(samples=10_000, batch_size=256, features="labels", metrics=("negative_elbo", "fd"))
    if config_lib.is_quick(variant):
        config.model.update(width=16, latent_size=16, image_size=16)
        config.train.update(batch_size=64, epochs=0, steps=1500, log_every=50)
        config.prune.update(rounds=8)
        config.eval.update(samples=2048)
    return config

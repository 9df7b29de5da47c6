"""Winning tickets in a DCGAN on Fashion-MNIST, 70,000 real images of garments.

    apt-get install dataset-fashion-mnist
    python -m jaxtickets.main --config=configs/gan_fashion.py

The dense run and ten pruned rounds of 15 epochs (7,020 steps) at 32x32, 11 seconds each on an H100. Not run over five
seeds yet; in two seeds the dense `fd_labels` is 0.86 and 0.90 (held-out images: 0.06), and that of the tickets 0.98
and 0.93 at 20%, 1.5 and 1.1 at 49%, 4.9 and 1.1 at 67%. Elsewhere than on Debian and Ubuntu,
`--config.data.name=files:PATH` with the four files of Fashion-MNIST, or fashion_mnist through TFDS.

    python -m jaxtickets.main --config=configs/gan_fashion.py:quick

Five rounds of 1,500 steps at 16x16 in about 4 minutes on two CPU cores. `fd_labels` is 1.84 for the dense network
(held-out images: 0.21, an untrained network: 488) and 1.26 at 67% sparsity: after so few steps pruned networks improve
faster. The samples are garments.
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
        config.objective.update(ema_decay=0.997)
        config.optimizer.update(learning_rate=1e-3)
        config.train.update(batch_size=64, epochs=0, steps=1500, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048)
    return config

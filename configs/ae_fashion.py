"""Winning tickets in a convolutional autoencoder on Fashion-MNIST, 70,000 real images of garments.

    apt-get install dataset-fashion-mnist
    python -m jaxtickets.main --config=configs/ae_fashion.py

The dense run and twelve pruned rounds of 15 epochs (7,020 steps) at 32x32, 7 seconds each on an H100. Not run to its
end yet; in one seed the held-out error is 0.0207 for the dense network and 0.0188 at 74% sparsity. Elsewhere than on
Debian and Ubuntu, `--config.data.name=files:PATH` with the four files of Fashion-MNIST, or fashion_mnist through TFDS.

    python -m jaxtickets.main --config=configs/ae_fashion.py:quick

Eight rounds of 1,500 steps at 16x16 in 1 to 2 minutes on two CPU cores. The held-out error is 0.0255 for the dense
network and 0.0271 at 83% sparsity, the sparsest within 10%.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="conv_ae", width=32, latent_size=32, image_size=32)
    config.objective.update(name="autoencoder")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="files:/usr/share/datasets/fashion-mnist")
    config.train.update(batch_size=128, epochs=15)
    config.prune.update(rounds=12, rate=0.2)
    config.eval.update(samples=10_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=16, latent_size=16, image_size=16)
        config.train.update(batch_size=64, epochs=0, steps=1500, log_every=50)
        config.prune.update(rounds=8)
        config.eval.update(samples=2048)
    return config

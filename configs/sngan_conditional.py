"""Winning tickets in a class-conditional SNGAN: projection discriminator, conditional batch norm (Miyato, Koyama 2018).

    python -m jaxtickets.main --config=configs/sngan_conditional.py

The published settings on CIFAR-10, twenty rounds of 640 epochs (100,000 steps of the generator), for a GPU or a TPU.
This experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/sngan_conditional.py:quick

Two rounds of 800 steps on the digits in about 3 minutes on two CPU cores. `fd_digits` is 26.2 for the dense network;
no pruned round is within 10%, the best has 36.1 at 36% sparsity. Each row of the sample grid is one class, with little
variety within it.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="sngan_resnet", width=128, latent_size=128, image_size=32, conditional=True)
    config.objective.update(name="gan", loss="hinge", n_critic=5)
    config.optimizer.update(learning_rate=2e-4, beta1=0.0, beta2=0.9)
    config.data.update(name="cifar10")
    config.train.update(batch_size=64, epochs=640)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=16, latent_size=64, image_size=16)
        # 150 images per class are few: without augmentation all images of a class become one.
        config.objective.update(n_critic=1, ema_decay=0.99, augmentations=("translation",))
        config.optimizer.update(learning_rate=1e-3, discriminator_learning_rate=2e-3)
        config.data.update(name="digits")
        config.train.update(epochs=0, steps=800, log_every=50)
        config.prune.update(rounds=2)
        config.eval.update(samples=2048, features="digits")
    return config

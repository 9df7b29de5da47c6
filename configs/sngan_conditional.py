"""Winning tickets in a class-conditional SNGAN: projection discriminator, conditional batch norm (Miyato, Koyama 2018).

    python -m jaxtickets.main --config=configs/sngan_conditional.py

At the published settings on CIFAR-10, twenty rounds of 640 epochs (100,000 steps of the generator): for a GPU or a
TPU. This file has not been run to its end yet.

    python -m jaxtickets.main --config=configs/sngan_conditional.py:quick

Two rounds of 800 steps on the digits in at most 7 minutes of two shared CPU cores: `fd_digits` is 24.3 dense and 25.1
at 20% sparsity, the winning ticket. A row of the grid is one class, with little variety
within it.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(
        name="sngan_resnet", width=16 if quick else 128, latent_size=64 if quick else 128, conditional=True
    )
    config.model.image_size = 16 if quick else 32
    config.objective.update(name="gan", loss="hinge", n_critic=1 if quick else 5, ema_decay=0.99 if quick else 0.0)
    config.optimizer.update(learning_rate=1e-3 if quick else 2e-4, beta1=0.0, beta2=0.9)
    config.optimizer.discriminator_learning_rate = 2e-3 if quick else 0.0
    # 150 images a class are few: without augmentation the images of a class become one.
    config.objective.augmentations = ("translation",) if quick else ()
    config.data.update(name="digits" if quick else "cifar10")
    config.prune.update(rounds=2 if quick else 20, rate=0.2)
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="digits" if quick else "faces")
    if quick:
        config.train.update(batch_size=64, steps=800, log_every=50)
    else:
        config.train.update(batch_size=64, epochs=640)
    return config

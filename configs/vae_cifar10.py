"""Winning tickets in a convolutional VAE on CIFAR-10.

    python -m jaxtickets.main --config=configs/vae_cifar10.py

At the settings of the paper's reference, on 50,000 training images of 32x32; 100 epochs are 39,000 steps a round,
twenty rounds and the dense run: for a GPU or a TPU. The paper reports winning tickets in VAEs up to 93% sparsity;
this file has not been run to its end yet.

    python -m jaxtickets.main --config=configs/vae_cifar10.py:quick

The same experiment, narrower, on rendered faces and with nothing to download:
500 steps a round, four rounds: about 3 minutes on two CPU cores (and 2 minutes the first time, to render the
faces). `fd_faces` is 457 dense and 301 at 59% sparsity: after so few steps every network still improves, and pruned
ones faster. The samples are blurred faces.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="conv_vae", width=16 if quick else 64, latent_size=32, image_size=32)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="synthetic_faces" if quick else "cifar10")
    config.prune.update(rounds=4 if quick else 20, rate=0.2)
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="faces")
    if quick:
        config.train.update(batch_size=64, steps=500, log_every=50)
    else:
        config.train.update(batch_size=128, epochs=100)
    return config

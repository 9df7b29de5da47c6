"""Winning tickets in a DCGAN on CIFAR-10.

    python -m jaxtickets.main --config=configs/gan_cifar10.py

At the settings of the paper's reference, on 50,000 training images of 32x32; 200 epochs are 100,000 steps a round,
twenty rounds and the dense run: for a GPU or a TPU. The paper reports winning tickets in GANs up to 89% sparsity;
this file has not been run to its end yet.

    python -m jaxtickets.main --config=configs/gan_cifar10.py:quick

The same experiment, narrower, on rendered faces and with nothing to download:
500 steps a round, four rounds: about 6 minutes on two CPU cores (and 2 minutes the first time, to render the
faces). `fd_faces` is 74 dense and 77 at 59% sparsity; the samples are faces, still noisy.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=32 if quick else 128, latent_size=32, image_size=32)
    config.objective.update(name="gan", real_label=0.9 if quick else 1.0)
    config.optimizer.update(learning_rate=4e-4 if quick else 2e-4, beta1=0.5 if quick else 0.9)
    config.data.update(name="synthetic_faces" if quick else "cifar10")
    config.prune.update(rounds=4 if quick else 20, rate=0.2)
    config.eval.update(samples=2048 if quick else 50_000, batch_size=256, features="faces")
    if quick:
        config.train.update(batch_size=64, steps=500, log_every=50)
    else:
        config.train.update(batch_size=100, epochs=200)
    return config

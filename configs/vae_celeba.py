"""Winning tickets in a convolutional VAE on CelebA.

    python -m jaxtickets.main --config=configs/vae_celeba.py

The settings of the paper's reference code, on 162,770 aligned faces, cropped to 178x178 and resized to 32x32: the dense
run and twenty pruned rounds of 100 epochs (127,100 steps) each, for a GPU or a TPU. The paper reports winning tickets
in VAEs up to 93% sparsity. This experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/vae_celeba.py:quick

A narrower network on rendered faces, with nothing to download: four rounds of 500 steps in about 2 minutes on two CPU
cores (and 2 minutes more the first time, to render the faces). `fd_faces` is 500 for the dense network and 352 at 59%
sparsity: after so few steps every network still improves, and pruned ones improve faster. The samples are blurred
faces.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="conv_vae", width=64, latent_size=32, image_size=32)
    config.objective.update(name="vae", beta=1.0)
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="celeb_a")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(rounds=20, rate=0.2)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=16)
        config.data.update(name="synthetic_faces")
        config.train.update(batch_size=64, epochs=0, steps=500, log_every=50)
        config.prune.update(rounds=4)
        config.eval.update(samples=2048, features="faces")
    return config

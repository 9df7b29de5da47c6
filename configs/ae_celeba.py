"""Winning tickets in a convolutional autoencoder on CelebA.

    python -m jaxtickets.main --config=configs/ae_celeba.py

At the settings of the paper's reference, on 162,770 aligned faces, cropped to 178x178 and resized to 32x32; 100
epochs are 127,100 steps a round, twenty rounds and the dense run: for a GPU or a TPU. The paper reports winning
tickets in autoencoders up to 99% sparsity; this file has not been run to its end yet.

    python -m jaxtickets.main --config=configs/ae_celeba.py:quick

The same experiment, narrower, on rendered faces and with nothing to download:
500 steps a round, four rounds: about 3 minutes on two CPU cores (and 2 minutes the first time, to render the
faces). The held-out error is 0.049 dense and 0.044 at 59% sparsity.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.rewind_step = 0.05
    config.model.update(name="conv_ae", width=16 if quick else 64, latent_size=32, image_size=32)
    config.objective.update(name="autoencoder")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="synthetic_faces" if quick else "celeb_a")
    config.prune.update(rounds=4 if quick else 20, rate=0.2)
    if quick:
        config.train.update(batch_size=64, steps=500, log_every=50)
    else:
        config.train.update(batch_size=128, epochs=100)
    return config

"""The paper's reference code, autoencoder: its layers, optimiser and pruning, without its slips.

    python -m jaxtickets.main --config=configs/reference_ae.py

What it follows, what it does not and why is in docs/paper.md. It differs from `ae_cifar10.py`: layers with max pooling
and a code of 512 maps of 2x2, PyTorch's initial kernels and biases, biases that are pruned too, and rounds that start
from the initialisation. `--config.rewind_step=0.05` rewinds late, as the paper does; `--config.data.name=celeb_a` is
the other data set.

50,000 images of CIFAR-10, the dense run and twenty pruned rounds of 100 epochs (39,000 steps) each, for a GPU or a TPU.
The network has 2.9 million parameters. The paper reports winning tickets in autoencoders up to 99% sparsity. This
experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/reference_ae.py:quick

Width 16 and a code of 256 numbers on the digits, five rounds of 1,000 steps in about 2 minutes on two CPU cores. The
held-out error is 0.0144 for the dense network and 0.0148 at 67% sparsity.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.0
    config.model.update(name="pooled_ae", width=32, latent_size=512, image_size=32)
    config.model.update(kernel_init="torch", bias_init="torch")
    config.objective.update(name="autoencoder")
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="cifar10")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(rounds=20, rate=0.2, include=("(kernel|bias)$",))
    if config_lib.is_quick(variant):
        config.model.update(width=16, latent_size=256, image_size=16)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1000, log_every=50)
        config.prune.update(rounds=5)
    return config

"""The paper's reference code, VAE: its widths, loss, optimiser and pruning, without its slips.

    python -m jaxtickets.main --config=configs/reference_vae.py

What it follows, what it does not and why is in docs/paper.md. It differs from `beta_vae.py`: a width of 256, a batch
norm on the encoder's outputs, PyTorch's initial kernels and biases, biases and norms are pruned too, and rounds start
from the initialisation. `--config.rewind_step=0.05` rewinds late, as the paper does; `--config.objective.beta=1` is the
VAE of the commit before; `--config.model.width=64` is the width of the reference's script for CelebA, and
`--config.data.name=celeb_a` the data set.

50,000 images of CIFAR-10, the dense run and twenty pruned rounds of 100 epochs (39,000 steps) each, for a GPU or a TPU.
The network has 88.9 million parameters. The paper reports winning tickets in VAEs up to 93% sparsity. This experiment
has not been run to its end yet.

    python -m jaxtickets.main --config=configs/reference_vae.py:quick

Width 16 on the digits, five rounds of 3,000 steps in about 2 minutes on two CPU cores. `fd_digits` is 160 for the dense
network and falls to 104 at 67% sparsity; without `model.code_norm` and with biases of zero these were 54 and 43.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.0
    config.model.update(name="conv_vae", width=256, latent_size=32, image_size=32)
    config.model.update(code_norm=True, kernel_init="torch", bias_init="torch")
    config.objective.update(name="vae", beta=4.0)
    config.optimizer.update(learning_rate=1e-3, weight_decay=1e-5)
    config.data.update(name="cifar10")
    config.train.update(batch_size=128, epochs=100)
    config.prune.update(rounds=20, rate=0.2, include=("(kernel|bias|scale)$",))
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=16, image_size=16)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=3000, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048, features="digits")
    return config

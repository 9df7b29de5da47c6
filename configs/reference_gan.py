"""The paper's reference code, GAN: its DCGAN, initialisation, optimiser and pruning, without its slips.

    python -m jaxtickets.main --config=configs/reference_gan.py

What it follows, what it does not and why is in docs/paper.md. It differs from `gan_cifar10.py`: the first discriminator
layer has a batch norm, kernels and biases start as in PyTorch, biases and norms are pruned too, the generator's first
and the discriminator's last layer stay dense, and rounds start from the initialisation. `--config.rewind_step=0.05`
rewinds late, as the paper does; `--config.optimizer.learning_rate=1e-3` is the default of the reference's command line;
`--config.data.name=celeb_a` is the other data set.

50,000 images of CIFAR-10, the dense run and twenty pruned rounds of 200 epochs (100,000 steps) each, for a GPU or a
TPU: at the 2.1 ms of a DCGAN step on an H100 that is about 75 minutes of training. The paper reports winning tickets in
GANs up to 89% sparsity. This experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/reference_gan.py:quick

Width 48 on the digits, five rounds of 700 steps in about 2 minutes on two CPU cores. `fd_digits` is 84 for the dense
network and 106 to 124 for the tickets, none of which is within the tolerance. The samples are digits on grey ground, an
effect of that first batch norm.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.rewind_step = 0.0
    config.model.update(name="dcgan", width=128, latent_size=32, image_size=32)
    config.model.update(first_norm=True, kernel_init="torch", bias_init="torch")
    config.objective.update(name="gan")
    config.optimizer.update(learning_rate=2e-4, beta1=0.9)
    config.data.update(name="cifar10")
    config.train.update(batch_size=100, epochs=200)
    config.prune.update(rounds=20, rate=0.2, include=("(kernel|bias|scale)$",))
    config.prune.exclude = ("^generator/unproject/conv/", "^discriminator/project/")
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=48, image_size=16)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=700, log_every=50)
        config.prune.update(rounds=5)
        config.eval.update(samples=2048, features="digits")
    return config

"""Early-bird tickets in a DCGAN: finds channels in the first epochs, removes the rest, trains the smaller network.

    python -m jaxtickets.main --config=configs/early_bird_gan.py

The paper's GAN on CelebA at 32x32, 200 epochs of 1,627 steps, for a GPU or a TPU. It draws a mask after each epoch
until the last five are alike, in turn for 50%, 70% and 88% fewer FLOPs. The paper reports up to 88% fewer FLOPs and 54%
less training time. This experiment has not been run to its end yet.

    python -m jaxtickets.main --config=configs/early_bird_gan.py:quick

Width 48 on the digits, 1,800 steps (78 epochs), in about 1.5 minutes on two CPU cores. Over five seeds `fd_digits` is
13.5 for the dense network, and 1.4, 1.8 and 3.8 times that at 53, 73 and 90% fewer FLOPs: no winning ticket, though the
same network with single weights pruned has one at 67%. The tickets emerge in epochs 7 to 13. Random channels are as
good (docs/results.md).
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    config = config_lib.get_config()
    config.experiment = "early_bird"
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=128, latent_size=32, image_size=32)
    config.objective.update(name="gan")
    config.optimizer.update(learning_rate=2e-4, beta1=0.9)
    config.data.update(name="celeb_a")
    config.train.update(batch_size=100, epochs=200)
    config.prune.update(structure="channel", score="gamma", target="flops", scope="layerwise", channel_multiple=8)
    config.prune.sparsities = (0.5, 0.7, 0.88)
    config.eval.update(samples=50_000, batch_size=256)
    if config_lib.is_quick(variant):
        config.model.update(width=48, latent_size=64, image_size=16)
        config.objective.update(real_label=0.9, ema_decay=0.997)
        config.optimizer.update(learning_rate=1e-3, beta1=0.5)
        config.data.update(name="digits")
        config.train.update(batch_size=64, epochs=0, steps=1800, log_every=50)
        config.early_bird.update(until=0.3)  # Of 78 epochs.
        config.eval.update(samples=8192, features="digits")
    return config

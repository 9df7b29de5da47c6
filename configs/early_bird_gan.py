"""Early-bird tickets in a DCGAN: channels found in the first epochs, taken out, and a smaller network trained.

    python -m jaxtickets.main --config=configs/early_bird_gan.py

The paper's GAN on CelebA at 32x32, 200 epochs of 1,627 steps, for a GPU or a TPU: a mask after each epoch, until the
last five are alike; then half, 70% and 88% fewer FLOPs. The paper reports up to 88% fewer and 54% less training
time; this file has not been run to its end yet.

    python -m jaxtickets.main --config=configs/early_bird_gan.py:quick

A width of 48 on the digits, 700 steps (30 epochs), about 1.5 minutes on two CPU cores. `fd_digits` is 23 dense, and 29,
31 and 40 at 53, 73 and 90% fewer FLOPs: no winning ticket within 10%. The tickets emerge in epochs 5 to 10, a third
of so short a training.
"""

from jaxtickets import config as config_lib


def get_config(variant=""):
    quick = config_lib.is_quick(variant)
    config = config_lib.get_config()
    config.experiment = "early_bird"
    config.rewind_step = 0.05
    config.model.update(name="dcgan", width=48 if quick else 128, latent_size=64 if quick else 32)
    config.model.image_size = 16 if quick else 32
    config.objective.update(name="gan", real_label=0.9 if quick else 1.0)
    config.optimizer.update(learning_rate=3e-4 if quick else 2e-4, beta1=0.5 if quick else 0.9)
    config.data.update(name="digits" if quick else "celeb_a")
    config.prune.update(structure="channel", score="gamma", target="flops", scope="layerwise", channel_multiple=8)
    config.prune.sparsities = (0.5, 0.7, 0.88)
    if quick:
        config.train.update(batch_size=64, steps=700, log_every=50)
        config.early_bird.until = 0.5  # Of 30 epochs.
        config.eval.update(samples=2048, batch_size=256, features="digits")
    else:
        config.train.update(batch_size=100, epochs=200)
        config.eval.update(samples=50_000, batch_size=256, features="faces")
    return config

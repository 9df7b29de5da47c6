"""Losses against written-out numbers, SciPy and PyTorch."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from conftest import init

from jaxtickets import models
from jaxtickets.objectives import autoencoder, gan, normal, vae
from jaxtickets.objectives.autoencoders import gaussian_kl, squared_error
from jaxtickets.objectives.gan import non_saturating_discriminator, non_saturating_generator

SIZES = dict(width=4, latent_size=6, image_size=16, channels=1)


def test_non_saturating_losses_are_minus_log_probabilities():
    real, fake = np.float32([[0.3], [-2.0]]), np.float32([[1.5], [0.1]])
    sigmoid = scipy.special.expit
    expected = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
    assert non_saturating_discriminator(real, fake) == pytest.approx(expected, rel=1e-6)
    assert non_saturating_generator(fake) == pytest.approx(-np.log(sigmoid(fake)).mean(), rel=1e-6)


def test_label_smoothing_moves_the_target_of_real_images_only():
    real, fake = np.float32([[0.3], [-2.0]]), np.float32([[1.5], [0.1]])
    sigmoid = scipy.special.expit
    smoothed = -(0.9 * np.log(sigmoid(real)) + 0.1 * np.log(1 - sigmoid(real))).mean()
    expected = smoothed - np.log(1 - sigmoid(fake)).mean()
    assert non_saturating_discriminator(real, fake, 0.9) == pytest.approx(expected, rel=1e-6)


def test_gaussian_kl_agrees_with_numerical_integration():
    mean, log_variance = 0.7, -0.4
    x = np.linspace(-12, 12, 200_001)
    variance = np.exp(log_variance)
    log_q = -0.5 * ((x - mean) ** 2 / variance + log_variance + np.log(2 * np.pi))
    log_p = -0.5 * (x**2 + np.log(2 * np.pi))
    integral = np.trapezoid(np.exp(log_q) * (log_q - log_p), x)
    assert gaussian_kl(jnp.array([[mean]]), jnp.array([[log_variance]]))[0] == pytest.approx(integral, rel=1e-5)


def test_the_vae_loss_is_squared_error_summed_over_pixels_plus_beta_kl_averaged_over_the_batch():
    components = models.conv_vae(**SIZES)
    params, batch_stats = init(components)
    images = jax.random.uniform(jax.random.key(1), (5, 16, 16, 1), minval=-1)
    keys = jax.random.split(jax.random.key(2), 5)
    objective = vae(components, SimpleNamespace(beta=4.0))
    loss, (_, scalars) = jax.jit(objective.losses["vae"])(params, batch_stats, images, keys)

    code, _ = models.apply(components, params, batch_stats, "encoder", images, True)
    mean, log_variance = np.split(np.asarray(code), 2, axis=1)
    latents = mean + np.exp(log_variance / 2) * np.asarray(normal(keys, 6))
    reconstructions, _ = models.apply(components, params, batch_stats, "decoder", latents, True)
    errors = ((np.asarray(images) - np.asarray(reconstructions)) ** 2).reshape(5, -1).sum(axis=1)
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1)
    assert loss == pytest.approx((errors + 4 * kl).mean(), rel=1e-5)
    assert scalars["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    np.testing.assert_allclose(squared_error(images, reconstructions), errors, rtol=1e-5)


def test_the_held_out_elbo_is_made_of_its_two_terms_without_beta():
    components = models.conv_vae(**SIZES)
    params, batch_stats = init(components)
    images = jnp.zeros((3, 16, 16, 1))
    terms = vae(components, SimpleNamespace(beta=4.0)).evaluate(
        params, batch_stats, images, jax.random.split(jax.random.key(0), 3)
    )
    np.testing.assert_allclose(terms["negative_elbo"], terms["reconstruction"] + terms["kl"], rtol=1e-6)


def test_the_autoencoder_loss_is_the_mean_squared_error_of_its_reconstructions():
    components = models.conv_ae(**SIZES)
    params, batch_stats = init(components)
    images = jax.random.uniform(jax.random.key(1), (5, 16, 16, 1), minval=-1)
    objective = autoencoder(components, None)
    loss, _ = objective.losses["autoencoder"](params, batch_stats, images, None)
    reconstructions = objective.reconstruct(params, batch_stats, images)
    assert loss == pytest.approx(float(np.square(np.asarray(images) - np.asarray(reconstructions)).mean()), rel=1e-5)


# One DCGAN step in PyTorch with the same weights, images and latents.


def _torch_dcgan(torch, params, width):
    """The networks of `models.dcgan` at 16x16 in PyTorch, with our weights."""
    nn = torch.nn

    def weight(kernel, transposed):
        # Ours is [h, w, in, out]; PyTorch's is [in, out, h, w] when transposed and [out, in, h, w] when not.
        # PyTorch's transposed convolution is the transpose of a convolution, like ours, so nothing is flipped.
        return torch.tensor(np.asarray(kernel).transpose((2, 3, 0, 1) if transposed else (3, 2, 0, 1)))

    def conv(layer, stride, padding, transposed):
        kernel = layer["conv"]["kernel"]
        make = nn.ConvTranspose2d if transposed else nn.Conv2d
        module = make(kernel.shape[2], kernel.shape[3], kernel.shape[0], stride, padding, bias="bias" in layer["conv"])
        module.weight.data = weight(kernel, transposed)
        if module.bias is not None:
            module.bias.data = torch.tensor(np.asarray(layer["conv"]["bias"]))
        return module

    def norm(layer):
        module = nn.BatchNorm2d(layer["norm"]["scale"].shape[0])
        module.weight.data = torch.tensor(np.asarray(layer["norm"]["scale"]))
        module.bias.data = torch.tensor(np.asarray(layer["norm"]["bias"]))
        return module

    g, d = params["generator"], params["discriminator"]
    generator = nn.Sequential(
        *(conv(g["unproject"], 1, 0, True), norm(g["unproject"]), nn.ReLU()),
        *(conv(g["up_8"], 2, 1, True), norm(g["up_8"]), nn.ReLU()),
        *(conv(g["up_16"], 2, 1, True), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(conv(d["down_16"], 2, 1, False), nn.ReLU()),
        *(conv(d["down_8"], 2, 1, False), norm(d["down_8"]), nn.ReLU()),
        conv(d["project"], 1, 0, False),
    )
    return generator, discriminator


def test_a_dcgan_step_agrees_with_pytorch_in_losses_and_all_gradients():
    torch = pytest.importorskip("torch")
    components = models.dcgan(**SIZES)
    params, batch_stats = init(components)
    images = jax.random.uniform(jax.random.key(1), (8, 16, 16, 1), minval=-1)
    keys = jax.random.split(jax.random.key(2), 8)
    objective = gan(components, SimpleNamespace(real_label=0.9))

    torch_generator, torch_discriminator = _torch_dcgan(torch, params, SIZES["width"])
    latents = torch.tensor(np.asarray(normal(keys, 6)))[:, :, None, None]
    real = torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    for player, network in (("discriminator", torch_discriminator), ("generator", torch_generator)):
        fakes = torch_generator(latents)
        if player == "discriminator":
            logits = torch_discriminator(real), torch_discriminator(fakes.detach())
            torch_loss = bce(logits[0], torch.full((8, 1, 1, 1), 0.9)) + bce(logits[1], torch.zeros(8, 1, 1, 1))
        else:
            torch_loss = bce(torch_discriminator(fakes), torch.ones(8, 1, 1, 1))
        expected = torch.autograd.grad(torch_loss, list(network.parameters()))

        def loss(own, player=player):
            return objective.losses[player]({**params, player: own}, batch_stats, images, keys)[0]

        value, gradients = jax.jit(jax.value_and_grad(loss))(params[player])
        assert value == pytest.approx(torch_loss.item(), rel=1e-4)
        transposed = player == "generator"
        order = ("unproject", "up_8", "up_16") if transposed else ("down_16", "down_8", "project")
        ours = []
        for layer in order:
            kernel = np.asarray(gradients[layer]["conv"]["kernel"])
            ours.append(kernel.transpose((2, 3, 0, 1) if transposed else (3, 2, 0, 1)))
            if "norm" in gradients[layer]:
                ours += [gradients[layer]["norm"]["scale"], gradients[layer]["norm"]["bias"]]
            else:
                ours.append(gradients[layer]["conv"]["bias"])
        assert len(ours) == len(expected)
        for mine, theirs in zip(ours, expected, strict=True):
            scale = float(theirs.abs().max())
            np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-4 * max(scale, 1e-3))

"""The generator or decoder of a ticket as StableHLO (`jax.export`), with its weights inside."""

import jax
import jax.numpy as jnp
from jax import export

from jaxtickets import models
from jaxtickets.models import convolution
from jaxtickets.opening import Opened

PLATFORMS = ("cpu", "cuda", "tpu")
MAKES_IMAGES = ("generator", "decoder")


def exported(opened: Opened) -> tuple[bytes, dict]:
    """`(the serialised function, how it is called as JSON values)`: latents -> images, for any number of them."""
    name = next(name for name in MAKES_IMAGES if name in opened.objective.components)
    component = opened.objective.components[name]
    (batch,) = export.symbolic_shape("batch")
    arguments = [jax.ShapeDtypeStruct((batch, *component.input_shape), jnp.float32)]
    if component.classes:
        arguments.append(jax.ShapeDtypeStruct((batch,), jnp.int32))

    def images(latents, labels=None):
        trees = jax.tree.map(jnp.asarray, (opened.params, opened.batch_stats))  # Labels index no NumPy array.
        return models.apply(opened.objective.components, *trees, name, latents, False, labels)[0]

    with convolution.computed_as("xla"):  # One computation for all platforms.
        made = export.export(jax.jit(images), platforms=PLATFORMS)(*arguments)
    (output,) = made.out_avals
    inputs = [{"name": "latents", "shape": ["batch", *component.input_shape], "dtype": "float32"}]
    if component.classes:
        inputs.append({"name": "labels", "shape": ["batch"], "dtype": "int32", "below": component.classes})
    about = {
        "component": name,
        "inputs": inputs,
        "output": {"shape": ["batch", *output.shape[1:]], "dtype": output.dtype.name, "range": [-1, 1]},
        "latents": "standard normal" if opened.objective.latents else "codes, as the encoder makes them",
        "platforms": list(PLATFORMS),
        "call": "jax.export.deserialize(bytearray(open(FILE, 'rb').read())).call(latents)",
        "calling_convention_version": made.calling_convention_version,
    }
    return bytes(made.serialize()), about

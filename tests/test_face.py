"""`import jaxtickets as jt`: documented names, loaded when they are used."""

import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

import jaxtickets as jt


@pytest.mark.parametrize("name", jt.__all__)
def test_every_name_is_there_and_documented(name):
    thing = getattr(jt, name)
    assert inspect.getdoc(thing)
    assert name in jt.__doc__
    assert inspect.ismodule(thing) or name in (thing.__name__, "run")


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        jt.prun  # noqa: B018


def test_the_import_is_light():
    slow = ("jax", "flax", "orbax", "matplotlib", "tensorflow_datasets", "numpy")
    script = f"import sys, jaxtickets as jt; print([name for name in {slow} if name in sys.modules], dir(jt))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == f"[] {jt.__all__}\n"


def test_pruning_a_network_of_ones_own_loads_no_orbax_matplotlib_or_tfds():
    script = """
import sys, numpy as np, jaxtickets as jt
params = {"net": {"dense": {"kernel": np.arange(12.0).reshape(3, 4)}}}
mask = jt.masks.ones(params)
print(jt.masks.sparsity(jt.prune(jt.magnitude(params, mask), mask, 0.5)))
print([name for name in ("orbax", "matplotlib", "tensorflow_datasets") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "0.5\n[]\n"


def test_a_training_loop_of_ones_own_needs_no_tfds_orbax_or_matplotlib():
    # As in an installation without them: each import of one raises.
    script = """
import sys, tempfile
for name in ("orbax", "orbax.checkpoint", "matplotlib", "tensorflow_datasets", "tensorflow", "array_record"):
    sys.modules[name] = None
import jax, numpy as np, optax, jaxtickets as jt
for name in set(jt.__all__) - {"Workdir", "get_config", "load_ticket", "models", "run", "save_ticket", "train"}:
    getattr(jt, name)
params = {"w": np.arange(8.0, dtype=np.float32).reshape(2, 4)}
with tempfile.TemporaryDirectory() as path:
    found = jt.imp(lambda params, masks, key: params, params, key=jax.random.key(0), rounds=1, rate=0.5, workdir=path)
tx = jt.sparsify(optax.sgd(0.1), jt.schedules.one_shot(0.5))
print(found[1].sparsity, jt.masks.sparsity(jt.masks_of(tx.update(params, tx.init(params), params)[1])))
print([name for name in ("flax", "sklearn", "scipy", "PIL", "ml_collections") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "0.5 0.5\n[]\n"


def test_the_face_prunes_a_tree_by_magnitude():
    params = {"net": {"dense": {"kernel": jnp.array([[3.0, -1.0], [2.0, -4.0]]), "bias": jnp.ones(2)}}}
    mask = jt.masks.ones(params)
    mask = jt.prune(jt.magnitude(params, mask), mask, 0.5)
    kept = jt.masks.apply(params, mask)
    np.testing.assert_array_equal(kept["net"]["dense"]["kernel"], [[3, 0], [0, -4]])
    np.testing.assert_array_equal(kept["net"]["dense"]["bias"], [1, 1])


def test_the_readmes_example_of_a_network_of_ones_own_runs():
    text = (ROOT / "README.md").read_text().partition("## Your own network")[2]
    example = text.partition("```python\n")[2].partition("```")[0]
    key = jax.random.key(0)
    params = {"net": {"a": {"kernel": jax.random.normal(key, (4, 8))}, "b": {"kernel": jax.random.normal(key, (8, 2))}}}
    names = {"net": {"a": {"kernel": (None, "hidden")}, "b": {"kernel": ("hidden", None)}}}

    def loss_fn(params, batch=None):
        batch = jnp.ones((3, 4)) if batch is None else batch
        return jnp.square(batch @ params["net"]["a"]["kernel"] @ params["net"]["b"]["kernel"]).mean()

    space = {"params": params, "names": names, "loss_fn": loss_fn, "batches": [jnp.ones((3, 4))], "optax": optax}
    space |= {"key": key, "train_fn": lambda params, masks, key: params}
    exec(example, space)  # noqa: S102
    assert jt.masks.counts(space["mask"]).kept == round(0.1 * 32) + round(0.1 * 16)
    assert [len(space["rounds"]), round(space["rounds"][-1].sparsity, 1)] == [11, 0.9]
    assert jt.masks.sparsity(jt.masks_of(space["tx"].init(params))) == pytest.approx(0.9, abs=0.01)
    assert space["smaller"]["net"]["a"]["kernel"].shape == (4, 4)
    assert space["smaller"]["net"]["b"]["kernel"].shape == (4, 2)

"""The code of docs/library.md and docs/from_other_libraries.md, executed."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, environment

import jaxtickets as jt

PAGE = (ROOT / "docs" / "library.md").read_text()
TABLES = (ROOT / "docs" / "from_other_libraries.md").read_text()
ROWS = re.findall(r"^\| (.*) \| `(.*)` \|$", TABLES, re.MULTILINE)


@pytest.mark.slow
def test_the_code_of_the_librarys_page_runs(tmp_path):
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:6]] == ["0.0%", "30.0%", "51.0%", "65.7%", "76.0%", "83.2%"]
    assert "90.0%" in lines  # Gradual pruning reached its end.


def test_each_row_of_the_tables_has_code_and_every_line_of_them_is_a_row():
    lines = [line for line in TABLES.splitlines() if line.startswith("|") and "---" not in line]
    assert len(ROWS) + 3 == len(lines) and len(ROWS) > 55


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the rows may speak of."""
    shapes = [(8, 16), (16, 8)]
    draw = lambda seed: [  # noqa: E731
        {"kernel": jax.random.normal(jax.random.key(seed), shape), "bias": jnp.zeros(shape[1])} for shape in shapes
    ]
    params = draw(0)
    dense = jt.masks.ones(params)
    masks = jt.prune(jt.magnitude(params, dense), dense, 0.2)

    def loss(params, batch):
        return jnp.square(jnp.tanh(batch @ params[0]["kernel"]) @ params[1]["kernel"]).mean()

    batches, tx = [jnp.ones((4, 8))], optax.adam(0.01)
    sparse = jt.sparsify(tx, jt.schedules.one_shot(0.5))
    gradients = jax.grad(loss)(params, batches[0])
    return {
        "jt": jt, "jax": jax, "jnp": jnp, "optax": optax, "params": params, "fresh": draw(1), "dense": dense,
        "masks": masks, "loss": loss, "batches": batches, "tx": tx, "gradients": gradients, "key": jax.random.key(0),
        "state": sparse.update(gradients, sparse.init(params), params)[1],
        "train_fn": lambda params, masks, key: jt.masks.apply(params, masks),
        "early": lambda params, masks, key: jax.tree.map(lambda w, g: w - 0.1 * g, params, gradients),
    }  # fmt: skip


@pytest.mark.parametrize(("there", "code"), ROWS)
def test_what_a_thing_is_called_here_runs(names, tmp_path, monkeypatch, there, code):
    monkeypatch.chdir(tmp_path)
    found = eval(code, names)  # noqa: S307
    if isinstance(found, jt.schedules.Schedule):
        found = jt.sparsify(names["tx"], found)
    if isinstance(found, optax.GradientTransformation):
        update = found.update(names["gradients"], found.init(names["params"]), names["params"])
        assert jax.tree.structure(update[0]) == jax.tree.structure(names["params"])
    else:
        assert found is not None


def lowest(scores, n):
    """The mask without the `n` lowest of an array's entries."""
    kept = np.ones(scores.size, bool)
    kept[np.argsort(scores, axis=None, kind="stable")[:n]] = False
    return kept.reshape(scores.shape)


def again(weights):
    """30% of a layer's weights, and 30% of those that are left; the count is that of the whole layer."""
    return lowest(abs(weights), round(0.51 * weights.size))


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ('`l1_unstructured(module, "weight", 0.3)`', lambda w: lowest(abs(w), round(0.3 * w.size))),
        (
            '`ln_structured(module, "weight", 0.3, n=1, dim=0)`',
            lambda w: lowest(abs(w).sum(0), round(0.3 * w.shape[1])),
        ),
        ("`ln_structured(..., n=2, dim=0)`", lambda w: lowest((w * w).sum(0), round(0.3 * w.shape[1]))),
        ("`dim=1`, inputs instead of outputs", lambda w: lowest(abs(w).sum(1), round(0.3 * len(w)))[:, None]),
        ("`PruningContainer`: `l1_unstructured` again, 30% of the rest", again),
    ],
)
def test_what_torch_prunes_in_each_module_is_pruned_in_each_layer(there, expected):
    draw = np.random.default_rng(0).normal
    weights = [draw(size=(8, 10)).astype(np.float32), 10 * draw(size=(10, 5)).astype(np.float32)]  # Other magnitudes.
    params = [{"kernel": jnp.asarray(own)} for own in weights]
    dense = jt.masks.ones(params)
    masks = jt.prune(jt.magnitude(params, dense), dense, 0.3, scope="layerwise")
    space = {"jt": jt, "jax": jax, "jnp": jnp, "params": params, "dense": dense, "masks": masks}
    found = eval(dict(ROWS)[there], space)  # noqa: S307
    for own, layer in zip(weights, found, strict=True):
        np.testing.assert_array_equal(layer["kernel"], np.broadcast_to(expected(own), own.shape))

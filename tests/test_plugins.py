"""Mistakes in plug-ins from outside: each is one clear error, as early as it can be seen."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import open_run, tiny

from jaxtickets.config import validate
from jaxtickets.errors import UserError
from jaxtickets.experiments import METHODS, Method
from jaxtickets.experiments.method import any_score
from jaxtickets.fields import Field, Registry, whole
from jaxtickets.metrics import METRICS, Metric
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.pruning import SCORES, Score, magnitude
from jaxtickets.runs import Networks, Setup, judge, judge_seeds
from jaxtickets.runs.scoring import pruned


@pytest.fixture
def ae(data_directory):
    return lambda **changes: tiny("ae_digits", data_directory, **changes)


@pytest.fixture
def adding(monkeypatch):
    """Adds a plug-in to a registry for the length of a test."""
    return lambda registry, plugin: monkeypatch.setitem(registry, plugin.name, plugin)


@pytest.mark.parametrize(
    ("plugin", "error", "message"),
    [
        (magnitude, TypeError, "is no plug-in, which has a name, fields and a check"),
        (Metric("m", "a metric", terms=("mae",)), TypeError, "'m' is a Metric; allowed is a Score"),
        (Score("magnitude", magnitude), ValueError, "there is a plug-in called 'magnitude' already"),
        (
            Score("s", magnitude, fields=(Field("prune.power", None, whole(1), "The power."),)),
            ValueError,
            "field 'prune.power' of s: its default is None; allowed is a whole number of at least 1",
        ),
        (
            Score("s", magnitude, fields=(Field("prune.power", 0, whole(1), "The power."),)),
            ValueError,
            "its default is 0; allowed is a whole number of at least 1",
        ),
        (
            Score("s", magnitude, fields=(Field("prune.power.of", 1, whole(1), "The power."),)),
            ValueError,
            "field 'prune.power.of' of s: a name is a word, or group.word",
        ),
    ],
)
def test_a_plugin_that_no_registry_can_hold_is_refused_when_it_is_added(plugin, error, message):
    scores = Registry("prune.score", *SCORES.values())
    with pytest.raises(error, match=message):
        scores.add(plugin)
    assert list(scores) == list(SCORES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Score("s"), "score 's': either `weights` or `channels`"),
        (lambda: Method("m", None, columns={"density": "d"}), "method 'm': every run has the columns density already"),
        (lambda: Metric("m", "x"), "either `features` or `terms`"),
        (lambda: Metric("m", "x", terms=("a",), main="b"), "main='b' is none of its columns"),
        (lambda: Metric("m", "x", terms=("a",), better="more"), "better='more'; allowed is lower or higher"),
    ],
)
def test_a_plugin_that_contradicts_itself_is_refused_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


WRONG_SCORES = {
    "one leaf": (lambda params, masks: {"encoder": np.ones(3)}, "is no leaf"),
    "another shape": (lambda params, masks: jax.tree.map(lambda leaf: leaf[:1], magnitude(params, masks)), "is \\(1,"),
    "every leaf": (lambda params, masks: jax.tree.map(abs, params), "none, since it is not prunable"),
}


@pytest.mark.parametrize("name", WRONG_SCORES)
def test_a_score_of_another_tree_than_the_masks_is_refused_by_its_leaf(name, ae, adding):
    function, message = WRONG_SCORES[name]
    adding(SCORES, Score("wrong", function))
    networks = Networks(ae(**{"prune.score": "wrong"}))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), networks.params)
    run = type("Stand", (), {"config": networks.config, "networks": networks, "seed": 0})
    state = type("Stand", (), {"params": params})
    with pytest.raises(ValueError, match=f"score 'wrong': its leaf .*{message}"):
        pruned(run, state, networks.dense_masks, 0.5)


def test_a_score_that_asks_for_what_no_run_has_is_refused_before_training(ae, adding):
    adding(SCORES, Score("fruity", lambda params, masks, banana: magnitude(params, masks)))
    with pytest.raises(ValueError, match="score 'fruity' asks for banana; allowed are start, movement, seed"):
        Networks(ae(**{"prune.score": "fruity"}))


def test_a_game_and_a_network_of_other_components_are_refused(ae, adding):
    adding(OBJECTIVES, dataclasses.replace(OBJECTIVES["autoencoder"], components=("encoder",)))
    with pytest.raises(
        ValueError, match="game 'autoencoder': the components are encoder; network 'conv_ae' has decoder"
    ):
        Networks(ae())


@pytest.mark.parametrize("columns", [("sparsity",), ("reconstruction_error",)])
def test_a_metric_whose_column_is_another_ones_is_refused(columns, ae, adding):
    adding(METRICS, Metric("mine", "x", terms=("reconstruction_error",), columns=columns))
    config = ae(**{"eval.metrics": ("reconstruction_error", "mine")})
    with pytest.raises(UserError, match=rf"config.eval.metrics=.*metrics of different columns; {columns[0]} is one of"):
        validate(config, 1)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            Metric("mine", "x", terms=("nonsense",)),
            "metric 'mine' reads nonsense; `evaluate` gives reconstruction_error",
        ),
        (
            Metric(
                "mine", "x", terms=("reconstruction_error",), columns=("a", "b"), measure=lambda means, config: (1,)
            ),
            "metric 'mine' has 2 columns and measures 1 numbers",
        ),
        (
            Metric("mine", "x", features="digits", columns=("a",)),
            "metric 'mine' needs `sample` of the objective of game",
        ),
    ],
)
def test_a_metric_that_does_not_fit_its_game_is_refused_by_name(metric, message, ae, adding, digits_metric):
    adding(METRICS, metric)
    with pytest.raises(ValueError, match=message):
        setup = Setup(ae(**{"eval.metrics": ("mine",)}))
        state = setup.init(0)
        setup.evaluator.evaluate(state.params, state.batch_stats, 0)


def test_a_metric_whose_column_is_the_methods_is_refused(ae, adding):
    adding(METHODS, dataclasses.replace(METHODS["imp"], name="mine", columns={"reconstruction_error": "error"}))
    with pytest.raises(UserError, match="reconstruction_error is one of the method too"):
        validate(ae(experiment="mine"), 1)


def skips_a_round(run):
    run.round(0, run.dense_masks, run.initial_state)
    run.round(2, run.dense_masks, run.initial_state)


def adds_a_column(run):
    run.round(0, run.dense_masks, run.initial_state, columns={"sparsity": 0.7})


def adds_a_column_compacted(run):
    run.round(0, run.dense_masks, run.initial_state)
    run.compacted_round(1, run.dense_masks, run.initial_state, columns={"mine": 1})


RECIPES = {
    "adds a column to a smaller network": (adds_a_column_compacted, "`Method.columns` lacks mine"),
    "begins with round 1": (lambda run: run.round(1, run.dense_masks, run.initial_state), "round 1 can't follow"),
    "skips a round": (skips_a_round, "round 2 can't follow; the next is 1"),
    "adds a column": (adds_a_column, "`Method.columns` lacks sparsity"),
    "reads the dense state": (lambda run: run.dense, "round 0 comes first"),
    "trains nothing": (lambda run: None, "its recipe has trained no round"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_breaks_the_rules_is_told_which(name, ae, adding, quick_runs, tmp_path, base):
    recipe, message = RECIPES[name]
    adding(METHODS, Method("mine", recipe, scores=any_score))
    setup = Setup(ae(experiment="mine"), like=base("ae_digits"))
    with pytest.raises(ValueError, match=f"mine: .*{message}"), open_run(setup, tmp_path / "run") as run:
        METHODS["mine"].recipe(run)
        run.finish()


def test_a_round_that_prunes_nothing_is_no_winning_ticket():
    rows = [{"round": n, "sparsity": s, "m": v} for n, (s, v) in enumerate([(0.0, 1.0), (0.5, 9.0), (0.0, 1.0)])]
    assert judge(rows, "m", "metric", 0.1)["winning_round"] is None
    assert "nothing was pruned" in judge([rows[0], rows[2]], "m", "metric", 0.1)["message"]
    seeds = [row | {"seed": seed, "m": row["m"] + seed / 100} for seed in range(3) for row in rows]
    verdict = judge_seeds(seeds, "m", "metric", 0.1, 0.95)
    assert verdict["winning_round"] is None
    assert [row["wins"] for row in verdict["rounds"]] == [None, False, None]
    unpruned = judge_seeds([row for row in seeds if row["round"] != 1], "m", "metric", 0.1, 0.95)
    assert "nothing was pruned" in unpruned["message"]

"""The experiments of the paper, in four sizes: the sweeps that `launch.reproduce` runs.

Nine networks are pruned iteratively. One GAN and one VAE get controls, and are compared with pruning at initialisation;
their tickets move into each other, and from one data set to another. Early-bird channels are compared with channels
chosen at initialisation. `get_sweep` is the sweep, `tables` says which runs are compared.

| suite | networks | data | where |
|---|---|---|---|
| `smoke` | tiny, 2 rounds of 20 steps, one seed | embedded | two CPU cores, minutes; it only shows that all works |
| `embedded` | small, 20 rounds, five seeds | digits and rendered faces, embedded | two CPU cores, a day by estimate |
| `fashion` | the paper's, 20 rounds of 15 epochs, five seeds | Fashion-MNIST and rendered faces | a GPU |
| `paper` | the paper's, 20 rounds, five seeds | CIFAR-10, CelebA, MNIST | GPUs |
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtickets import named_configs
from jaxtickets.errors import UserError
from jaxtickets.names import near

CONTROLS = "branch.kind=reinit,random_pruning,shuffled,dense_short"
SCORES = "prune.score=snip,grasp,synflow,random"
# Without a search, the fields that only a search reads must have their defaults.
AT_INIT = {"experiment": "at_init", "early_bird.until": 0.25, "early_bird.every": 0}
# A search that finds nothing takes its last mask, so that every method has the same FLOPs.
EARLY_BIRD = {"early_bird.on_no_early_bird": "take_last"}
FASHION = "files:/usr/share/datasets/fashion-mnist"


class Suite(NamedTuple):
    """One size of all experiments.

    Attributes:
      networks: the config and the values of each of the nine networks, by name. `gan` and `vae` are among them.
      wide: values that give `vae` the inner layers of `gan`, so that tickets can move between them.
      across: the network whose tickets move to other data and back, and the values of the other data.
      studied: the networks that get controls and are compared with pruning at initialisation.
      early_birds: the config of each network whose channels are pruned, by name.
      searched: values of those runs that search for early-bird channels.
      common: values of all runs, and `pruned` of those that prune weights iteratively or at initialisation.
    """

    networks: Mapping[str, tuple[str, Mapping[str, Any]]]
    wide: Mapping[str, Any]
    across: tuple[str, Mapping[str, Any]]
    studied: Sequence[str]
    early_birds: Mapping[str, str]
    searched: Mapping[str, Any]
    common: Mapping[str, Any]
    pruned: Mapping[str, Any]


def _networks(variants: Mapping[str, str], **values: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {name: (config, values.get(name, values.get("others", {}))) for name, config in variants.items()}


OTHERS = {  # The networks beside `gan`, `vae` and `ae`.
    "resnet_gan": "resnet_dcgan.py",
    "beta_vae": "beta_vae.py",
    "linear_vae": "linear_vae.py",
    "resnet_vae": "resnet_vae.py",
    "vq_vae": "vq_vae.py",
    "linear_ae": "linear_ae.py",
}
QUICK = {name: f"{file}:quick" for name, file in OTHERS.items()}
QUICK_EARLY_BIRDS = {"gan": "early_bird_gan.py:quick", "vae": "early_bird_vae.py:quick"}
DIGITS = {"gan": "gan_digits.py", "vae": "vae_digits.py", "ae": "ae_digits.py"}
FACES = {"data.name": "synthetic_faces", "eval.features": "faces"}
OF_FASHION = {
    "data.name": FASHION,
    "train.epochs": 15,
    "train.batch_size": 128,
    "eval.samples": 10_000,
    "eval.features": "labels",
}

SUITES = {
    "smoke": Suite(
        networks=_networks({name: f"{file}:quick" for name, file in DIGITS.items()} | QUICK, gan={"model.width": 24}),
        wide={"model.width": 24},
        across=("vae", {"data.name": "synthetic_faces", "eval.metrics": ("negative_elbo",)}),
        studied=("gan",),
        early_birds={"vae": "early_bird_vae.py:quick"},
        searched={"early_bird.every": 2, "early_bird.until": 0.6},
        common={"train.steps": 20, "train.log_every": 10, "eval.samples": 64},
        pruned={"prune.rounds": 2},
    ),
    "embedded": Suite(
        networks=_networks(DIGITS | QUICK),
        wide={"model.width": 48},
        across=("gan", FACES),
        studied=("gan", "vae"),
        early_birds=QUICK_EARLY_BIRDS,
        searched={},
        common={"seeds": 5},
        pruned={"prune.rounds": 20},
    ),
    "fashion": Suite(
        networks=_networks(
            {name: f"{name}_fashion.py" for name in DIGITS} | OTHERS, others=OF_FASHION, **{name: {} for name in DIGITS}
        ),
        wide={"model.width": 64},
        across=("gan", FACES),
        studied=("gan", "vae"),
        early_birds={"gan": "early_bird_gan.py", "vae": "early_bird_vae.py"},
        searched={},
        common={"seeds": 5},
        pruned={"prune.rounds": 20},
    ),
    "paper": Suite(
        networks=_networks({name: f"{name}_cifar10.py" for name in DIGITS} | OTHERS),
        wide={"model.width": 128},
        across=("gan", {"data.name": "celeb_a"}),
        studied=("gan", "vae"),
        early_birds={"gan": "early_bird_gan.py", "vae": "early_bird_vae.py"},
        searched={},
        common={"seeds": 5},
        pruned={"prune.rounds": 20},
    ),
}


def get_sweep(suite: str = "") -> list[dict[str, Any]]:
    """The experiments of a suite, each after those whose tickets it needs.

    Raises:
      UserError: there is no such suite.
    """
    if suite not in SUITES:
        named = f"launch/paper.py:{suite}: no such suite" if suite else "launch/paper.py: the suite is missing"
        raise UserError(f"--config={named}; allowed are {', '.join(SUITES)}{near(suite, SUITES)}")
    chosen = SUITES[suite]
    found = []

    def add(name, config, *values, grid=()):
        merged = {field: value for part in (chosen.common, *values) for field, value in part.items()}
        found.append({"name": name, "config": str(named_configs.directory() / config), "values": merged, "grid": grid})

    for name, (config, values) in chosen.networks.items():
        add(name, config, values, chosen.pruned)
    for name in chosen.studied:
        config, values = chosen.networks[name]
        add(f"{name}_control", config, values, {"experiment": "branch", "branch.of": f"{{{name}}}"}, grid=CONTROLS)
        add(f"{name}_at_init", config, values, chosen.pruned, {"experiment": "at_init"}, grid=SCORES)

    (gan, of_gan), (vae, of_vae) = chosen.networks["gan"], chosen.networks["vae"]
    of_vae = {**of_vae, **chosen.wide}
    add("wide_vae", vae, of_vae, chosen.pruned)
    add("vae_to_gan", gan, of_gan, _transfer("wide_vae"))
    add("gan_to_vae", vae, of_vae, _transfer("gan"))
    name, other_data = chosen.across
    config, values = chosen.networks[name]
    values_there = {**values, **other_data}
    add("other_data", config, values_there, chosen.pruned)
    add("to_other_data", config, values_there, _transfer(name))
    add("from_other_data", config, values, _transfer("other_data"))

    for name, config in chosen.early_birds.items():
        data = OF_FASHION if suite == "fashion" else {}
        add(f"{name}_early_bird", config, data, EARLY_BIRD, chosen.searched)
        add(f"{name}_channels_at_init", config, data, AT_INIT, grid=SCORES)
    return found


def _transfer(name):
    return {"experiment": "transfer", "transfer.of": f"{{{name}}}"}


def tables(suite: str) -> dict[str, list[str]]:
    """The experiments whose runs each table and its figure compare."""
    chosen = SUITES[suite]
    across = chosen.across[0]
    return {
        "networks": list(chosen.networks),
        **{f"{name}_controls": [name, f"{name}_control"] for name in chosen.studied},
        **{f"{name}_pruning_at_initialisation": [name, f"{name}_at_init"] for name in chosen.studied},
        "transfer_to_gan": ["gan", "vae_to_gan"],
        "transfer_to_vae": ["wide_vae", "gan_to_vae"],
        "transfer_to_other_data": ["other_data", "to_other_data"],
        "transfer_from_other_data": [across, "from_other_data"],
        **{f"{name}_early_bird": [f"{name}_early_bird", f"{name}_channels_at_init"] for name in chosen.early_birds},
    }

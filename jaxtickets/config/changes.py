"""Fields that may have another value when a run is started again in its workdir: what is done already stays as it is.

Every other field may not: its new value would make other rounds than those that are there.
"""

from jaxtickets import metrics
from jaxtickets.experiments import METHODS
from jaxtickets.fields import Change
from jaxtickets.objectives import OBJECTIVES


def _levels(config):
    return METHODS[config.experiment].levels(config.prune)


def _metrics(config):
    return [metric.name for metric in metrics.chosen(config, OBJECTIVES[config.objective.name])]


def _adds_rounds(there, here):
    before = _levels(there)
    return _levels(here)[: len(before)] == before


def _adds_seeds(there, here):
    return there.seeds > 1 and here.seeds >= there.seeds and there.seeds % there.tickets_per_device == 0


def _allowed_seeds(there):
    if there.seeds == 1:
        return "1, because the workdir of one seed has no place for others"
    if there.seeds % there.tickets_per_device:
        groups = f"config.tickets_per_device={there.tickets_per_device} has trained together"
        return f"{there.seeds}, because more would change the groups that {groups}"
    return f"a whole number of at least {there.seeds}"


MORE_ROUNDS = Change(
    _adds_rounds,
    lambda there: f"what adds rounds to the {len(_levels(there)) - 1} and leaves their sparsities as they are",
    "A started run takes up more rounds.",
)
MORE_SEEDS = Change(_adds_seeds, _allowed_seeds, "A started run of several seeds takes up more.")
OTHER_ORDER = Change(
    lambda there, here: sorted(_metrics(there)) == sorted(_metrics(here)),
    lambda there: f"some order of {', '.join(_metrics(there))}; `python -m jaxtickets.evaluate` takes others",
    "A started run takes up another order, and with it another metric of the verdict.",
)
ANY = Change(lambda there, here: True, lambda there: "any", "A started run takes up another value.")

"""A ticket trained again from its file, as the run that has found it trained it."""

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import tickets
from jaxtickets.data import identity
from jaxtickets.errors import UserError
from jaxtickets.experiments.branch import trained_as
from jaxtickets.experiments.method import Method
from jaxtickets.experiments.protocol import Run
from jaxtickets.fields import Field, refuse, text
from jaxtickets.local_paths import local_path
from jaxtickets.origin import completed, differences
from jaxtickets.progress import say

FIELDS = (Field("ticket.of", "", text(), "The ticket file whose ticket is trained again."),)


def ticket(run: Run) -> None:
    """Trains the ticket of `config.ticket.of` from the file alone, after its own dense run.

    Masks, parameters, batch statistics, the step and the seed are those of the file. So are the optimiser's moments;
    where the file leaves them out, they are those of the dense run at the same step. So round 1 is the round that has
    found the ticket, bit for bit on the same kind of device, and round 0 its dense run.
    """
    found = source(run.networks, run.seed)
    point = tickets.load_state(found.path, run.initial_state)
    run.expect(2)
    run.round(0, run.dense_masks, run.initial_state)
    if not found.has_moments:
        _compare(found, run.rewind_point)
        point = point.replace(opt_state=run.rewind_point.opt_state, average=run.rewind_point.average)
    if found.metadata["config"].get("rewind") == "weights":
        point = point.replace(opt_state=run.initial_state.opt_state)
    run.start_from(point)
    is_smaller = found.metadata["config"]["prune"]["structure"] == "channel"
    (run.compacted_round if is_smaller else run.round)(1, found.masks, run.rewound(found.masks, run.dense))


def _compare(found, point):
    """Says so if the dense run's `point` is another one than the ticket's."""
    ours, theirs = (mask_lib.apply(point.params, found.masks), point.batch_stats), (found.params, found.batch_stats)
    if not all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs))):
        say(
            f"{found.path}: its rewind point is not bit for bit this dense run's at step {int(point.step)}, as on "
            "another kind of device; the weights are the file's, the optimiser's moments those of this dense run"
        )


def source(networks, seed: int) -> tickets.Ticket:
    """The ticket that `config.ticket.of` names.

    Raises:
      UserError: it was trained otherwise or on other data, or its file does not have what its round started from.
    """
    from jaxtickets.experiments import METHODS  # Here, because the registry holds this module's method.

    what = f"config.ticket.of={networks.config.ticket.of!r}"
    found = tickets.load_ticket(local_path(networks.config.ticket.of, "config.ticket.of"))
    config, verdict = tickets.run_of(found.metadata, found.path)
    there, here = completed(config, networks.json_defaults), networks.json_config | {"seed": seed}
    if here["eval"]["features"] == "auto":  # No metric reads it, else it would be a network's name.
        here["eval"] = here["eval"] | {"features": there["eval"]["features"]}
    method = METHODS.get(there["experiment"])
    goes_on = there["rewind"] in ("learning_rate", "none") and not (method and method.search_steps)
    if method is None or method.update_steps or goes_on:
        how = f"experiment={there['experiment']!r} and rewind={there['rewind']!r}"
        raise UserError(f"{what}: found with {how}, whose round has not started from what a ticket file holds")
    if differing := differences(trained_as(there), trained_as(here)):
        advice = "`python -m jaxtickets.tickets extract` writes the config for it"
        raise UserError(f"{what}: trained with another config: {differing}; {advice}")
    if not found.has_moments and there["rewind_step"] != here["rewind_step"]:
        steps = f"config.rewind_step={here['rewind_step']}: the dense run has the moments that {found.path} leaves out"
        raise UserError(f"{steps}, at the step of its run; allowed is {there['rewind_step']}")
    identity.check(verdict.get("data"), networks.data, what, "a ticket is trained again on the data of its run")
    return found


def _check(config):
    if not config.ticket.of:
        refuse("ticket.of", "", "a ticket file")
    local_path(config.ticket.of, "config.ticket.of")


TICKET = Method(
    "ticket",
    ticket,
    fields=FIELDS,
    check=_check,
    provides=("dense",),
    prunes=False,
    rewinds_late=True,
    source=source,
    rounds=lambda found: 2,
    apart=lambda config: "config.experiment='ticket', whose networks may differ in size",
)

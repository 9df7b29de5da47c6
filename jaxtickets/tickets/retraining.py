"""The config that trains a ticket again from its file."""

import os
from pathlib import Path

from jaxtickets import config as config_lib
from jaxtickets.experiments.branch import PRUNABLE
from jaxtickets.tickets.ticket import load_ticket, run_of

# A config file: `python -m jaxtickets.main --config=THIS`.
SCRIPT = '''"""Trains the ticket again: `python -m jaxtickets.main --config={name} --workdir=DIR`."""

from jaxtickets.tickets import retraining


def get_config(variant=""):
    del variant
    return retraining.config({path!r})
'''


def config(path: str | os.PathLike):
    """The config of a ticket's run, with which `jaxtickets.main` trains the ticket of the file again.

    Raises:
      UserError: the file is no ticket of a run, or that of another version.
    """
    ticket = load_ticket(path)
    found = config_lib.from_dict(run_of(ticket.metadata, path)[0])
    defaults = config_lib.flat(config_lib.get_config(), known=config_lib.fields())
    own = {field.name for field in config_lib.method(found).fields}
    own |= {name for name in defaults if name.startswith("prune.") and name.partition(".")[2] not in PRUNABLE}
    own |= {"rewind_step", "confidence", "tickets_per_host", "tickets_per_device", "seeds"}
    found.update_from_flattened_dict({name: value for name, value in defaults.items() if name in own})
    found.experiment, found.ticket.of = "ticket", str(Path(ticket.path).resolve())
    return found

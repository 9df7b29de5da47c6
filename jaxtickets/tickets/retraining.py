"""The config that trains a ticket again from its file."""

import os
from pathlib import Path

from jaxtickets import config as config_lib
from jaxtickets.errors import UserError
from jaxtickets.experiments.branch import PRUNABLE
from jaxtickets.tickets.content import NAME
from jaxtickets.tickets.ticket import load_ticket, run_of

SCRIPT = '''"""Trains the ticket again: `python -m jaxtickets.main --config=THIS_FILE --workdir=DIR`."""

from pathlib import Path

from jaxtickets.tickets import retraining

TICKET = {place}


def get_config(variant=""):
    return retraining.config(TICKET, variant)
'''


def script(path: Path | None) -> str:
    """A config file that trains the ticket of a file; None: that of the directory in which the config file lies."""
    place = f"Path(__file__).with_name({NAME!r})" if path is None else f"Path({str(path.resolve())!r})"
    return SCRIPT.format(place=place)


def config(path: str | os.PathLike, variant: str = ""):
    """The config of a ticket's run, with which `jaxtickets.main` trains the ticket of the file again.

    Args:
      variant: what stands after the colon in `--config=FILE:VARIANT`; there is none of a ticket.

    Raises:
      UserError: the file is no ticket of a run, or that of another version, or a variant is asked for.
    """
    if variant:
        raise UserError(f"--config=NAME:{variant}: a ticket has no variants; allowed is NAME alone")
    ticket = load_ticket(path)
    found = config_lib.from_dict(run_of(ticket.metadata, path)[0])
    defaults = config_lib.flat(config_lib.get_config(), known=config_lib.fields())
    own = {field.name for field in config_lib.method(found).fields}
    own |= {name for name in defaults if name.startswith("prune.") and name.partition(".")[2] not in PRUNABLE}
    own |= {"confidence", "tickets_per_host", "tickets_per_device", "seeds"}
    if not config_lib.method(found).rewinds_late:
        own.add("rewind_step")
    found.update_from_flattened_dict({name: value for name, value in defaults.items() if name in own})
    found.experiment, found.ticket.of = "ticket", str(Path(ticket.path).resolve())
    return found

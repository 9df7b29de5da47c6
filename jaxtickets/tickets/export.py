"""Tickets for other programs: PyTorch's state dicts, and the generator as a function in StableHLO."""

import os
from importlib.util import find_spec
from pathlib import Path

import jax
from safetensors.numpy import save

from jaxtickets import config as config_lib
from jaxtickets import files
from jaxtickets.errors import UserError
from jaxtickets.tickets import stablehlo, torch_export
from jaxtickets.tickets.extract import check_place
from jaxtickets.tickets.ticket import load_ticket, run_of

FORMATS = ("torch", "stablehlo")
TWIN = "torch_twins.load(FILE, COMPONENT) of jaxtickets.tickets makes the module"


def export(path: str | os.PathLike, to: str, out: Path, overwrite: bool = False) -> list[str]:
    """Writes the network of a ticket for another program; returns lines that say what was written.

    The weights are the trained ones, or those of the rewind point if there are none, which is told. Pruned weights are
    zero. A compacted network stays compacted.

    Args:
      to: "torch", the state dict of all components in safetensors; "stablehlo", the generator or decoder as
        `jax.export` serialises it, and `<out>.json` that says how it is called.

    Raises:
      UserError: the file is no ticket of a run, the place is refused, or a package is missing.
    """
    check_place(out, overwrite)
    if to == "stablehlo":
        second = out.with_name(f"{out.name}.json")
        check_place(second, overwrite)
        if find_spec("flatbuffers") is None:
            raise UserError("--to=stablehlo: needs the package flatbuffers; pip install 'jaxtickets[export]'")
    ticket = load_ticket(path)
    try:
        run_of(ticket.metadata, path)
    except UserError as error:
        raise UserError(
            f"{error}, because only a config says how the network is built; the arrays of any ticket are written, as "
            "safetensors, by: python -m jaxtickets.tickets extract FILE --out=DIR"
        ) from None
    opened = ticket.opened
    if to == "torch":
        components = opened.objective.components
        state = torch_export.state_dict(components, opened.params, opened.batch_stats)
        model = config_lib.to_dict(opened.config)["model"]
        files.replace(out, save(state, metadata=torch_export.metadata(components, model)))
        return [f"{out}: {', '.join(components)} as a state dict; {TWIN}"]
    content, about = stablehlo.exported(opened)
    about |= {"file": out.name, "ticket": Path(ticket.path).name, "jax": jax.__version__, "network": opened.title}
    files.replace(out, content)
    files.replace(second, files.json_bytes(about))
    shape = ", ".join(map(str, about["inputs"][0]["shape"]))
    return [f"{out}: {about['component']} ([{shape}] -> images); {second} says how it is called"]

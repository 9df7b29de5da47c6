"""Whether the tickets that train together fit into the memory of their devices."""

from jaxtickets.devices import memory
from jaxtickets.errors import UserError
from jaxtickets.runs.meeting import Meeting, Seat
from jaxtickets.runs.setup import Setup
from jaxtickets.stopping import Stop


def check(setup: Setup, tickets: int, flag: str = "config.tickets_per_device") -> None:
    """Refuses more tickets in one program than the devices of a setup have memory for.

    The program is compiled, because only then its memory is known: parameters, moments, masks, data and activations.
    Where a back end does not tell how much memory it has, nothing is refused, and nothing is compiled.

    Args:
      flag: that asks for this number, for the message.

    Raises:
      UserError: it does not fit.
    """
    here = memory(setup.devices)
    if tickets == 1 or here is None:
        return
    together = Setup(setup.config, like=setup, seat=Seat(Meeting(tickets, Stop()), 0)).step_bytes
    if together is None or together <= here:
        return
    each = max(1, (together - setup.step_bytes) // (tickets - 1))  # What one more ticket takes.
    most = min(max(1, 1 + (here - setup.step_bytes) // each), tickets - 1)
    sizes = f"a train step of {tickets} takes {together / 2**30:.2f} GiB, and a device has {here / 2**30:.2f}"
    allowed = f"a whole number from 1 to {most}" if most > 1 else "1"
    raise UserError(f"{flag}={tickets}: allowed is {allowed}: {sizes}")

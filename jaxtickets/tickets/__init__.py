"""Ticket files: masks, the rewind point and what was trained from it, in one small file (docs/tickets.md).

`python -m jaxtickets.tickets info|verify|export|extract FILE` shows them, verifies them, and makes other files of them.
"""

from jaxtickets.tickets.ticket import Ticket, load_state, load_ticket, load_trained, run_of, save_ticket

__all__ = ["Ticket", "load_state", "load_ticket", "load_trained", "run_of", "save_ticket"]

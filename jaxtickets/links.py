"""Connections between the hosts of a run: how they find each other, and how one sees that another has gone."""

import contextlib
import json
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge

import numpy as np

from jaxtickets import ending
from jaxtickets.errors import UserError
from jaxtickets.progress import say
from jaxtickets.stopping import Stop

BEAT_SECONDS = 1
SILENCE_SECONDS = 30  # After which a host is taken for dead.
REACH_SECONDS = 5  # That an address has to answer.
ADDRESS_BYTES = 1024
BEAT, ORDER, END = "beat", "order", "end"


class Link:
    """A connection to another host, which is watched in a thread of its own."""

    def __init__(self, connection: Connection, name: str, stop: Stop, leads: bool):
        """leads: whether this end of it is the leader's."""
        self.orders, self.gone = queue.SimpleQueue(), threading.Event()
        self._connection, self._name, self._stop, self._leads = connection, name, stop, leads
        self._sending, self._is_closing = threading.Lock(), False
        for target in (self._watch, self._beat):
            threading.Thread(target=target, name=f"link to {name}", daemon=True).start()

    def send(self, message) -> None:
        """Sends a message. Of a host that has gone the watching thread tells."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(message)

    def end(self, status: int) -> None:
        """Tells that this process ends, so that its silence is no loss."""
        self._is_closing = True
        self.send((END, status))

    def _beat(self):
        while not self.gone.wait(BEAT_SECONDS):
            self.send((BEAT, self._stop.is_set()))

    def _watch(self):
        loss, is_told = None, False
        try:
            while self._connection.poll(SILENCE_SECONDS):
                kind, content = self._connection.recv()
                if kind == ORDER:
                    self.orders.put(content)
                elif kind == END:
                    is_first, self._is_closing = not self._is_closing, True
                    ended = f"{self._name} has ended with exit status {content}, and says why"
                    if not self._leads and content:
                        ending.leave(content, ended)
                    if not self._leads:
                        self.orders.put(None)
                    elif content in (128 + number for number in ending.SIGNALS):
                        is_told = self._pass_on(is_told)
                    elif content and is_first and not self._stop.is_set():
                        self._stop.abort(ended)  # It would wait for this host's answer.
                elif content and self._leads:
                    is_told = self._pass_on(is_told)
            loss = f"has not answered for {SILENCE_SECONDS} s"
        except (EOFError, OSError):
            loss = "has gone"
        self.gone.set()
        if not self._is_closing and not (self._leads and self._stop.is_set()):
            self._stop.abort(f"{self._name} {loss}; start the same command on all hosts again")

    def _pass_on(self, is_told):
        """A signal that another host was sent is as one to the leader, which saves."""
        if not is_told and not self._stop.is_set():
            say(f"{self._name} was asked to end")
            os.kill(os.getpid(), signal.SIGTERM)
        return True


# Finding each other.


def packed(key: bytes, port: int, coordinator: str | None) -> np.ndarray:
    """The leader's key and addresses as `[ADDRESS_BYTES]` uint8, which all processes are given."""
    known = [coordinator.rpartition(":")[0].strip("[]")] if coordinator else []
    with contextlib.suppress(OSError):
        known += [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        outward.connect(("192.0.2.1", 9))  # Nothing is sent: it says by which address others see this host.
        known.append(outward.getsockname()[0])
    names = list(dict.fromkeys([*known, "127.0.0.1"]))
    text = json.dumps([key.hex(), port, names]).encode()
    return np.frombuffer(text.ljust(ADDRESS_BYTES), np.uint8)


def unpacked(told: np.ndarray) -> tuple[bytes, int, list[str]]:
    """The key, the port and the addresses in what `packed` has made."""
    key, port, names = json.loads(told.astype(np.uint8).tobytes())
    return bytes.fromhex(key), port, names


def reached(names: Sequence[str], port: int, key: bytes) -> Connection:
    """The connection to the leader, at the first of its addresses that answers.

    Raises:
      UserError: none does.
    """
    for name in names:
        try:
            socket.create_connection((name, port), REACH_SECONDS).close()
            return Client((name, port), authkey=key)
        except (OSError, EOFError, AuthenticationError):
            continue
    where = f"port {port} of {', '.join(names)}"
    raise UserError(f"host 0 can't be reached at {where}; allowed is a network without a firewall between the hosts")


def accepted(server: socket.socket, key: bytes, count: int, seconds: float) -> dict[int, tuple]:
    """`{number: (connection, name, identity)}` of all other hosts; `server` is closed then.

    Raises:
      UserError: one has not come in time.
    """
    came, found, deadline = queue.SimpleQueue(), {}, time.monotonic() + seconds

    def greet(connection):
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            number, *about = connection.recv()
        except (OSError, EOFError, AuthenticationError):  # Somebody else, or one that has tried an address.
            return connection.close()
        came.put((number, (connection, *about)))

    with server:
        server.settimeout(0.1)
        while len(found) < count:
            if time.monotonic() > deadline:
                raise UserError(
                    "not all hosts have reached host 0; allowed is a network without a firewall between the hosts"
                )
            with contextlib.suppress(TimeoutError):
                connection = Connection(server.accept()[0].detach())
                # A thread each: one that says nothing keeps nobody waiting.
                threading.Thread(target=greet, args=(connection,), name="greeting", daemon=True).start()
            while not came.empty():
                number, about = came.get()
                found[number] = about
    return found

"""Several hosts that train one run: process 0 leads, and the others follow it.

The leader is an ordinary run. It alone decides, measures, and reads and writes the workdir, which the others need not
see. Before each train step that spans all devices it tells the followers which one comes (`runs.following`), over a
connection of its own to each. Over these connections it is also seen soon that a host has gone.
"""

import contextlib
import hashlib
import json
import os
import queue
import secrets
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets import ending, origin
from jaxtickets.errors import UserError
from jaxtickets.progress import say, speaking_as
from jaxtickets.stopping import Stop

BEAT_SECONDS = 1
SILENCE_SECONDS = 30  # After which a host is taken for dead.
START_SECONDS = 300  # That the hosts have to come together.
REACH_SECONDS = 5  # That an address has to answer.
ADDRESS_BYTES = 1024
BEAT, ORDER, END = "beat", "order", "end"
TPU_HOSTS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


class Hosts:
    """This process among those of all hosts.

    Attributes:
      number: which one it is; 0 leads.
      devices: those of all hosts, host by host.
    """

    def __init__(self, number: int, devices: tuple, links: Mapping[int, "Link"]):
        """links: to the other hosts by their numbers: the leader's to all, a follower's to the leader."""
        self.number, self.devices, self._links = number, devices, links

    @property
    def leads(self) -> bool:
        """Whether this process is the leader."""
        return self.number == 0

    def send(self, order: Any) -> None:
        """Sends an order to every follower, or an answer to the leader."""
        for link in self._links.values():
            link.send((ORDER, order))

    def receive(self) -> list:
        """Waits for the next order of the leader, or for one answer of each follower."""
        return [link.orders.get() for link in self._links.values()]

    def close(self, status: int) -> None:
        """Tells the others with which exit status this process ends, and waits a moment for them to end first.

        The service of `jax.distributed` is in the leader: whoever outlives it is aborted by JAX.
        """
        for link in self._links.values():
            link.end(status)
        deadline = time.monotonic() + ending.PATIENCE / 2
        for link in self._links.values() if self.leads else ():
            link.gone.wait(max(0.0, deadline - time.monotonic()))


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
                    self._is_closing = True
                    if not self._leads and content:
                        ending.leave(content, f"{self._name} has ended with exit status {content}, and says why")
                    if not self._leads:
                        self.orders.put(None)
                    elif content in (128 + number for number in ending.SIGNALS):
                        is_told = self._pass_on(is_told)
                elif content and self._leads:
                    is_told = self._pass_on(is_told)
            loss = f"has not answered for {SILENCE_SECONDS} s"
        except (EOFError, OSError):
            loss = "has gone"
        self.gone.set()
        if not self._is_closing and not (self._leads and self._stop.is_set()):
            self._stop.abort(f"{self._name} {loss}; the same command on all hosts goes on from the last saved state")

    def _pass_on(self, is_told):
        """A signal that another host was sent is as one to the leader, which saves."""
        if not is_told and not self._stop.is_set():
            say(f"{self._name} was asked to end")
            os.kill(os.getpid(), signal.SIGTERM)
        return True


@contextlib.contextmanager
def joined(
    config, coordinator: str | None, count: int | None, number: int | None, stop: Stop
) -> Iterator[Hosts | None]:
    """Within its block this process is one of several hosts, where the flags or the environment say so; else None.

    Args:
      config: must be the same on all hosts.
      coordinator: `HOST:PORT` of host 0.
      count: the number of hosts; 1 is this one alone, whatever the environment says.
      number: which of them this is.

    Raises:
      UserError: the flags are mistaken, the config can't train on several hosts, or hosts differ.
    """
    arguments = _arguments(coordinator, count, number)
    if arguments is None:
        yield None
        return
    _check(config)
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # It would take SIGTERM for itself.
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=START_SECONDS)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the hosts have not come together: {reason}; start the same command on all of them") from None
    hosts = _connected(config, arguments.get("coordinator_address"), stop)
    ending.before_leaving(hosts.close)
    try:
        with speaking_as("" if hosts.leads else f"host {hosts.number}: "):
            yield hosts
    except jax.errors.JaxRuntimeError:
        # A step fails as soon as another host has gone; what is told of it is that, by the thread that watches it.
        time.sleep(2 * ending.PATIENCE)
        raise
    hosts.close(0)


def _arguments(coordinator, count, number) -> dict | None:
    """The arguments of `jax.distributed.initialize`, empty where it finds them by itself; None on one host.

    Raises:
      UserError: one of the flags is missing or not allowed.
    """
    given = {"--coordinator": coordinator, "--hosts": count, "--host": number}
    if count is not None and count < 1:
        raise UserError(f"--hosts={count}: allowed is a whole number of at least 1")
    if count == 1:
        return None
    if missing := [flag for flag, value in given.items() if value is None]:
        if len(missing) < len(given):
            raise UserError(f"{missing[0]} is missing; --coordinator=HOST:PORT, --hosts=N and --host=I go together")
        return {} if _are_several() else None
    if not 0 <= number < count:
        raise UserError(f"--host={number}: allowed are 0 to {count - 1}, with --hosts={count}")
    if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator={coordinator}: allowed is HOST:PORT of host 0, the same on all hosts")
    return {"coordinator_address": coordinator, "num_processes": count, "process_id": number}


def _are_several() -> bool:
    """Whether SLURM has started this process as one of several tasks, or it is a worker of a TPU pod."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return True
    if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        return True
    has_tpu = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0"))) and find_spec("libtpu") is not None
    if not has_tpu:
        return False
    try:
        asked = urllib.request.Request(TPU_HOSTS, headers={"Metadata-Flavor": "Google"})
        return b"," in urllib.request.urlopen(asked, timeout=2).read()
    except OSError:
        return False


def _check(config):
    """Refuses what can't be spread over hosts yet.

    Raises:
      UserError: a field asks for it.
    """
    from jaxtickets import config as config_lib
    from jaxtickets.fields import refuse

    for field in ("tickets_per_host", "tickets_per_device"):
        if config[field] != 1:
            refuse(field, config[field], "1 on several hosts")
    if config_lib.method(config).search_steps:
        refuse("experiment", config.experiment, "a method without a search on several hosts")


# Coming together.


def _connected(config, coordinator, stop) -> Hosts:
    """Connects the leader with all others, and compares what they run.

    Raises:
      UserError: they differ.
    """
    import jax
    from jax.experimental import multihost_utils

    number, count = jax.process_index(), jax.process_count()
    devices = tuple(sorted(jax.devices(), key=lambda device: (device.process_index, device.id)))
    listener, key = None, secrets.token_bytes(32)
    if number == 0:
        listener = Listener(("", 0), backlog=count, authkey=key)
    told = _packed(key, listener.address[1] if listener else 0, coordinator)
    key, port, names = _unpacked(np.asarray(multihost_utils.broadcast_one_to_all(told)))
    own = _identity(config)
    if number:
        connection = _reached(names, port, key)
        connection.send((number, socket.gethostname(), own))
        if (refusal := connection.recv()) is not None:
            raise UserError(refusal)
        return Hosts(number, devices, {0: Link(connection, "host 0", stop, leads=False)})
    others = _accepted(listener, count - 1)
    found = (_difference(own, f"host {other}", others[other][2]) for other in sorted(others))
    refusal = next(filter(None, found), None)
    for connection, *_ in others.values():
        connection.send(refusal)
    if refusal is not None:
        raise UserError(refusal)
    links = {
        other: Link(connection, f"host {other} ({name})", stop, leads=True)
        for other, (connection, name, _) in sorted(others.items())
    }
    return Hosts(number, devices, links)


def _difference(own, name, identity):
    """What another host has differently, in a line for all; None if it is the same."""
    if differing := origin.differences(identity, own):
        return f"{name} (there) and host 0 (here) are to run different things: {differing}; allowed are equal hosts"
    return None


def _identity(config) -> dict:
    """What must be the same on all hosts."""
    import jax

    from jaxtickets import config as config_lib

    local = [device.device_kind for device in jax.local_devices()]
    versions = origin.versions() | {"source": _source()}
    return {"versions": versions, "devices": local, "config": config_lib.to_dict(config)}


def _source() -> str:
    """A digest of the package's source: two checkouts may have the same version."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _packed(key: bytes, port: int, coordinator: str | None) -> np.ndarray:
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


def _unpacked(told: np.ndarray) -> tuple[bytes, int, list[str]]:
    key, port, names = json.loads(told.astype(np.uint8).tobytes())
    return bytes.fromhex(key), port, names


def _reached(names, port, key) -> Connection:
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
    raise UserError(
        f"host 0 can't be reached at port {port} of {', '.join(names)}; allowed is a network without a wall"
    )


def _accepted(listener: Listener, count: int) -> dict[int, tuple]:
    """`{number: (connection, name, identity)}` of all other hosts.

    Raises:
      UserError: one has not come in time.
    """
    came = queue.SimpleQueue()

    def accept():
        while True:
            try:
                connection = listener.accept()
                number, *about = connection.recv()
            except (OSError, EOFError, AuthenticationError):  # Somebody else, or one that has tried an address.
                continue
            came.put((number, (connection, *about)))

    threading.Thread(target=accept, name="hosts", daemon=True).start()
    try:
        return dict(came.get(timeout=START_SECONDS) for _ in range(count))
    except queue.Empty:
        raise UserError("not all hosts have reached host 0; allowed is a network without a wall between them") from None

"""Several hosts that train one run: process 0 leads, and the others follow it.

The leader is an ordinary run. It alone decides, measures, and reads and writes the workdir, which the others need not
see. Before each train step that spans all devices it tells the followers which one comes (`runs.following`), over a
connection of its own to each. Over these connections it is also seen soon that a host has gone.
"""

import contextlib
import hashlib
import os
import secrets
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxtickets import ending, links, origin
from jaxtickets.errors import UserError
from jaxtickets.progress import say, speaking_as
from jaxtickets.stopping import Stop

START_SECONDS = 300  # That the hosts have to come together.
TPU_HOSTS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


class Hosts:
    """This process among those of all hosts.

    Attributes:
      number: which one it is; 0 leads.
      devices: those of all hosts, host by host.
    """

    def __init__(self, number: int, devices: tuple, to_others: Mapping[int, links.Link]):
        """to_others: links to the other hosts by their numbers: the leader's to all, a follower's to the leader."""
        self.number, self.devices, self._links = number, devices, to_others

    @property
    def leads(self) -> bool:
        """Whether this process is the leader."""
        return self.number == 0

    def send(self, order: Any) -> None:
        """Sends an order to every follower, or an answer to the leader."""
        for link in self._links.values():
            link.send((links.ORDER, order))

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
    _say_who_is_awaited(arguments)
    try:
        with _leaves_in_time():
            jax.distributed.initialize(**arguments, initialization_timeout=2 * START_SECONDS)
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
    address, _, port = coordinator.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={coordinator}: allowed is HOST:PORT of host 0, the same on all hosts")
    return {"coordinator_address": coordinator, "num_processes": count, "process_id": number}


def _say_who_is_awaited(arguments):
    """Says it, and with `--coordinator` waits for host 0, because JAX would wait in silence and abort the process.

    Raises:
      UserError: host 0 does not answer.
    """
    if arguments.get("process_id", 0) == 0:
        if arguments:
            others = arguments["num_processes"] - 1
            what = "another host" if others == 1 else f"{others} other hosts"
            say(f"waiting for {what}, for {START_SECONDS} s at most")
        return
    address, _, port = arguments["coordinator_address"].rpartition(":")
    end, is_told = time.monotonic() + START_SECONDS, False
    while True:
        try:
            return socket.create_connection((address.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > end:
                raise UserError(
                    f"--coordinator={address}:{port}: host 0 does not answer there ({error.strerror or error}); "
                    "allowed is the HOST:PORT that host 0 is started with, reached from here"
                ) from None
        if not is_told:
            say(f"waiting for host 0 at {address}:{port}, for {START_SECONDS} s at most")
            is_told = True
        time.sleep(0.5)


@contextlib.contextmanager
def _leaves_in_time() -> Iterator[None]:
    """Ends the process in a line if its block takes more than `START_SECONDS`: JAX would abort it with a C++ stack."""
    line = f"not all hosts have come within {START_SECONDS} s; start the same command on all of them"
    timer = threading.Timer(START_SECONDS, ending.leave, (ending.MISTAKE, line))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
    """Refuses a mistaken config, and what can't be spread over hosts yet, before this one waits for others.

    Raises:
      UserError: a field is mistaken or asks for it.
    """
    from jaxtickets import config as config_lib
    from jaxtickets.fields import refuse

    for field in ("tickets_per_host", "tickets_per_device"):
        if config.get(field, 1) != 1:
            refuse(field, config[field], "1 on several hosts")
    config_lib.validate(config, devices=1)  # How many there are is known, and checked again, once all have come.
    method = config_lib.method(config)
    if method.search_steps:
        refuse("experiment", config.experiment, "a method without a search on several hosts")
    if apart := method.apart(config):
        raise UserError(f"{apart}, is not allowed on several hosts")


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
    server, key = None, secrets.token_bytes(32)
    if number == 0:
        server = socket.create_server(("", 0), backlog=count)
    told = links.packed(key, server.getsockname()[1] if server else 0, coordinator)
    key, port, names = links.unpacked(np.asarray(multihost_utils.broadcast_one_to_all(told)))
    own = _identity(config)
    if number:
        connection = links.reached(names, port, key)
        try:
            connection.send((number, socket.gethostname(), own))
            refusal = connection.recv()
        except (EOFError, OSError):
            raise UserError("host 0 has ended before all hosts had come together, and says why") from None
        if refusal is not None:
            raise UserError(refusal)
        return Hosts(number, devices, {0: links.Link(connection, "host 0", stop, leads=False)})
    others = links.accepted(server, key, count - 1, START_SECONDS)
    found = (_difference(own, f"host {other}", others[other][2]) for other in sorted(others))
    refusal = next(filter(None, found), None)
    for connection, *_ in others.values():
        connection.send(refusal)
    if refusal is not None:
        raise UserError(refusal)
    to_others = {
        other: links.Link(connection, f"host {other} ({name})", stop, leads=True)
        for other, (connection, name, _) in sorted(others.items())
    }
    return Hosts(number, devices, to_others)


def _difference(own, name, identity):
    """What another host has differently, in a line for all; None if it is the same."""
    if differing := origin.differences(identity, own):
        allowed = "equal hosts, or --hosts=1 for a run of its own"
        return f"{name} (there) and host 0 (here) are to run different things: {differing}; allowed are {allowed}"
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

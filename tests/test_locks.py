"""The lock files are current: each requirement of setup.py, and what it needs itself, is in them with all hashes."""

import ast
import importlib.metadata
import re
import sys

import pytest
from conftest import ROOT

packaging = pytest.importorskip("packaging")
from packaging.requirements import Requirement  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402

CPU, CUDA = (ROOT / name for name in ("requirements.lock", "requirements-cuda12.lock"))
LINUX = {"python_version": "3.11", "python_full_version": "3.11.14", "sys_platform": "linux"}
LINUX |= {"platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix"}
LINUX |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}


def locked(path):
    """`{name: version}` of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", path.read_text(), re.MULTILINE))


def wanted():
    """`{extra: requirements}` of setup.py, "" for what is always installed."""
    (call,) = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if _is_setup(node)]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    found = {"": ast.literal_eval(given["install_requires"]), **ast.literal_eval(given["extras_require"])}
    for lines in found.values():  # An extra may contain another one.
        for line in [line for line in lines if line.startswith("jaxtickets[")]:
            lines.remove(line)
            lines += [inner for extra in Requirement(line).extras for inner in found[extra]]
    return found


def _is_setup(node):
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"


def applies(requirement, extras):
    marker = requirement.marker
    return marker is None or any(marker.evaluate(LINUX | {"extra": extra}) for extra in ("", *extras))


def missing(lines, versions, extras=()):
    """The requirements that apply on Python 3.11 on Linux and that the locked versions do not meet."""
    parsed = [one for one in map(Requirement, lines) if applies(one, extras)]
    found = {str(one): versions.get(canonicalize_name(one.name)) for one in parsed}
    return [
        str(one)
        for one in parsed
        if found[str(one)] is None or not one.specifier.contains(found[str(one)], prereleases=True)
    ]


@pytest.mark.parametrize(("path", "extras"), [(CPU, ["test"]), (CUDA, ["cuda12", "datasets"])])
def test_a_lock_file_meets_every_requirement_of_setup_py(path, extras):
    lines = wanted()
    assert missing(sum((lines[extra] for extra in extras), lines[""]), locked(path)) == [], "run launch/lock.sh"


def test_every_requirement_has_a_lower_bound():
    whole = {line for extra in ("", "datasets", "test", "launch") for line in wanted()[extra]}
    assert [line for line in whole if ">=" not in line] == []


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the locks are for Python 3.11")
@pytest.mark.parametrize("path", [CPU, CUDA])
def test_a_lock_file_has_what_the_locked_packages_need(path):
    versions, unmet, known = locked(path), {}, 0
    for name, version in versions.items():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.version == version:  # Of another version it could be others.
            known += 1
            if gaps := missing(distribution.requires or (), versions):
                unmet[name] = gaps
    assert not unmet, "run launch/lock.sh"
    assert known or not versions


@pytest.mark.parametrize("path", [CPU, CUDA])
def test_every_locked_package_has_its_hashes(path):
    entries = re.split(r"^(?=[a-z0-9-]+==)", path.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked(path)) > 50
    assert all(re.search("--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_the_two_lock_files_name_the_same_versions():
    cpu, cuda = locked(CPU), locked(CUDA)
    assert {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]} == set()


def test_the_container_installs_the_lock_with_its_hashes_on_its_python_and_runs_as_a_user():
    text = (ROOT / "launch" / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.11\.\d+-slim-bookworm$", text, re.MULTILINE)
    assert "pip install --require-hashes --requirement requirements-cuda12.lock" in text
    assert text.index("\nUSER 1000") > text.rindex("\nRUN ")
    for copied in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split()), copied

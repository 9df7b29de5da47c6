"""Damaged files are harmless or told: thirty faults here, five hundred in the slow form."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from damage import WAYS, WRONG, Damage, Fault, apply, is_named, kind
from warm import HERE, OPTIMISED, QUICK


@pytest.fixture(scope="module")
def damage(tmp_path_factory):
    with Damage(tmp_path_factory.mktemp("damage"), env=QUICK) as damage:
        yield damage


def told_wrong(damage, faults):
    """A line for each fault whose first reader neither gives the right result nor names the damage."""
    wrong = []
    for fault in faults:
        command = damage.commands(fault)[0]
        verdict, why = damage.judge(fault, command)
        if verdict in WRONG:
            wrong.append(f"{fault}, {command}: {verdict}: {why[-400:]}")
    return "\n".join(wrong)


def test_thirty_damaged_files_of_a_finished_run_and_its_ticket_are_harmless_or_named(damage):
    assert not told_wrong(damage, damage.draw(30, seed=0, names=("short", "ticket")))


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_ticket_is_refused(damage, way):
    verdict, why = damage.judge(Fault("ticket", "ticket.safetensors", way, 0.7, 1), "load")
    assert verdict == "refused" and "ticket.safetensors" in why


def test_a_fault_changes_what_it_says(tmp_path):
    content, path = bytes(range(1, 256)) * 8, tmp_path / "file"
    after = {}
    for way in WAYS:
        path.write_bytes(content)
        assert apply(Fault("finished", "file", way, 0.5, 3), tmp_path)
        after[way] = path.read_bytes() if path.exists() else None
    assert after["delete"] is None and after["cut"] == content[:1020]
    assert after["zero"] == content[:1020] + bytes(512) + content[1532:]
    (at,) = [number for number, pair in enumerate(zip(content, after["flip"], strict=True)) if pair[0] != pair[1]]
    assert at == 1020 and (content[at] ^ after["flip"][at]).bit_count() == 1


def test_every_kind_of_file_is_damaged_in_every_way(damage):
    kinds = damage.kinds(("short",))
    faults = damage.draw(len(WAYS) * len(kinds), seed=1, names=("short",))
    assert set(Counter((fault.kind, fault.way) for fault in faults).values()) == {1}
    assert {kind("short", "masks/012/d/" + 32 * "a"), "short: rounds.csv"} <= set(kinds)


def test_a_line_must_name_the_damage():
    fault = Fault("finished", "masks/001/d/0123", "cut", 0.5, 0)
    assert is_named(fault, "run/masks/001: damaged") and not is_named(fault, "the run is damaged")


@pytest.mark.slow
def test_five_hundred_damaged_files_are_harmless_or_named(tmp_path):
    command = [sys.executable, str(HERE / "damage.py"), "--faults=500", f"--folder={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | OPTIMISED)
    assert ended.returncode == 0, ended.stdout

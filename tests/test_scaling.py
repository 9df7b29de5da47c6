"""docs/scaling.md: its device hours are those of the script that it names."""

import importlib.util

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def device_hours():
    spec = importlib.util.spec_from_file_location("device_hours", ROOT / "benchmarks" / "device_hours.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_table_of_the_script(device_hours):
    assert device_hours.table() in (ROOT / "docs" / "scaling.md").read_text()


def test_the_hours_are_seeds_times_rounds_times_steps_times_milliseconds(device_hours):
    row = device_hours.Row("DCGAN", "CIFAR-10", 50_000, 100, 200, 2.12, 1040)
    assert row.steps == 100_000
    assert row.hours(21, 2.12) == pytest.approx(5 * 21 * 100_000 * 0.00212 / 3600)

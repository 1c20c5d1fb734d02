"""The pins that `make` installs with: one for each dependency on every Python that is supported."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def pins_on(python: str) -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    here = {"python_version": python}
    return [
        canonicalize_name(pin.name) for pin in pins if not pin.marker or pin.marker.evaluate(here)
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_no_package_is_pinned_twice(python):
    pins = pins_on(python)
    assert sorted(pins) == sorted(set(pins))


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_make_installs_is_pinned(python):
    tomllib = pytest.importorskip("tomllib", reason="TOML is read by Python 3.11 and later")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["viz"], *extras["env"], *extras["dev"]]
    wanted = [Requirement(line) for line in asked]
    here = {"python_version": python}
    names = {canonicalize_name(r.name) for r in wanted if not r.marker or r.marker.evaluate(here)}
    assert names <= set(pins_on(python))

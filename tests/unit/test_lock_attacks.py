"""What is locked serves; what was changed, added or isn't listed doesn't run, and is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..lock_attacks import ATTACKS, SERVES
from ..lock_places import WAYS, Place

RUNNER = Path(__file__).parents[1] / "lock_runner.py"


class Runner:
    """A process that forks one for each job, so that what a job does to it is gone."""

    def __init__(self):
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
        self.process = subprocess.Popen(
            [sys.executable, str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.locks = {}

    def __call__(
        self, place, *, lock_to=None, lock=True, paths=(), first="", then="", environ=None, device="cpu"
    ):
        job = {
            "root": str(place.root),
            "path": [str(place.root / path) for path in paths],
            "sites": [str(place.site)],
            "first": first,
            "then": then,
            "environ": (environ or {})
            | ({"MSZOO_LOCK": f"{place.root}/the.lock"} if lock and not lock_to else {}),
            "device": device,
            "lock_to": lock_to,
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def install(self, place, way):
        """Install the plugin, and lock it; the lock of a way is the same everywhere."""
        place.root.mkdir(exist_ok=True)
        WAYS[way](place)
        path = place.root / "the.lock"
        if way not in self.locks:
            assert self(place, lock_to=str(path))["told"] == ""
            self.locks[way] = path.read_text()
        path.write_text(self.locks[way])


@pytest.fixture(scope="module")
def runner():
    made = Runner()
    yield made
    made.process.stdin.close()
    made.process.wait()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_locked_serves(runner, way, tmp_path):
    place = Place(tmp_path)
    runner.install(place, way)
    result = runner(place)
    assert (result["told"], result["answer"]) == (None, "good")
    assert f"good {place.package}.sub.deep" in result["ran"]
    # Without RECORD and top_level.txt only the entry points say what belongs to it.
    single = set() if way == "without_record" else {"good_single"}
    assert json.loads(runner.locks[way])["code"]["good"].keys() >= {
        *single,
        *(
            f"{place.package}.{name}"
            for name in ("plugin", "model", "helper", "late", "sub", "sub.deep", "sub.more")
        ),
    }


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack(runner, name, tmp_path):
    attack, place = ATTACKS[name], Place(tmp_path)
    runner.install(place, attack.way)
    attack.change(place)
    result = runner(
        place,
        paths=attack.paths,
        first=attack.first,
        then=attack.then,
        environ=attack.environ,
        device=attack.device,
    )
    evil = [item for item in result["ran"] if item.startswith("evil")]
    assert bool(evil) == attack.runs
    if attack.told is SERVES:
        assert (result["told"], result["answer"]) == (None, "good")
    else:
        assert attack.told in (result["told"] or "nothing was told")
        assert result["answer"] != "evil"


@pytest.mark.parametrize(
    "name",
    [
        *("a module", "a module added", "bytecode added", "a package beside a module", "a package first"),
        *("a finder that makes modules", "a path hook", "a poisoned cache of importers"),
        *("a loader that leads elsewhere", "changed after the start", "added after the start"),
        *("bytecode that is never checked", "bytecode of the source's time and size"),
        *("bytecode with the source's hash", "bytecode in a cache elsewhere", "bytecode in a zip file"),
        *("hatch that maps elsewhere", "a package in portions, one first", "bytecode without source"),
        *("a distribution that isn't listed", "ops of a distribution that isn't listed"),
    ],
)
def test_without_a_lock_the_attack_succeeds(runner, name, tmp_path):
    attack, place = ATTACKS[name], Place(tmp_path)
    runner.install(place, attack.way)
    attack.change(place)
    result = runner(place, lock=False, paths=attack.paths, first=attack.first, then=attack.then)
    assert any(item.startswith("evil") for item in result["ran"])


def test_there_are_enough():
    assert len(ATTACKS) >= 60
    assert (
        len({(attack.change, attack.first, attack.then, str(attack.environ)) for attack in ATTACKS.values()})
        >= 60
    )

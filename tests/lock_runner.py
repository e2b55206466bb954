"""Locks plugins and serves under locks, each in a forked process: reads jobs from stdin, writes what came of it."""

from __future__ import annotations

import functools
import json
import os
import site
import sys
from typing import Any

from mszoo.registry import lock_plugins, plugins
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import discover
from mszoo.registry.entry_points import readable
from mszoo.registry.errors import MszooError
from mszoo.registry.load import load_catalog
from mszoo.registry.lock_check import differences, enforce, imported_differences, imported_refusal, make_lock
from mszoo.registry.lock_guard import release
from mszoo.registry.objects import load_object
from mszoo.registry.settings import Settings


def others(group: str) -> Any:
    """Leave out mszoo's own plugins: other tests are about them."""
    found, problems = readable(group)
    return [item for item in found if item.dist is None or item.dist.name != "mszoo"], problems


def work(job: dict[str, Any]) -> dict[str, Any]:
    sys.ran = []  # type: ignore[attr-defined]
    sys.path[:0] = job["path"]
    for folder in job["sites"]:
        site.addsitedir(folder)
    before = list(sys.ran)
    told, answer = None, None
    try:
        exec(job["first"], {"root": job["root"]})
        before = list(sys.ran)  # what runs ahead of mszoo, nobody can keep from running
        os.environ |= job["environ"]
        catalog = load_catalog(os.environ, job["device"])
        if job["lock_to"]:
            problems = [*catalog.problems, *lock_plugins.unhashable(make_lock(catalog).code)]
            with open(job["lock_to"], "w") as file:
                file.write(make_lock(catalog).dumps())
            return {"told": "; ".join(map(str, problems)), "answer": None, "ran": []}
        path = catalog.settings.lock
        enforce(path, catalog.differences)
        exec(job["then"], {"root": job["root"]})
        # As the bridge builds a model.
        answer = load_object(catalog.decide("GoodModel").winner.adapter.model)().answer
        refusal = None if path is None else imported_refusal(path)
        if refusal is not None:
            raise refusal
    except BaseException as error:
        # What built the model raised is shown beside what the bridge's comparison finds.
        told = f"{type(error).__name__}: {error}" if not isinstance(error, MszooError) else str(error)
        told += "".join(f"; {item}" for item in imported_differences())
    return {"told": told, "answer": answer, "ran": sys.ran[len(before) :]}


def main() -> None:
    plugins.readable = others
    # Of mszoo itself nothing changes here, and there are many jobs.
    codes_of, own = lock_plugins.codes_of, functools.cache(lambda: codes_of(lock_plugins._own(), "mszoo"))
    lock_plugins.codes_of = lambda distribution, module: (
        own() if module == "mszoo" else codes_of(distribution, module)
    )
    catalog = load_catalog({})
    differences(make_lock(catalog), Catalog(discover(Settings(), lock=make_lock(catalog)), Settings()))
    release()
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.dup2(2, 1)
            with open(writing, "w") as file:
                file.write(json.dumps(work(json.loads(line))))
            os._exit(0)
        os.close(writing)
        with open(reading) as file:
            found = file.read()
        os.waitpid(child, 0)
        print(found or json.dumps({"told": "the process died", "answer": None, "ran": []}), flush=True)


if __name__ == "__main__":
    main()

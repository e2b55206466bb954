"""What ``mszoo explain --processes`` runs: a model in vLLM's processes, each asked what it decided.

Run as ``python -m mszoo.adapters.vllm.cli.explain.worker JOB``; JOB is a JSON file with ``options`` (of vLLM's
``LLM``) and ``result``, the file to write. This process is the front end.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mszoo.registry.objects import load_object


def look(model: Any = None) -> dict[str, Any]:
    """Say what this process decided and, given its model, who serves; runs in the front end and the workers."""
    from mszoo.adapters.vllm.install import install

    catalog = install()
    model_class = None if model is None else f"{type(model).__module__}:{type(model).__qualname__}"
    candidate = getattr(model, "candidate", None)
    return {
        "pid": os.getpid(),
        "digest": catalog.digest() if catalog is not None else None,
        "adapter": getattr(candidate, "qualified_name", None),
        "class": model_class,
    }


def main(path: str) -> None:
    """Start the processes and write what they say: ``front`` and ``workers``."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    from mszoo.adapters.vllm.seam import LLM

    llm = LLM(**job["options"])
    report = {"front": look(), "workers": llm.apply_model(look)}
    Path(job["result"]).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    # Workers find `look` by its module's name, and here that is __main__.
    load_object(f"{__spec__.name}:main")(sys.argv[1])

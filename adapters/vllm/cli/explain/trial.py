"""What ``mszoo explain DIR`` runs: everything that decides who serves a folder, short of reading its weights.

Run as ``python -m mszoo.adapters.vllm.cli.explain.trial JOB``; JOB is a JSON file with ``options`` (of vLLM's
``EngineArgs``) and ``result``, the file to write. It is a process of its own: vLLM's config, its ranks and the
networks that are built stay behind in a process for good.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.cli.explain.verdict import Asked, Verdict
from mszoo.registry.objects import load_object


def decide(options: dict[str, Any]) -> Verdict:
    """Go the way of ``vllm serve`` up to the loading of weights.

    Args:
        options: of vLLM's ``EngineArgs``.
    """
    from mszoo.adapters.vllm.seam import EngineArgs

    try:
        vllm_config = EngineArgs(**options).create_engine_config()
        model_class, architecture = _resolve(vllm_config.model_config)
    except Exception as error:
        return Verdict(None, None, reason=f"vLLM refuses it: {_first_line(error)}")
    if not hasattr(model_class, "vllm_entry"):
        return _of_vllm(model_class, architecture)
    with _one_rank(vllm_config):
        return _of_ours(model_class, vllm_config)


def main(path: str) -> None:
    """Decide, and write the verdict."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    from mszoo.adapters.vllm.install import install

    install()
    verdict = decide(job["options"])
    Path(job["result"]).write_text(json.dumps(asdict(verdict)), encoding="utf-8")


def _resolve(model_config: Any) -> tuple[Any, str]:
    from mszoo.adapters.vllm.models.own import converted

    model_class, architecture = model_config.registry.resolve_model_cls(
        model_config.hf_config.architectures, model_config
    )
    return converted(model_class, model_config), architecture


def _of_vllm(model_class: Any, architecture: str) -> Verdict:
    from mszoo.adapters.vllm.models.own import describe, path_of

    return Verdict(
        architecture, describe(model_class), model=path_of(model_class), reason="no suite provides it"
    )


def _of_ours(model_class: Any, vllm_config: Any) -> Verdict:
    from mszoo.adapters.vllm.models.choice import choose
    from mszoo.adapters.vllm.models.own import describe, path_of
    from mszoo.registry.settings import Settings

    decision, kernels = model_class.decision, Settings.from_environ().kernels
    packed = model_class.packed_modules_mapping
    choice = choose(decision, kernels, model_class.catalog, vllm_config, "", packed)
    names = [candidate.qualified_name for candidate in choice.decision.chain]
    asked = [Asked(name, False, str(refusal)) for name, refusal in zip(names, choice.refusals, strict=False)]
    if choice.built is not None:
        candidate = choice.built.candidate
        asked.append(Asked(candidate.qualified_name, True))
        return Verdict(
            decision.subject,
            candidate.qualified_name,
            candidate.qualified_name,
            choice.built.kernels.name,
            candidate.adapter.model,
            asked=tuple(asked),
        )
    if choice.own is not None:
        return Verdict(
            decision.subject,
            describe(choice.own),
            model=path_of(choice.own),
            reason="every candidate refuses it",
            asked=tuple(asked),
        )
    return Verdict(decision.subject, None, reason=str(choice.error), asked=tuple(asked))


@contextlib.contextmanager
def _one_rank(vllm_config: Any) -> Iterator[None]:
    """Give vLLM's layers the surroundings that a worker's only rank has while it builds its model."""
    from mszoo.adapters.vllm import seam

    with (
        tempfile.TemporaryDirectory() as folder,
        seam.set_current_vllm_config(vllm_config),
        seam.set_default_torch_dtype(vllm_config.model_config.dtype),
    ):
        seam.init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, "gloo")
        seam.ensure_model_parallel_initialized(1, 1)
        yield


def _first_line(error: Exception) -> str:
    """Return the line that says most; pydantic puts it second, behind a count of errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[1] if len(lines) > 1 and "validation error" in lines[0] else lines[0]


if __name__ == "__main__":
    load_object(f"{__spec__.name}:main")(sys.argv[1])

"""Run as a module: says who would serve checkpoints on the stand-in. Networks are built and take a dry step; no
weights are read, and no engine starts.

Standard input: by the name of a job, ``{"options": of vLLM's EngineArgs, "real_attention": bool, "on": device,
"free": bytes of the device that nothing uses}``. The argument names the file to write: by name, ``{"served":
name or null, "network": its class, "own": the class that vLLM serves alone, or null, "refusals": [text]}``.
With ``real_attention`` the backend has the dtypes that vllm-ascend's has, without those of its stand-in. The
device is torch's while a network is built: vLLM's loader makes it the NPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch


def main() -> None:
    from mszoo.adapters.vllm import seam
    from mszoo.adapters.vllm.cli.explain.trial import _one_rank, _resolve
    from mszoo.adapters.vllm.install import install
    from mszoo.adapters.vllm.models.choice import choose

    install()
    found: dict[str, Any] = {}
    with ExitStack() as worker:
        for name, job in json.load(sys.stdin).items():
            config = seam.EngineArgs(**job["options"]).create_engine_config()
            model_class, _ = _resolve(config.model_config)
            if not found:
                worker.enter_context(_one_rank(config))
                prepare(config)
            decision, packed = model_class.decision, model_class.packed_modules_mapping
            with (
                seam.set_current_vllm_config(config),
                seam.set_default_torch_dtype(config.model_config.dtype),
                torch.device(job.get("on", "npu:0")),
                attention(real=job.get("real_attention", False)),
                memory_left(job.get("free")),
            ):
                choice = choose(decision, "auto", model_class.catalog, config, "", packed)
            served = choice.built.candidate.qualified_name if choice.built else None
            network = type(choice.built.network).__name__ if choice.built else None
            refusals = [str(refusal) for refusal in choice.refusals]
            own = choice.own.__name__ if choice.own else None
            found[name] = {"served": served, "network": network, "own": own, "refusals": refusals}
    Path(sys.argv[1]).write_text(json.dumps(found))


def prepare(config: Any) -> None:
    """Do what vllm-ascend's worker does before it builds a model."""
    from vllm_ascend.ascend_config import init_ascend_config
    from vllm_ascend.utils import register_ascend_customop

    init_ascend_config(config)
    register_ascend_customop(config)
    torch.npu.set_device(0)


@contextmanager
def attention(*, real: bool) -> Iterator[None]:
    from vllm.v1.attention.backend import AttentionBackend
    from vllm_ascend.attention.attention_v1 import AscendAttentionBackend

    dtypes = (AttentionBackend if real else AscendAttentionBackend).supported_dtypes
    with mock.patch.object(AscendAttentionBackend, "supported_dtypes", dtypes):
        yield


@contextmanager
def memory_left(count: int | None) -> Iterator[None]:
    """Use all of the device's memory but so many bytes inside; None uses none."""
    free = torch.npu.mem_get_info()[0]
    used = torch.empty(0 if count is None else free - count, dtype=torch.uint8, device="npu:0")
    yield
    del used


if __name__ == "__main__":
    main()

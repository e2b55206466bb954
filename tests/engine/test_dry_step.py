"""One step before loading: what doesn't run is refused, and the next candidate is taken; no engine starts here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.adapters.vllm.cli.explain.trial import _one_rank
from mszoo.adapters.vllm.models.build import build
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.models.llama import LlamaForCausalLM
from mszoo.registry import Capability, ModelAdapter, OpAdapter, Suite
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution, Discovery, discover
from mszoo.registry.entry_points import Plugin
from mszoo.registry.errors import MszooError
from mszoo.registry.settings import Settings

import mindspore as ms

from .test_bridge_messages import make_catalog

GOOD = "mszoo.models.llama:LlamaForCausalLM"
PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class Raises(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the size of a must match the size of b\nat a place")


class OtherShape(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return to_mindspore(to_torch(super().forward(*args, **kwargs))[:1])


class OtherRank(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs).expand_dims(0)


class Nothing(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return None


class OfTorch(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return to_torch(super().forward(*args, **kwargs))


class LyingTensor(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return type("Lying", (), {"__class__": ms.Tensor, "shape": (3, 64), "dtype": ms.float32})()


class IntegerLogits(LlamaForCausalLM):
    def compute_logits(self, hidden_states: Any) -> Any:
        return to_mindspore(to_torch(super().compute_logits(hidden_states)).int())


class LogitsOfOneToken(LlamaForCausalLM):
    def compute_logits(self, hidden_states: Any) -> Any:
        return super().compute_logits(hidden_states)[:1]


class OtherDtype(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return to_mindspore(to_torch(super().forward(*args, **kwargs)).to(torch.float64))


class OtherVocabulary(LlamaForCausalLM):
    def compute_logits(self, hidden_states: Any) -> Any:
        return to_mindspore(to_torch(super().compute_logits(hidden_states))[:, :7].clone())


class OtherWidth(LlamaForCausalLM):
    """One of its products gets what its weight isn't made for."""

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__(config, prefix=prefix)
        down = next(name for name, _ in self.named_modules() if name.endswith("layers.1.mlp.down_proj"))
        self.get_submodule(down).input_size_per_partition += 1


@pytest.fixture(scope="module")
def config(checkpoint: Callable[..., Path]) -> Iterator[Any]:
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.engine.arg_utils import EngineArgs

    arguments = EngineArgs(str(checkpoint("llama")), dtype="float32", skip_tokenizer_init=True)
    made = arguments.create_engine_config()
    with _one_rank(made):
        yield made
    cleanup_dist_env_and_memory()


def try_candidates(config: Any, *models: str) -> tuple[Any, list[MszooError]]:
    """Build the first of some models that proves itself."""
    config.compilation_config.static_forward_context.clear()
    adapters = [
        ModelAdapter(
            "LlamaForCausalLM",
            model,
            frozenset({Capability.LORA}),
            priority=9 - index,
            packed_modules_mapping=PACKED,
        )
        for index, model in enumerate(models)
    ]
    catalog = make_catalog("models", *adapters)
    return build(catalog.decide("LlamaForCausalLM"), "auto", catalog, config, "", {})


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Raises, "its first step raised RuntimeError: the size of a must match the size of b. "),
        (OtherShape, "its first step gave hidden states [1, 64] of 3 tokens. "),
        (OtherRank, "its first step gave hidden states [1, 3, 64] of 3 tokens. "),
        (Nothing, "its first step gave None. "),
        (OfTorch, "its first step gave a Tensor instead of hidden states, a tensor of MindSpore's. "),
        (LyingTensor, "its first step gave a Lying instead of hidden states, a tensor of MindSpore's. "),
        (IntegerLogits, "its first step gave logits of int32. "),
        (LogitsOfOneToken, "its first step gave logits [1, 256] of 3 tokens. "),
        (OtherDtype, "its first step gave hidden states of float64, not of float32. "),
        (OtherVocabulary, "its first step gave logits [3, 7] of 3 tokens, not [3, 256]. "),
        (
            OtherWidth,
            "its first step raised ValueError: a product of [3, 128] with a weight for inputs of width 129. ",
        ),
    ],
)
def test_what_does_not_run_is_refused_and_the_next_is_taken(model: type, what: str, config: Any) -> None:
    built, (refusal,) = try_candidates(config, f"{__name__}:{model.__name__}", GOOD)
    assert str(refusal).startswith(f"one.LlamaForCausalLM: {what}")
    assert built.candidate.qualified_name == "two.LlamaForCausalLM"
    # The layers of the refused one are forgotten: the names are those of the next one's.
    layers = dict(built.network.named_modules())
    for name, layer in config.compilation_config.static_forward_context.items():
        assert layers[name] is layer


def rms_norm(x: Any, *_: Any) -> Any:
    """Of a plugin's: it forgets the last token."""
    return x[:-1]


def test_an_op_that_gives_another_shape_costs_the_candidate(config: Any) -> None:
    """Such an op ended the process: ``free(): invalid size``."""
    op = OpAdapter("rms_norm", f"{__name__}:rms_norm", "bad", dtypes=["float32"], priority=1)
    record = ModelAdapter("LlamaForCausalLM", GOOD, frozenset(), packed_modules_mapping=PACKED)
    plugins = [Plugin("zoo", "zoo-dist", "1.0", "zoo"), Plugin("bad", "bad-dist", "2.0", "bad")]
    contributions = (
        Contribution(plugins[0], Suite("zoo"), models=(record,)),
        Contribution(plugins[1], Suite("bad"), ops=(op,)),
    )
    discovery = Discovery(contributions, (), tuple(plugins), discover(Settings(), []).manager)
    catalog = Catalog(discovery, Settings(), "cpu")
    config.compilation_config.static_forward_context.clear()
    built, (refusal,) = build(catalog.decide("LlamaForCausalLM"), "auto", catalog, config, "", {})
    assert built is None
    assert str(refusal) == (
        f"zoo.LlamaForCausalLM: its first step raised {__name__}:rms_norm of bad of bad-dist 2.0: "
        "rms_norm gave [2, 64] of float32, not [3, 64] of float32. "
        "Fix or upgrade bad-dist, or set MSZOO_DISABLE=bad to go on without it."
    )


def test_a_step_leaves_the_network_as_it_was(config: Any) -> None:
    built, refusals = try_candidates(config, GOOD)
    assert refusals == []
    modules = list(built.network.modules())
    methods = {type(item.quant_method).__name__ for item in modules if hasattr(item, "quant_method")}
    assert methods >= {"CpuLinearMethod", "CpuTableMethod"}
    assert not any("No" in name for name in methods)
    assert not any("forward" in vars(item) for item in modules)


_RANK = """
import sys
from types import SimpleNamespace
import torch
from mszoo.adapters.vllm import seam
from mszoo.adapters.vllm.models import ranks
rank, place, shared = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
alone = [torch.distributed.new_group([one]) for one in (0, 1)][rank]
groups = {"tensor": alone, "pipeline": alone, shared: torch.distributed.group.WORLD}
seam.get_tp_group = lambda: SimpleNamespace(cpu_group=groups["tensor"])
seam.get_pp_group = lambda: SimpleNamespace(cpu_group=groups["pipeline"])
sizes = {f"{name}_parallel_size": 1 for name in groups} | {f"{shared}_parallel_size": 2}
config = SimpleNamespace(parallel_config=SimpleNamespace(**sizes))
candidate = SimpleNamespace(qualified_name="zoo.Model")
for refuses in ((), (0,), (0, 1)):
    print(ranks.other_refusal(candidate, config, refused=rank in refuses))
"""


@pytest.mark.parametrize("shared", ["tensor", "pipeline"])
def test_what_one_rank_refuses_is_refused_by_all(shared: str, tmp_path: Path) -> None:
    """Two processes in a group of torch's; vLLM's own has the same interface."""
    command = [sys.executable, "-c", _RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "place"), shared], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    first, second = (run.communicate()[0].splitlines()[-3:] for run in ranks)
    refused = "zoo.Model: 1 other ranks refused it. Their logs say why; ranks have to serve the same model"
    assert (first, second) == (["None"] * 3, ["None", refused, "None"])

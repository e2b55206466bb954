"""Speculative decoding: whatever proposes tokens, greedy answers are those without it, and as many are accepted.

Targets and drafts are MindSpore's and vLLM's own in turn. What is accepted is compared with vLLM's own target and
draft of the same weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest

from mszoo.adapters.decoder import LATENT
from mszoo.conformance.processor import attention_options
from mszoo.layers import step

from .answers import WATCHED, run_all
from .conftest import running_engine
from .draft_checkpoints import (
    make_draft,
    make_eagle,
    make_eagle3,
    make_medusa,
    make_predictable,
    make_predicting,
)

PROMPTS = [[5, 17, 99, 201, 3, 44, 180], [7, 8, 250], list(range(3, 43)), [9, 9, 9, 9, 12, 9, 9]]
IN_ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
ROUTED = {
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
}
#: For these mszoo leaves a Llama to vLLM: another name of the architecture; a rotation that isn't described in full
#: and turns as the default does.
OTHER_NAME = {"architectures": ["LLaMAForCausalLM"]}
NO_THETA = {"rope_parameters": {"rope_type": "linear", "factor": 1.0}}
LLAMA = "native.LlamaForCausalLM"
#: By job: who answers, who proposes (None: vLLM's own, "": no model), and what share of the proposals is accepted
#: at least.
JOBS: dict[str, tuple[str | None, str | None, float]] = {
    "draft": (LLAMA, LLAMA, 0.3),
    "itself": (LLAMA, LLAMA, 1.0),
    "own-draft": (LLAMA, None, 0.3),
    "own-target": (None, LLAMA, 0.3),
    "eagle": (LLAMA, "native.EagleLlamaForCausalLM", 0.3),
    "eagle3": (LLAMA, "native.LlamaForCausalLMEagle3", 0.05),
    "refused": (LLAMA, None, 0.1),
    "medusa": (LLAMA, "native.MedusaModel", 0.1),
    "glm": ("native.Glm4MoeForCausalLM", "native.Glm4MoeMTPModel", 0.1),
    "deepseek": ("native.DeepseekV3ForCausalLM", "native.DeepSeekMTPModel", 0.1),
    # The last one: once its proposer is imported, no further engine of vLLM 0.32 starts in the process.
    "ngram": (LLAMA, "", 0.1),
}
#: The job of vLLM's own models that proposes the same, by job.
SAME = {"itself": "", "own-draft": "draft", "own-target": "draft"}
#: Where another job has the same path.
LONG = {"itself", "own-draft"}
_PROPOSED = "vllm:spec_decode_num_draft_tokens"
_ACCEPTED = "vllm:spec_decode_num_accepted_tokens"


@pytest.fixture(scope="module")
def llama(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_predictable(checkpoint("llama"), tmp_path_factory.mktemp("llama") / "target")


@pytest.fixture(scope="module")
def jobs(
    llama: Path, checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("drafts")
    draft = make_draft(llama, folder / "draft", 2)
    own_draft = make_draft(llama, folder / "own-draft", 2, **OTHER_NAME)
    sparse = {}
    for name, model_type, fields in (
        ("glm", "glm4_moe", {"use_qk_norm": True}),
        ("deepseek", "deepseek_v3", LATENT),
    ):
        plain = make_predictable(checkpoint(model_type, **ROUTED, **fields), folder / f"{name}-plain")
        sparse[name] = make_predicting(plain, folder / name)
    made = {
        "plain": _job(llama),
        "draft": _job(llama, "draft_model", draft),
        "itself": _job(llama, "draft_model", llama),
        "own-draft": _job(llama, "draft_model", own_draft),
        "own-target": _job(llama, "draft_model", draft, hf_overrides=NO_THETA),
        "eagle": _job(llama, "eagle", make_eagle(llama, folder / "eagle", 2)),
        "eagle3": _job(llama, "eagle3", make_eagle3(llama, folder / "eagle3", 128)),
        "refused": _job(llama, "eagle3", make_eagle3(llama, folder / "refused", norm_before_fc=True)),
        "medusa": _job(llama, "medusa", make_medusa(llama, folder / "medusa")),
    }
    for name, source in sparse.items():
        made |= {f"plain-{name}": _job(source), name: _job(source, "mtp", count=2)}
        # vLLM asks for a head's attention backend on its own.
        made[name]["options"]["speculative_config"] |= attention_options(source, "float32")
    made["ngram"] = _job(llama, "ngram", prompt_lookup_min=1, prompt_lookup_max=3)
    return made


def _job(
    target: Path, method: str = "", draft: Path | None = None, count: int = 2, **options: Any
) -> dict[str, Any]:
    lookup = {name: options.pop(name) for name in list(options) if name.startswith("prompt_")}
    speculative = {"method": method, "num_speculative_tokens": count, **lookup}
    speculative |= {} if draft is None else {"model": str(draft)}
    options |= {"speculative_config": speculative} if method else {}
    options |= {"disable_log_stats": False, "enforce_eager": True}
    return {"model": str(target), "prompts": PROMPTS, "max_tokens": 16, "options": options}


@pytest.fixture(scope="module")
def own(
    jobs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What vLLM's own models answer."""
    asked = {name: job for name, job in jobs.items() if name not in SAME}
    return run_all(asked, tmp_path_factory.mktemp("own") / "own.json", MSZOO_DISABLE="1", **IN_ONE_PROCESS)


@pytest.fixture(scope="module")
def ours(
    jobs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, dict[str, Any]]:
    """What is answered with mszoo, by compiled layers where no model of vLLM's would be compiled too."""
    compiled = {"enforce_eager": False}
    changed = {
        name: jobs[name] | {"options": jobs[name]["options"] | (compiled if None not in found else {})}
        for name, found in JOBS.items()
        if name not in LONG or request.config.getoption("--all")
    }
    return run_all(changed, tmp_path_factory.mktemp("ours") / "ours.json", **IN_ONE_PROCESS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in JOBS]
)
def test_speculation(name: str, own: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> None:
    """Answers are those without speculation; as many tokens are accepted as by vLLM's own models."""
    target, draft, share = JOBS[name]
    found, plain = ours[name], own.get(f"plain-{name}", own["plain"])
    assert found["answers"] == plain["answers"]
    (worker,), (proposer,) = found["workers"], found["drafts"]
    assert worker["adapter"] == target
    assert (proposer is None) if draft == "" else (proposer["adapter"] == draft)
    if None not in (target, draft):  # vLLM's own would be compiled too
        assert all(worker["compiled"]) and worker["compiled"]
        assert draft == "" or all(proposer["compiled"])
        assert bool(proposer and proposer["compiled"]) == (draft not in ("", "native.MedusaModel"))
    counts = [found["metrics"][count] for count in (_PROPOSED, _ACCEPTED)]
    assert counts[1] >= share * counts[0] > 0
    same = own.get(SAME.get(name, name))
    if same is not None and name != "deepseek":  # whose answers by vLLM's own model speculation changes
        assert same["answers"] == plain["answers"]
        assert counts == [same["metrics"][count] for count in (_PROPOSED, _ACCEPTED)]


@pytest.mark.parametrize("name", ["draft", "own-target", "eagle", "eagle3", "medusa", "glm"])
def test_what_a_head_computes(
    name: str, own: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]
) -> None:
    """Hidden states and logits are those of vLLM's own draft model or head."""
    (found,), (expected,) = ours[name]["drafts"], own[SAME.get(name, name)]["drafts"]
    assert found["forwards"] > 0
    assert len(found["computed"]) == len(expected["computed"]) == 2 * WATCHED
    for one, other in zip(found["computed"], expected["computed"], strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["glm", "deepseek"])
def test_a_further_token_by_hugging_face(
    name: str, jobs: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]
) -> None:
    """The layer that predicts one gives what Hugging Face's layer does in its place."""
    expected = predict_by_hugging_face(Path(jobs[name]["model"]), PROMPTS[-1])
    found = torch.tensor(ours[name]["drafts"][0]["computed"][0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def predict_by_hugging_face(folder: Path, prompt: list[int]) -> torch.Tensor:
    """Return the hidden state [hidden] of the layer behind the others, at the prompt's last token."""
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    index, epsilon = config.num_hidden_layers, config.rms_norm_eps
    config.num_hidden_layers += 1  # the checkpoint's names of its parts are those of one more layer
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    ).model
    weights = load_file(folder / "model.safetensors")

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weights[name], epsilon)

    def run(x: torch.Tensor, *layers: Any) -> torch.Tensor:
        positions = torch.arange(x.shape[1])[None]
        hidden = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)[None, None]
        turned = model.rotary_emb(x, positions)
        for layer in layers:
            x = layer(x, attention_mask=hidden, position_ids=positions, position_embeddings=turned)
        return x

    with torch.no_grad():
        states = norm(
            run(model.embed_tokens(torch.tensor([prompt])), *model.layers[:index]), "model.norm.weight"
        )
        following = int((states[0, -1] @ weights["lm_head.weight"].t()).argmax())
        embeddings = model.embed_tokens(torch.tensor([[*prompt[1:], following]]))
        embeddings[:, 0] = 0  # as vLLM has it
        name = f"model.layers.{index}"
        both = torch.cat((norm(embeddings, f"{name}.enorm.weight"), norm(states, f"{name}.hnorm.weight")), -1)
        return run(both @ weights[f"{name}.eh_proj.weight"].t(), model.layers[index])[0, -1]


def test_the_log_says_who_drafts(ours: dict[str, dict[str, Any]]) -> None:
    log = ours["draft"]["log"]
    line = "native.Eagle3LlamaForCausalLM: config.json says norm_before_fc=True, which this head doesn't"
    assert line in log


def test_a_draft_with_another_vocabulary(llama: Path, checkpoint: Callable[..., Path]) -> None:
    """It is refused before anything is built, by vLLM, which names both sizes."""
    other = checkpoint("llama", vocab_size=512)
    speculative = {"method": "draft_model", "model": str(other), "num_speculative_tokens": 2}
    message = r"Target model vocab_size=256\. Draft model vocab_size=512"
    with pytest.raises(ValueError, match=message), running_engine(llama, speculative_config=speculative):
        pass


def test_rejected_tokens_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft model gets what the target rejected in the middle of a step, without a slot."""
    cache = torch.zeros(2, 1, 4, 6)  # [blocks, G, block, 2 D]
    pairs = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 1, 2, 3)
    context: Any = SimpleNamespace()
    step.store(step.Step(context), cache, torch.tensor([1, -1, 5, -1]), pairs)
    keys = step.pages(cache)[:, 0, 0, :, 0]
    assert keys.tolist() == [[0, 1, 0, 0], [0, 3, 0, 0]]


WITHOUT_ARCTIC = importlib.util.find_spec("arctic_inference") is None


@pytest.mark.skipif(WITHOUT_ARCTIC, reason="arctic-inference is not installed: pip builds it from its sdist")
def test_suffixes(llama: Path, tmp_path: Path) -> None:
    """Tokens that a tree of suffixes of prompt and answer proposes."""
    changed = {"prompts": [[5, 17, 99, 201] * 4, *PROMPTS], "max_tokens": 24}
    jobs = {"plain": _job(llama) | changed, "suffix": _job(llama, "suffix", count=8) | changed}
    found = run_all(jobs, tmp_path / "found.json", **IN_ONE_PROCESS)
    plain, suffix = found["plain"], found["suffix"]
    assert suffix["answers"] == plain["answers"]
    assert suffix["metrics"]["vllm:spec_decode_num_accepted_tokens"] > 0
    (before,), (after,) = plain["workers"], suffix["workers"]
    assert before["adapter"] == after["adapter"] == "native.LlamaForCausalLM"
    assert after["forwards"] < before["forwards"]


@pytest.mark.skipif(not WITHOUT_ARCTIC, reason="arctic-inference is installed")
def test_suffixes_need_a_package(llama: Path) -> None:
    """VLLM says so before anything is built."""
    why = "Arctic Inference is required for suffix decoding"
    with (
        pytest.raises(ImportError, match=why),
        running_engine(llama, speculative_config={"method": "suffix"}),
    ):
        pass

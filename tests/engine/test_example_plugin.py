"""A model from another distribution: built, installed and served by ``vllm serve``, under a new name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .server import running_server

SOURCE = Path(__file__).parents[1] / "example_plugin"
SCALE, EPS, THETA = 0.7, 1e-5, 10000.0
HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, INTERMEDIATE, VOCABULARY, LAYERS = 64, 4, 2, 32, 128, 256, 2
PROMPT = [5, 17, 99, 201, 3, 44, 180]
TOKENS = 16


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the plugin's wheel and install it as pip does; gives the folder that holds it."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("site")
    shutil.copytree(SOURCE, source)  # the build writes beside the sources
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run(command, check=True, timeout=300)
    assert (target / "mszoo_example-0.1.0.dist-info" / "entry_points.txt").is_file()
    return target


def run_python(site: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the plugin is installed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        env=inherited | {"PYTHONPATH": str(site)} | environ,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    """Random weights under the names that the model's checkpoints use."""
    import torch

    torch.manual_seed(0)
    width, kv_width = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for index in range(LAYERS):
        block = {
            "norm": (HIDDEN,),
            "self_attn.q_proj": (width, HIDDEN),
            "self_attn.k_proj": (kv_width, HIDDEN),
            "self_attn.v_proj": (kv_width, HIDDEN),
            "self_attn.o_proj": (HIDDEN, width),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        }
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in block.items()}
    return {
        name: torch.randn(shape) * 0.1 + (1.0 if len(shape) == 1 else 0.0) for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Any]) -> Path:
    """Write the weights as a Hugging Face folder with a tokenizer of one word per token."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("example-model")
    config = {
        "architectures": ["ExampleForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "rms_norm_eps": EPS,
        "max_position_embeddings": 256,
        "rope_theta": THETA,
        "residual_scale": SCALE,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    words = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    return folder


def greedy(weights: dict[str, Any], prompt: list[int], count: int) -> list[int]:
    """The model once more, in torch, without a cache."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention, silu

    def norm(x: Any, name: str) -> Any:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * weights[f"{name}.weight"]

    def heads(x: Any) -> Any:
        return x.view(len(x), -1, HEAD_SIZE).transpose(0, 1)

    def rotate(x: Any) -> Any:
        frequencies = THETA ** (-torch.arange(0, HEAD_SIZE, 2, dtype=torch.float64) / HEAD_SIZE)
        angles = torch.outer(torch.arange(x.shape[1]), frequencies)
        cos, sin = angles.cos().float(), angles.sin().float()
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def block(x: Any, name: str) -> Any:
        def linear(y: Any, projection: str) -> Any:
            return y @ weights[f"{name}.{projection}.weight"].T

        y = norm(x, f"{name}.norm")
        query, key = (
            rotate(heads(linear(y, projection))) for projection in ("self_attn.q_proj", "self_attn.k_proj")
        )
        attended = scaled_dot_product_attention(
            query[None],
            key[None],
            heads(linear(y, "self_attn.v_proj"))[None],
            is_causal=True,
            enable_gqa=True,
        )[0]
        attention = linear(attended.transpose(0, 1).reshape(len(x), -1), "self_attn.o_proj")
        mlp = linear(silu(linear(y, "mlp.gate_proj")) * linear(y, "mlp.up_proj"), "mlp.down_proj")
        return x + SCALE * (attention + mlp)

    tokens = list(prompt)
    for _ in range(count):
        x = weights["model.embed_tokens.weight"][tokens]
        for index in range(LAYERS):
            x = block(x, f"model.layers.{index}")
        logits = norm(x, "model.norm")[-1] @ weights["lm_head.weight"].T
        best = logits.topk(2).values
        assert best[0] - best[1] > 1e-3, "a near tie: choose other weights"
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def test_vllm_serves_it(site, folder, weights, tmp_path) -> None:
    request = {
        "prompt": PROMPT,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    environment = {"PYTHONPATH": str(site), "NO_COLOR": "1"}
    with running_server(folder, tmp_path, "--max-model-len", "128", **environment) as server:
        (choice,) = server.post("/v1/completions", request)["choices"]
        log = server.log()
    expected = greedy(weights, PROMPT, TOKENS)
    assert len(set(expected)) > 4, "the model repeats itself: the comparison would prove little"
    assert choice["token_ids"] == expected
    assert choice["text"].split() == [f"w{token}" for token in expected]
    assert log.count("mszoo: example.ExampleForCausalLM answers (kernel set cpu, decision ") == 1
    served = "ExampleForCausalLM is served by example.ExampleForCausalLM "
    assert "mszoo: decoder layers run compiled" in log
    assert f"{served}(mszoo_example.model:ExampleForCausalLM, mszoo-example 0.1.0)" in log


def test_the_field_of_its_own_is_required(site, folder, tmp_path) -> None:
    broken = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((broken / "config.json").read_text())
    del config["residual_scale"]
    (broken / "config.json").write_text(json.dumps(config))
    script = "import sys\nfrom vllm import LLM\nLLM(sys.argv[1], dtype='float32', max_model_len=64)"
    result = run_python(site, "-c", script, str(broken), VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1].endswith(
        "mszoo.registry.errors.RefusalError: example.ExampleForCausalLM: config.json has no residual_scale. "
        "Add residual_scale to config.json"
    )


def test_mszoo_list_shows_it(site) -> None:
    result = run_python(site, "-c", "from mszoo.registry.cli import main; main()", "list", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert {item["name"]: item["distribution"] for item in report["suites"]}["example"] == "mszoo-example"
    (found,) = [item for item in report["architectures"] if item["architecture"] == "ExampleForCausalLM"]
    assert found["winner"] == "example.ExampleForCausalLM"
    assert [item["status"] for item in found["candidates"]] == ["won"]
    assert report["problems"] == []

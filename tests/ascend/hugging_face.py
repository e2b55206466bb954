"""Run as a module: writes a tiny checkpoint, and beside it Hugging Face's answers in float32.

Standard input: ``{"folder", "model_type", "fields", "prompts": [token ids], "max_tokens", "lora": bool}``. The
type "text" is a Llama with a tokenizer; an architecture of MindSpore One's or a native encoder's stands for its
tiny example. Answers are greedy tokens, and of an encoder the embeddings of the first token. With ``lora``
there is an adapter in the folder "lora", and the answers of weights that it is merged into.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mszoo.adapters import native
from mszoo.adapters.mindone.architectures import read
from mszoo.conformance.checkpoints import make_checkpoint as make_example
from mszoo.conformance.checkpoints import write_tokenizer
from tests.engine.conftest import give_routers_a_bias, make_checkpoint
from tests.engine.odd_checkpoints import make_whole_lora
from tests.engine.server import make_text_checkpoint


def main() -> None:
    job = json.load(sys.stdin)
    folder, kind = Path(job["folder"]), job["model_type"]
    encoders: dict[str, Any] = {
        item.architecture: item for item in native.mszoo_model_adapters() if item.pooling
    }
    example = (encoders | {name: item for name, item in read().items() if item.example_config}).get(kind)
    if example is not None:
        model = make_example({**example.example_config, **job["fields"]}, kind, folder, lambda _: {}).model
        if example.pooling:
            write_tokenizer(folder, model.config.vocab_size)
            write(folder, "answers", [embedding(model, prompt) for prompt in job["prompts"]])
            return
    else:
        if kind == "text":
            make_text_checkpoint(folder, **job["fields"])
        else:
            make_checkpoint(folder, kind, **job["fields"])
            give_routers_a_bias(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    write(folder, "answers", [greedy(model, prompt, job["max_tokens"]) for prompt in job["prompts"]])
    if job["lora"]:
        merge(model, make_whole_lora(folder, folder / "lora"))
        answers = [greedy(model, prompt, job["max_tokens"]) for prompt in job["prompts"]]
        write(folder, "lora_answers", answers)


def write(folder: Path, name: str, answers: list[Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(answers))


@torch.inference_mode()
def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@torch.inference_mode()
def embedding(model: Any, prompt: list[int]) -> list[float]:
    states = model(torch.tensor([prompt])).last_hidden_state[0, 0]
    return torch.nn.functional.normalize(states, dim=-1).tolist()


@torch.inference_mode()
def merge(model: Any, lora: Path) -> None:
    """Add an adapter to a model's weights, as PEFT's merge does."""
    config = json.loads((lora / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    tensors = load_file(lora / "adapter_model.safetensors")
    for name, first in tensors.items():
        module, _, kind = name.removeprefix("base_model.model.").partition(".lora_")
        weight = model.get_parameter(f"{module}.weight")
        if kind == "A.weight":
            weight += scale * tensors[name.replace("lora_A", "lora_B")] @ first
        elif kind == "embedding_A":
            weight += scale * (tensors[name.replace("embedding_A", "embedding_B")] @ first).T


if __name__ == "__main__":
    main()

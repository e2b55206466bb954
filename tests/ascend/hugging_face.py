"""Run as a module: writes a tiny checkpoint, and beside it Hugging Face's greedy answers in float32.

Standard input: ``{"folder", "model_type", "fields", "prompts": [token ids], "max_tokens"}``; model_type "text" is a
Llama with a tokenizer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from transformers import AutoModelForCausalLM

from tests.engine.conftest import make_checkpoint
from tests.engine.server import make_text_checkpoint


def main() -> None:
    job = json.load(sys.stdin)
    folder = Path(job["folder"])
    if job["model_type"] == "text":
        make_text_checkpoint(folder, **job["fields"])
    else:
        make_checkpoint(folder, job["model_type"], **job["fields"])
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    answers = []
    with torch.inference_mode():
        for prompt in job["prompts"]:
            ids = list(prompt)
            for _ in range(job["max_tokens"]):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            answers.append(ids[len(prompt) :])
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()

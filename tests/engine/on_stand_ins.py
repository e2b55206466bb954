"""Run as a module, on the platform of tests/ascend_stand_in: mindformers' own networks against Hugging Face.

Standard input: ``{case: {"folder": checkpoint, "architecture": name}}``. The argument names the file to write: by
case, who answered, what stand-ins were called, and the largest difference of logits in float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .answers import leave, look
from .conftest import RAW_LOGITS, running_engine, worst_logit


def reference_of(folder: Path) -> Any:
    """Return Hugging Face's Llama of a TeleChat2's weights; None for what Hugging Face has."""
    from safetensors.torch import load_file

    from .telechat2 import telechat2_as_llama

    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "telechat":
        return None
    return telechat2_as_llama(config, load_file(folder / "model.safetensors"))


def main() -> None:
    found = {}
    for case, job in json.load(sys.stdin).items():
        folder = Path(job["folder"])
        options = {
            "hf_overrides": {"architectures": [f"stand_in.{job['architecture']}"]},
            "max_num_batched_tokens": 48,  # a prompt is computed in chunks, beside others' tokens
            "trust_remote_code": True,
        }
        with running_engine(folder, **RAW_LOGITS, **options) as llm:
            worst = worst_logit(llm, folder, reference_of(folder))
            found[case] = llm.apply_model(look)[0] | {"worst": worst}
    Path(sys.argv[1]).write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main()

"""Bad plugins by the dozen beside a good one: vLLM serves the good one, and its log names each bad one once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from ..bad_plugins import BAD, install, install_bad_plugins
from .conftest import TINY

EXAMPLE = Path(__file__).parents[1] / "example_plugin"
SERVE = """
import sys

if __name__ == "__main__":
    from vllm import LLM, SamplingParams

    llm = LLM(
        sys.argv[1],
        skip_tokenizer_init=True,
        load_format="dummy",
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
    )
    sampling = SamplingParams(max_tokens=4, ignore_eos=True, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": [5, 6, 7]}], sampling)
    print("tokens:", len(output.outputs[0].token_ids))
"""


def test_vllm_serves_the_good_ones_and_names_each_bad_one_once(tmp_path) -> None:
    environ = install_bad_plugins(tmp_path, BAD)
    site = tmp_path / "site"
    # One torn entry_points.txt, and torch itself can't be imported: no plugin's fault, and the doctor names it.
    shutil.rmtree(site / "torn_dist-1.0.dist-info")
    install(site, "mszoo-example", "example = mszoo_example.adapter")
    (site / "mszoo_example").symlink_to(EXAMPLE / "mszoo_example")
    config = TINY | {
        "architectures": ["ExampleForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "residual_scale": 0.7,
        "tie_word_embeddings": False,
    }
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "serve.py").write_text(SERVE)
    # A relative path: a plugin that changes the working directory would break it.
    result = subprocess.run(
        [sys.executable, "serve.py", "model"],
        check=False,
        cwd=tmp_path,
        env=environ
        | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO", "NO_COLOR": "1"}
        | {"VLLM_CACHE_ROOT": str(tmp_path / "cache"), "VLLM_NO_USAGE_STATS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    log = result.stdout + result.stderr
    assert result.returncode == 0, log[-6000:]
    assert "tokens: 4" in result.stdout
    assert "mszoo: example.ExampleForCausalLM answers" in log
    assert "mszoo: nothing installed" not in log
    # A plugin with its distribution, or alone where it answered a hook.
    named = {name: sum(log.count(f"mszoo: plugin {name!r}{end}") for end in (" (", ": ")) for name in BAD}
    # The process that reads the architectures has imported torch and vLLM before; MindSpore not yet.
    assert named == {name: 1 if bad.problem else 0 for name, bad in BAD.items()}

"""What registration says of the installed vLLM, before anything of the bridge is imported."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mszoo.adapters.vllm import install, supported
from mszoo.registry.ascend.machine import Machine
from mszoo.registry.errors import RefusalError
from mszoo.registry.load import load_catalog
from mszoo.registry.versions import supported_vllms

from .doctor_facts import ASCEND, ASCEND_VERSIONS

INSTALLED = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])  # type: ignore[union-attr,index]
REGISTER = """
import logging, vllm, sys
from mszoo.adapters.vllm import register
register()
from vllm.model_executor.models.registry import ModelRegistry
print("ours" if "native.LlamaForCausalLM" in ModelRegistry.models else "vLLM's own",
      "LlamaForCausalLM" in ModelRegistry.models)
"""


@pytest.fixture
def stand_in(tmp_path):
    """vLLM's files under another version, in which one function has another name everywhere."""
    for path in INSTALLED.rglob("*"):
        copy = tmp_path / "vllm" / path.relative_to(INSTALLED)
        if path.is_dir() or path.suffix not in (".py", ".so"):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes() if path.suffix == ".py" else b""
        if b"get_attention_context" in text:
            copy.write_bytes(text.replace(b"get_attention_context", b"context_of_attention"))
        else:
            copy.symlink_to(path)
    metadata = tmp_path / "vllm-0.99.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.0\n")
    return tmp_path


def register(*path):
    """Register in a process of its own; return what it printed, and what it logged."""
    code = f"import sys; sys.path[:0] = {[str(item) for item in path]!r}\n{REGISTER}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout, done.stdout + done.stderr


def test_a_vllm_that_lacks_what_is_needed_is_refused_and_serves_on(stand_in):
    out, said = register(stand_in)
    assert out.splitlines()[-1] == "vLLM's own True"
    assert said.count("nothing installed, vLLM serves its own models") == 1
    assert (
        "vLLM 0.99.0: lacks what mszoo needs: vllm.model_executor.layers.attention.attention has no "
        "get_attention_context; no model that is made of mszoo's layers can be built. Install a vLLM that mszoo "
        f"supports ({supported_vllms()}); all that is lacking: mszoo doctor"
    ) in said
    assert "Traceback" not in said


def test_an_untested_vllm_that_has_all_is_used_and_told(monkeypatch, caplog):
    monkeypatch.setattr(supported, "installed_version", lambda name: "0.99.0")
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level("WARNING"):
        supported.check_vllm()
    said = f"vLLM 0.99.0 is none that mszoo is tested with ({supported_vllms()}). It has what mszoo needs"
    assert said in caplog.text


def test_a_tested_vllm_is_compared_only_to_tell_why_it_failed(monkeypatch):
    def refuse(source):
        raise RefusalError("vLLM", "was compared", "")

    monkeypatch.setattr("mszoo.registry.inventory.check.check", refuse)
    supported.check_vllm()
    with pytest.raises(RefusalError, match="was compared"):
        supported.check_vllm(always=True)


def test_a_machine_for_ascend_is_told_its_faults_at_start(monkeypatch, caplog):
    """In the doctor's words, and once: vLLM's other processes have a parent."""
    installed = {**ASCEND_VERSIONS, "torch-npu": "2.10.0"}
    monkeypatch.setattr(supported, "installed_version", installed.get)
    monkeypatch.setattr(supported, "read_machine", lambda npu_smi: ASCEND)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0")
    fault = "torch_npu 2.10.0: is not the one that vllm-ascend 0.23.0 is compiled with (2.10.0.post4). "
    fault += "Install that one, its post-release too: pip install --no-deps torch-npu==2.10.0.post4"
    assert supported.machine_faults("cpu") == ()
    assert supported.machine_faults("npu") == (fault,)
    install._report(load_catalog({}, device="npu"), [])
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"].count(
        f"mszoo: {fault}"
    ) == 1
    caplog.clear()
    monkeypatch.setattr(install.multiprocessing, "parent_process", object)
    install._report(load_catalog({}, device="npu"), [])
    install._report(load_catalog({"MSZOO_DISABLE": "1"}, device="npu"), [])
    assert "torch_npu" not in caplog.text
    monkeypatch.setattr(supported, "read_machine", lambda npu_smi: Machine())
    assert supported.machine_faults("npu")[0].startswith("this machine: shows no Ascend device")

"""The command: what it prints, what it exits with, and that it stays light."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from typer.testing import CliRunner

from mszoo.registry import devices, plugins
from mszoo.registry.cli import build, main
from mszoo.registry.objects import find_module

NATIVE = """
@hookimpl
def mszoo_suite():
    return Suite("native", "Models of the registry itself", requires=["pluggy"])

@hookimpl
def mszoo_model_adapters():
    return [
        ModelAdapter("LlamaForCausalLM", "mszoo.models.llama:LlamaForCausalLM", capabilities=["lora"]),
        ModelAdapter("Qwen3ForCausalLM", "mszoo.models.qwen3:Qwen3ForCausalLM"),
    ]
"""
OTHER = """
print("noise at import")

@hookimpl
def mszoo_suite():
    return Suite("mindone", "MindSpore One [markup]", requires=["no-such-dist[vision]>=9"])

@hookimpl
def mszoo_model_adapters():
    print("noise in a hook")
    return [
        ModelAdapter("LlamaForCausalLM", "mindone.transformers.models.llama.modeling_llama:LlamaForCausalLM"),
        ModelAdapter("FarForCausalLM", "mindone.far:FarForCausalLM"),
    ]
"""
BROKEN = "@hookimpl\ndef mszoo_models():\n    return []"
WHY_NOT = "needs no-such-dist>=9, which is not installed: pip install 'no-such-dist[vision]>=9'"
VERSION = importlib.metadata.version("mszoo")


@pytest.fixture
def zoo(make_plugin, monkeypatch):
    """Let only our own test plugins be installed; returns a function that installs more."""
    installed = []

    def add(source, name, distribution, version="1.0"):
        installed.append(make_plugin(source, name=name, distribution=distribution, version=version))

    add(NATIVE, "native", "mszoo")
    add(OTHER, "mindone", "mindone-adapters", "0.4.1")
    monkeypatch.setattr(plugins, "readable", lambda group: (installed, []))
    for name in ("MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return add


def run(*arguments):
    return CliRunner().invoke(build(), list(arguments))


def words(text):
    return " ".join(text.split())


def lines_fit(text):
    return all(len(line) <= 80 for line in text.splitlines())


def test_list(zoo):
    result = run("list")
    assert result.exit_code == 0
    assert lines_fit(result.stdout)
    assert result.stdout.startswith(
        "native: Models of the registry itself (mszoo 1.0)\n  2 models (2 won), 0 layers, 0 ops\n"
        "mindone: MindSpore One [markup] (mindone-adapters 0.4.1)\n"
        "  2 models (2 unavailable), 0 layers, 0 ops\n"
    )
    assert f"none can be used: {WHY_NOT}" in words(result.stdout)
    assert "LlamaForCausalLM" not in result.stdout  # short: rows are shown of what is asked for
    assert "Device cpu, decisions " in result.stdout
    assert "Problems" not in result.stdout
    assert result.stderr == "noise at import\nnoise in a hook\n"


PARTLY = """
@hookimpl
def mszoo_suite():
    return Suite("part", requires=["pluggy"])

@hookimpl
def mszoo_model_adapters():
    return [
        ModelAdapter("FarForCausalLM", "part:Far", devices=["npu"]),
        ModelAdapter("LlamaForCausalLM", "part:Llama", refused="it exists for training only"),
    ]
"""


def test_list_shows_why_single_models_of_a_usable_suite_are_unavailable(zoo):
    zoo(PARTLY, "part", "part-dist")
    assert "part (part-dist 1.0) 2 models (1 unavailable, 1 refused), 0 layers, 0 ops" in words(
        run("list").stdout
    )
    text = words(run("list", "part").stdout.replace("│", " "))
    assert "FarForCausalLM unavailable runs on npu, not on cpu: serve it on npu" in text
    assert "In the suite, and can't be served (1): - it exists for training only: LlamaForCausalLM" in text


def test_list_json(zoo):
    result = run("list", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert list(report) == [
        "mszoo", "device", "digest", "disabled", "lock", "suites", "architectures", "layers", "ops",
        "missing", "problems",
    ]  # fmt: skip
    assert (report["mszoo"], report["device"], report["disabled"]) == (VERSION, "cpu", [])
    assert report["problems"] == report["missing"] == report["layers"] == report["ops"] == []
    assert report["suites"][0] == {
        "name": "native",
        "description": "Models of the registry itself",
        "plugin": "native",
        "distribution": "mszoo",
        "version": "1.0",
        "models": 2,
        "layers": 0,
        "ops": 0,
        "unusable": None,
    }
    assert report["suites"][1]["unusable"] == WHY_NOT
    assert {item["architecture"]: item["winner"] for item in report["architectures"]} == {
        "FarForCausalLM": None,
        "LlamaForCausalLM": "native.LlamaForCausalLM",
        "Qwen3ForCausalLM": "native.Qwen3ForCausalLM",
    }
    llama = report["architectures"][1]
    assert list(llama) == ["architecture", "pinned", "winner", "candidates"]
    assert llama["candidates"][0] == {
        "name": "native.LlamaForCausalLM",
        "suite": "native",
        "plugin": "native",
        "distribution": "mszoo",
        "version": "1.0",
        "model": "mszoo.models.llama:LlamaForCausalLM",
        "capabilities": ["lora"],
        "devices": [*devices.DEVICES],
        "dtypes": ["float32", "bfloat16", "float16"],
        "requires": ["pluggy"],
        "priority": 0,
        "refused": None,
        "status": "won",
        "reason": "the only one available here",
    }
    assert (llama["candidates"][1]["status"], llama["candidates"][1]["reason"]) == ("unavailable", WHY_NOT)


def test_a_problem_is_shown_with_its_cure_and_exits_with_1(zoo):
    zoo(BROKEN, "broken", "broken-dist")
    result = run("list")
    assert result.exit_code == 1
    assert lines_fit(result.stdout)
    text = " ".join(result.stdout.split())
    assert (
        "Problems (1): - plugin 'broken' (broken-dist 1.0): mszoo_models is not a hook. Did you mean mszoo_"
        in text
    )
    report = json.loads(run("list", "--json").stdout)
    (problem,) = report["problems"]
    assert list(problem) == ["who", "what", "mend", "plugin"]
    assert problem["plugin"] == "broken"
    assert run("explain", "LlamaForCausalLM").exit_code == 1


def test_disabled_plugins_are_shown(zoo, monkeypatch):
    monkeypatch.setenv("MSZOO_DISABLE", "mindone")
    result = run("list")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Disabled by MSZOO_DISABLE: mindone" in result.stdout
    assert json.loads(run("list", "--json").stdout)["disabled"] == ["mindone"]


def test_the_device(zoo, monkeypatch):
    assert json.loads(run("list", "--json", "--device", "npu").stdout)["device"] == "npu"
    platform = EntryPoint("ascend", "vllm_ascend:register", "vllm.platform_plugins")
    monkeypatch.setattr(devices, "readable", lambda group: ([platform], []))
    assert json.loads(run("list", "--json").stdout)["device"] == "npu"
    monkeypatch.setenv(
        "VLLM_PLUGINS", "mszoo, ascend"
    )  # vLLM doesn't strip blanks: it takes its own platform
    assert json.loads(run("list", "--json").stdout)["device"] == "cpu"
    monkeypatch.setenv("VLLM_PLUGINS", "mszoo,ascend")
    assert json.loads(run("list", "--json").stdout)["device"] == "npu"
    assert json.loads(run("list", "--json", "--device", "cpu").stdout)["device"] == "cpu"
    assert run("list", "--device", "cuda").exit_code == 2


def test_what_vllm_says_goes_before_what_is_installed(monkeypatch):
    monkeypatch.setattr(devices, "readable", lambda group: pytest.fail("nobody needs to look"))
    assert [devices.this_device(name) for name in ("cpu", "npu", "cuda")] == ["cpu", "npu", None]


def test_explain(zoo):
    result = run("explain", "LlamaForCausalLM")
    assert result.exit_code == 0
    assert lines_fit(result.stdout)
    assert "LlamaForCausalLM is served by native.LlamaForCausalLM\n" in result.stdout
    joined = "".join(line.split("│")[-1].strip() + " " for line in result.stdout.splitlines())
    assert "the only one available here" in joined
    for text in ("mszoo 1.0", "won", "mindone-adapt", "unavailable", "Device cpu, decisions "):
        assert text in result.stdout


def test_explain_json(zoo):
    result = run("explain", "mindone.FarForCausalLM", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert list(report) == [
        "mszoo", "device", "digest", "disabled", "lock", "folder", "architectures", "serves", "ops", "layers",
        "processes", "problems",
    ]  # fmt: skip
    assert report["folder"] is None
    (decision,) = report["architectures"]
    assert (decision["architecture"], decision["pinned"], decision["winner"]) == (
        "mindone.FarForCausalLM",
        True,
        None,
    )
    assert decision["candidates"][0]["reason"] == WHY_NOT


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LlamaForCasualLM", "Did you mean LlamaForCausalLM?"),
        ("native.LlamaForCasualLM", "Did you mean native.LlamaForCausalLM?"),
        ("Zzz", "`mszoo list` shows what is registered."),
    ],
)
def test_explain_an_architecture_that_nobody_provides(zoo, name, hint):
    result = run("explain", name)
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    who = "nobody" if find_module("vllm") else "vLLM's own model, if it has one"
    assert f"{name} is served by {who} No suite provides {name}. {hint}" in text
    report = json.loads(run("explain", name, "--json").stdout)
    (found,) = report["architectures"]
    assert (
        found.items()
        >= {"architecture": name, "pinned": "." in name, "winner": None, "candidates": []}.items()
    )
    assert (found["class"], found["refuses"]) == (None, [])


def test_explain_a_folder(zoo, tmp_path):
    folder = tmp_path / "model [1]"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Unknown", "Qwen3ForCausalLM"]}')
    result = run("explain", str(folder), "--no-build")
    assert result.exit_code == 0
    assert "No suite provides Unknown." in " ".join(result.stdout.split())
    assert "Qwen3ForCausalLM is served by native.Qwen3ForCausalLM" in result.stdout
    report = json.loads(run("explain", str(folder), "--no-build", "--json").stdout)
    assert report["folder"] == str(folder)
    assert [item["architecture"] for item in report["architectures"]] == ["Unknown", "Qwen3ForCausalLM"]


ADD = 'Add "architectures", such as ["LlamaForCausalLM"].'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "DIR: has no config.json. Give the folder of a Hugging Face model."),
        (
            "{",
            "DIR/config.json: is not valid JSON (Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)). Download the model again.",
        ),
        (
            b"\xff\xfe{",
            "DIR/config.json: is not valid JSON ('utf-8' codec can't decode byte 0xff in position 0",
        ),
        pytest.param("[" * 100_000, "DIR/config.json: is not valid JSON (", id="too deep"),
        ("{}", f"DIR/config.json: names no architectures. {ADD}"),
        ("[]", f"DIR/config.json: names no architectures. {ADD}"),
        ('{"architectures": []}', f"DIR/config.json: names no architectures. {ADD}"),
        ('{"architectures": "LlamaForCausalLM"}', f"DIR/config.json: names no architectures. {ADD}"),
        ('{"architectures": [1]}', f"DIR/config.json: names no architectures. {ADD}"),
    ],
)
def test_explain_a_bad_folder(zoo, tmp_path, content, text):
    folder = tmp_path / "model"
    folder.mkdir()
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "config.json").write_bytes(data)
    result = run("explain", str(folder))
    assert (result.exit_code, result.stdout) == (2, "")
    line = result.stderr.splitlines()[-1]
    assert line.startswith(text.replace("DIR", str(folder)))
    assert "Traceback" not in result.stderr


def test_explain_a_folder_whose_config_cannot_be_read(zoo, tmp_path):
    # Permissions don't stop root. This file stops everybody: nothing is mapped at its start.
    (tmp_path / "config.json").symlink_to("/proc/self/mem")
    result = run("explain", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        f"{tmp_path}/config.json: can't be read (Input/output error). Check its permissions."
    )


def test_explain_no_folder(zoo, tmp_path):
    hint = "Give a model folder, or an architecture such as LlamaForCausalLM."
    for target, what in ((tmp_path / "ghost", "doesn't exist"), (__file__, "is not a folder")):
        result = run("explain", str(target))
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == f"{target}: {what}. {hint}"
    assert run("explain", "Qwen/Qwen3-0.6B").exit_code == 2


def test_a_bad_setting_is_one_line_and_exits_with_2(zoo, monkeypatch, capsys):
    monkeypatch.setenv("MSZOO_KERNELS", "cuda 12")
    line = "MSZOO_KERNELS: 'cuda 12' is not a kernel set. Use one of auto, mindspore, cpu, ascend.\n"
    for arguments in (["list"], ["list", "--json"], ["explain", "LlamaForCausalLM"]):
        result = run(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (2, "", line)
    monkeypatch.setattr(sys, "argv", ["mszoo", "list"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", line)


def test_version_and_usage():
    assert (run("--version").stdout, run("--version").exit_code) == (f"mszoo {VERSION}\n", 0)
    assert run("--help").exit_code == 0
    assert run("nothing").exit_code == 2
    assert run("explain").exit_code == 2
    assert "Usage: mszoo" in run().output


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys; from mszoo.registry.cli import build; build()\n"
        "from mszoo.registry.load import load_catalog; load_catalog().digest()\n"
        "print(sorted({'vllm', 'torch', 'mindspore', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "[]\n"


def test_a_path_that_the_system_refuses_is_one_line():
    result = CliRunner().invoke(build(), ["lock", "--check", "a" * 5000])
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "a: can't be used (File name too long). Give another path, or mend this one.\n"
    )
    assert "Traceback" not in result.stderr

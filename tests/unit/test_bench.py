"""The command `mszoo bench`: usage that it refuses before anything runs."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mszoo.registry.cli import build


def model_folder(tmp_path, architecture):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return str(tmp_path)


def run(*arguments):
    return CliRunner().invoke(build(), ["bench", *arguments])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batch", "1,x"], "'1,x' is not a list such as 1,8,32"),
        (["--batch", "0"], "is not a list"),
        (["--runs", "0"], "greater than or equal to 1"),
        (["--new", "1"], "greater than or equal to 2"),
        (["--dtype", "int8"], "int8"),
        (["--kernels", "fast"], "'fast' is not a kernel set"),
        (["--images", "-1"], "greater than or equal to 0"),
        (["--speculative-config", "ngram"], "'ngram' is not a JSON object such as"),
        (["--speculative-config", "[1]"], "'[1]' is not a JSON object such as"),
    ],
)
def test_bad_usage(tmp_path, arguments, text):
    found = run(model_folder(tmp_path, "LlamaForCausalLM"), *arguments)
    assert found.exit_code == 2
    assert text in " ".join(found.stderr.replace("│", " ").split())


def test_a_missing_folder_is_bad_usage(tmp_path):
    found = run(str(tmp_path / "nowhere"))
    assert found.exit_code == 2
    assert "nowhere: doesn't exist." in found.stderr


def test_images_for_a_model_that_reads_none(tmp_path):
    found = run(model_folder(tmp_path, "LlamaForCausalLM"), "--images", "1")
    assert found.exit_code == 1
    assert (
        "LlamaForCausalLM reads no images. Leave --images out, or name a model that reads them"
        in found.stderr
    )


def test_proposals_for_a_model_that_is_pooled(tmp_path):
    found = run(model_folder(tmp_path, "BertModel"), "--speculative-config", '{"method": "ngram"}')
    assert found.exit_code == 1
    why = "BertModel generates no text, and nothing can be proposed. Leave --speculative-config out"
    assert why in found.stderr


def test_an_architecture_without_a_mindspore_model_is_refused(tmp_path):
    found = run(model_folder(tmp_path, "FarForCausalLM"))
    assert found.exit_code == 1
    assert "no MindSpore model serves FarForCausalLM. See why: mszoo explain" in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bench", "--plot: bench has no suffix of an image format. Name it with one of: "),
        ("nowhere/bench.svg", "nowhere is not a folder. Create it first"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_first(tmp_path, name, text):
    found = run(str(tmp_path), "--plot", str(tmp_path / name))
    assert found.exit_code == 2
    assert text in found.stderr

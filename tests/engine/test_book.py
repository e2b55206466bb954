"""The packages of the how-to pages' own blocks give the right results."""

from __future__ import annotations

from pathlib import Path

import pytest

from mszoo.registry.cli.new import names_of, write
from tests.tools import book_packages, tutorial

#: What makes the encoder that `mszoo new` writes one whose layers could hand on the stream in two parts.
CARRIED = {
    "model": (
        ('NormSpec("layer_norm", ', 'NormSpec("rms_norm", '),
        ('reader.must_be("type_vocab_size", 0)', 'reader.must_be("type_vocab_size", 0)\n        SCALE'),
        ('                residual_multiplier=reader.required("residual_scale"),\n', ""),
        ("SCALE", 'reader.must_be("residual_scale", 0.5)'),
    ),
    "conformance": (
        ("import gelu, layer_norm, linear", "import gelu, linear, rms_norm"),
        (
            'layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)',
            'rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], 1e-6)',
        ),
        ('config["residual_scale"]', "1.0"),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("page", book_packages.PAGES)
def test_a_package_of_a_page_passes(page: str, tmp_path: Path) -> None:
    passes(book_packages.make(page, tmp_path))


@pytest.mark.long
def test_an_encoder_whose_norms_add_the_stream(tmp_path: Path) -> None:
    """Nothing behind the last layer's MLP adds it, so the layer does."""
    package = tmp_path / "mszoo-acme"
    write(names_of("mszoo-acme"), package, "encoder")
    for name, changes in CARRIED.items():
        file = package / "mszoo_acme" / f"{name}.py"
        text = file.read_text("utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text, "utf-8")
    passes(package)


def passes(package: Path) -> None:
    """Assert that a package passes the numeric tier."""
    done = tutorial.mszoo(["check", "acme", "--tier", "numeric"], package, tutorial.install(package))
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout

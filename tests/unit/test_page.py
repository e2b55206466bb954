"""The pages of ``--html``: what they show, that text from outside stays text, and that they work in a browser."""

from __future__ import annotations

import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mszoo.registry import plugins
from mszoo.registry.cli import build, page
from mszoo.registry.cli.check.anonymous import without_names

from .browser import BROWSER, browser

pytest.importorskip("jinja2", reason="jinja2 isn't installed")

HOSTILE = (
    "<script>document.title='taken'</script>",
    "</style><script>document.title='taken'</script>",
    '"><img src="http://127.0.0.1:9/x" onerror="document.title=\'taken\'">',
    "' onmouseover=document.title='taken' x='",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;",
    "\x1b[31mred\u202egnp.exe\x00\ud800",
)
VERDICTS = {"static": "passed", "numeric": "failed", "engine": "not run"}
HEADING = {
    "mszoo": "0.1.0",
    "device": "cpu",
    "digest": "414b3e4d0387",
    "disabled": [],
    "lock": None,
    "problems": [],
}


def adapter(name: str, **changes: Any) -> dict[str, Any]:
    """Return one of check_json's adapters."""
    tests = [
        {"tier": "static", "test": "test_registered", "outcome": "passed", "reason": None, "seconds": 0.1,
         "measured": ""},
        {"tier": "numeric", "test": "test_logits[float16]", "outcome": "failed",
         "reason": "logits differ\nby 3e-1", "seconds": 2.25, "measured": ""},
    ]  # fmt: skip
    item = {"adapter": name, "kind": "model", "suite": name.partition(".")[0], "source": "acme-dist 1.0",
            "code": "acme:Model", "refused": None, "dtypes": ["float32"], "capabilities": ["lora"],
            "leave_out": ["float16"], "tiers": VERDICTS, "tests": tests}  # fmt: skip
    return item | changes


def check_report(*adapters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    versions = {"python": "3.11.7", "vllm": "0.32.0", "vllm-ascend": None}
    document = {
        **HEADING,
        "tier": "numeric",
        "versions": versions,
        "machine": None,
        "adapters": list(adapters),
    }
    return document | changes


def explain_report(text: str) -> dict[str, Any]:
    """Return one of explain_json's documents with a text wherever text from outside goes."""
    candidate = {"name": text, "suite": text, "plugin": text, "distribution": text, "version": text, "model": text,
                 "capabilities": [text], "devices": ["cpu"], "dtypes": ["float32"], "requires": [text],
                 "priority": 1, "refused": text, "status": "won", "reason": text}  # fmt: skip
    decision = {"architecture": text, "pinned": False, "winner": text, "candidates": [candidate], "class": text,
                "last_resort": text, "refuses": [text]}  # fmt: skip
    other = {"name": text, "code": text, "reason": text}
    op = {"op": text, "kernel_set": text, "code": text, "from": text, "reason": text, "others": [other]}
    layer = {"target": text, "suite": text, "replaces": text, "by": text, "code": text, "from": text,
             "reason": text, "in_effect": True, "others": [other]}  # fmt: skip
    process = {"role": "worker 0", "pid": 1, "digest": text, "adapter": text, "model": text}
    serves = {"architecture": text, "server": text, "adapter": text, "kernel_set": text, "model": text,
              "reason": text, "asked": [{"adapter": text, "accepted": False, "reason": text}]}  # fmt: skip
    return {
        **HEADING,
        "disabled": [text],
        "lock": {"file": text, "unlisted": [text]},
        "folder": text,
        "architectures": [decision],
        "serves": serves,
        "ops": {"dtype": "float32", "kernel_set": text, "reason": text, "ops": [op]},
        "layers": [layer, layer | {"suite": None, "in_effect": False}],
        "processes": {"agree": True, "workers": 1, "reason": text, "processes": [process]},
        "problems": [{"who": text, "what": text, "mend": text, "plugin": text}],
    }


def hostile_check(text: str) -> dict[str, Any]:
    test = {
        "tier": "static",
        "test": text,
        "outcome": "failed",
        "reason": text,
        "seconds": 0.0,
        "measured": text,
    }
    item = adapter(text, suite=text, source=text, code=text, refused=text, dtypes=[text], capabilities=[text],
                   tests=[test])  # fmt: skip
    problems = [{"who": text, "what": text, "mend": text, "plugin": text}]
    return check_report(item, machine=text, versions={"vllm": text}, problems=problems)


class Elements(HTMLParser):
    """Collects the elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made_page(name: str, text: str) -> str:
    """Return a page with a text wherever text from outside goes."""
    return page.page(name, explain_report(text) if name == "explain" else hostile_check(text))


@functools.cache
def harmless_page(name: str) -> str:
    return made_page(name, "plain")


@pytest.mark.parametrize("name", ["explain", "check"])
@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_stays_text(name: str, text: str) -> None:
    harmless, hostile = harmless_page(name), made_page(name, text)
    before, after = Elements(harmless), Elements(hostile)
    # The same elements with the same attributes: what is in them differs, and that alone.
    assert [(tag, [*attributes]) for tag, attributes in after.tags] == [
        (tag, [*attributes]) for tag, attributes in before.tags
    ]
    assert len(after.of("script")) == len(after.of("style")) == 1
    assert not any(ord(char) < 32 and char != "\n" for char in hostile)
    hostile.encode()  # no lone surrogate
    assert "\u202e" not in hostile
    if text.isprintable():
        assert text in after.text


@pytest.mark.parametrize("name", ["explain", "check"])
def test_a_page_needs_nothing_else(name: str) -> None:
    text = harmless_page(name)
    elements = Elements(text)
    assert not {"link", "img", "iframe", "base", "object"} & {tag for tag, _ in elements.tags}
    assert not [
        key for _, attributes in elements.tags for key in attributes if key in ("src", "href", "style")
    ]
    assert not re.search(r"https?://|@import|url\(", text)
    (policy,) = [item["content"] for item in elements.of("meta") if "http-equiv" in item]
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-\S+'; script-src 'sha256-\S+'; base-uri 'none'", policy or ""
    )
    # Without JavaScript there are no filters, and everything else is there.
    assert all("hidden" in item for item in elements.of("form"))
    assert len(text) < 30_000


def test_the_matrix() -> None:
    text = page.page(
        "check",
        check_report(
            adapter("acme.AcmeForCausalLM"),
            adapter("old.OldForCausalLM", refused="it is a legacy class", tests=[]),
            adapter(
                "acme", kind="suite", tiers=dict.fromkeys(VERDICTS, "passed"), dtypes=[], capabilities=[]
            ),
        ),
    )
    elements = Elements(text)
    words = " ".join(elements.text.split())
    assert "Tested up to the tier numeric, with python 3.11.7, vllm 0.32.0." in words
    assert "failed numeric test_logits[float16] 2.2 s logits differ by 3e-1" in words
    assert "Refused: it is a legacy class" in words
    assert "Dtypes to leave out, or to mend: float16" in words
    rows = [item for item in elements.of("tr") if "data-status" in item]
    assert [(item["data-suite"], item["data-kind"], item["data-status"]) for item in rows] == [
        ("acme", "model", "failed"), ("old", "model", "refused"), ("acme", "suite", "passed")
    ]  # fmt: skip
    # A square for each test, by its name; what failed is open.
    assert {"class": "failed", "title": "test_logits[float16]: failed"} in elements.of("i")
    assert ["open" in item for item in elements.of("details")] == [True, False, False]


ACME = """
@hookimpl
def mszoo_suite():
    return Suite("acme", "<b>Models</b>")

@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("AcmeForCausalLM", f"{__name__}:Model", capabilities=["lora"])]

@hookimpl
def mszoo_op_adapters():
    return [OpAdapter("rms_norm", f"{__name__}:norm", "acme", priority=1)]

@hookimpl
def mszoo_layer_adapters():
    return [LayerAdapter("acme:acme.models:Norm", f"{__name__}:Model")]

class Model: pass
def norm(): pass
"""


@pytest.fixture
def zoo(make_plugin, monkeypatch):
    installed = [make_plugin(ACME, name="acme", distribution="acme-dist")]
    monkeypatch.setattr(plugins, "readable", lambda group: (installed, []))
    for name in ("MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments):
    return CliRunner().invoke(build(), list(arguments))


def test_explain_writes_what_its_json_says(zoo, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["AcmeForCausalLM"], "dtype": "float32"}')
    for target in ("AcmeForCausalLM", str(tmp_path)):
        file = tmp_path / "page.html"
        result = run("explain", target, "--no-build", "--html", str(file))
        assert result.exit_code == 0, result.output
        assert "Ops in" not in result.stdout  # these are for the page, unless asked for
        words = " ".join(Elements(file.read_text()).text.split())
        report = json.loads(run("explain", target, "--no-build", "--json", "--ops", "--layers").stdout)
        assert f"Who serves {target}" in words
        assert (
            "AcmeForCausalLM is served by acme.AcmeForCausalLM Decided by the only one available here"
            in words
        )
        op = next(item for item in report["ops"]["ops"] if item["op"] == "rms_norm")
        assert f"rms_norm acme {op['from']} {op['code']} {op['reason']}" in words
        (layer,) = report["layers"]
        assert "1 of 1 registered replacements are in effect here." in words
        assert f"{layer['code']} replaces {layer['replaces']}" in words
    assert sorted(item.name for item in tmp_path.glob("*page*")) == ["page.html"]
    run("explain", "rms_norm", "--html", str(file))
    assert "Who runs rms_norm" in file.read_text()
    run("explain", "GhostForCausalLM", "--html", str(file))
    assert "GhostForCausalLM is served by nobody" in file.read_text()


@pytest.mark.parametrize("command", [["explain", "AcmeForCausalLM"], ["check", "acme", "--tier", "static"]])
def test_a_place_that_cannot_be_written_is_told_before_the_work(zoo, tmp_path, command):
    result = run(*command, "--html", str(tmp_path / "gone" / "page.html"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "page.html: can't be written (No such file or directory)" in result.stderr


def test_without_jinja(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    result = run("explain", "AcmeForCausalLM", "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 2
    hint = "It comes with vLLM. Install it: pip install 'mszoo[conformance]'."
    assert result.stderr.splitlines()[-1] == f"--html: jinja2 is not installed. {hint}"


def test_a_matrix_can_be_sent_to_others(tmp_path):
    report = check_report(adapter("acme.A", code=f"{Path.home()}/secret:Model"))
    assert str(Path.home()) not in page.page("check", without_names(report))


SHOWN = (
    "[...document.querySelectorAll('#matrix tbody tr')]"
    ".filter(row => row.offsetHeight).map(row => row.dataset.status)"
)


def choose(field: str, value: str) -> str:
    """Return JavaScript that does what a user does to a field of the filters."""
    return (
        f"(() => {{ const field = document.querySelector('form.filters [name={field}]'); field.value = {value!r};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser(tmp_path: Path) -> None:
    """The filters work, nothing hostile runs, nothing is asked for, and without JavaScript all is shown."""
    text = "".join(HOSTILE)
    adapters = (
        adapter("acme.A"),
        adapter("acme.B", tiers=dict.fromkeys(VERDICTS, "passed"), suite="other"),
        adapter("acme.C", refused=text, tests=[]),
    )
    matrix, explained = tmp_path / "check.html", tmp_path / "explain.html"
    page.write_page(matrix, "check", check_report(*adapters))
    page.write_page(explained, "explain", explain_report(text))
    with browser(tmp_path) as shown:
        shown.open(matrix)
        assert shown.js("document.title") == "Conformance on cpu"
        assert shown.js(SHOWN) == ["failed", "passed", "refused"]
        assert shown.js("document.querySelector('form.filters').offsetHeight") > 0
        for field, value, left in (
            ("status", "failed", ["failed"]),
            ("status", "", ["failed", "passed", "refused"]),
            ("suite", "other", ["passed"]),
            ("suite", "", ["failed", "passed", "refused"]),
            ("text", " DOCUMENT.title ", ["refused"]),
        ):
            shown.js(choose(field, value))
            assert shown.js(SHOWN) == left
            assert shown.js("document.querySelector('output').textContent") == f"{len(left)} of 3 shown"
        assert (shown.urls, shown.said) == ([matrix.as_uri()], [])
        colours = set()
        for scheme in ("light", "dark"):
            shown.call(
                "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
            )
            colours.add(shown.js("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2

        shown.open(explained)
        assert shown.js("document.title").startswith("Who serves <script>")
        assert (shown.urls, shown.said) == ([explained.as_uri()], [])
        # Markup that came through all the same would be stopped by the page's policy.
        shown.js(
            "document.body.insertAdjacentHTML('beforeend', '<b onclick=\"document.title=1\" id=b>x</b>')"
        )
        shown.js("document.getElementById('b').click()")
        assert shown.js("document.title").startswith("Who serves")
        assert "violates the following Content Security Policy" in " ".join(shown.said)

        shown.call("Emulation.setScriptExecutionDisabled", value=True)
        shown.open(matrix)
        assert shown.js(SHOWN) == ["failed", "passed", "refused"]
        assert shown.js("document.querySelector('form.filters').offsetHeight") == 0

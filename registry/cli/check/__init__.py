"""``mszoo check``: the conformance tests of the adapters that are installed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import names
from mszoo.registry.cli.check.anonymous import without_names
from mszoo.registry.cli.check.report import check_json, good, print_report, read_page, write_markdown
from mszoo.registry.cli.check.run import TIERS, Subject, run
from mszoo.registry.cli.page import HtmlOption, check_can_write, write_page
from mszoo.registry.cli.report import (
    DeviceOption,
    JsonOption,
    choice,
    chosen_device,
    print_json,
)
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import MszooError
from mszoo.registry.files import check_writable
from mszoo.registry.load import load_catalog
from mszoo.registry.records import ModelAdapter

#: The kinds of subjects that are adapters of architectures.
_OF_MODELS = ("model", "encoder", "head", "multimodal")
_EXTRA = "pip install 'mszoo[conformance]'"


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[SUITE|ARCH|DEVICE]",
            autocompletion=names.complete_subjects,
            help="A suite (native), an architecture, plain or of one suite (native.LlamaForCausalLM), a suite's "
            "layer or op, or this machine's device (npu): set-up, exchange of tensors, ops, memory, graphs, "
            "speed. Default: everything.",
        ),
    ] = None,
    tier: Annotated[
        str,
        choice(
            TIERS,
            help="The last tier to run. static: records and registration; numeric: results against a "
            "reference; engine: serving with vLLM.",
        ),
    ] = TIERS[-1],
    device: DeviceOption = None,
    as_json: JsonOption = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.md",
            help="Write a Markdown matrix: a new file, or the marked block of one that has it.",
        ),
    ] = None,
    html: HtmlOption = None,
) -> None:
    """Run the conformance tests of a suite, of an architecture's adapters, or of everything.

    MSZOO_LOCK and MSZOO_DISABLE hold here as in vLLM. Exits with 1 if a test fails, or if a plugin or setting has a
    problem; with 2 and without a test if something differs from the lock.
    """
    _require(tier)
    if report is not None:
        # A page that can't take the matrix is refused before the tests run.
        read_page(report)
        check_writable(report)
    check_can_write(html)
    catalog = load_catalog(device=_this_machines(device))
    if catalog.settings.lock is not None:
        from mszoo.registry.lock_check import enforce

        enforce(catalog.settings.lock, catalog.differences)  # changed code isn't tested either
    subjects = select(catalog, target)
    results = run(subjects, tier)
    document = check_json(catalog, subjects, results, tier)
    if report is not None:
        write_markdown(document, report)
    if html is not None:
        write_page(html, "check", without_names(document))
    if as_json:
        print_json(document)
    else:
        print_report(document, catalog.problems)
    raise typer.Exit(0 if good(document) else 1)


def _this_machines(device: str | None) -> str:
    """Return the device that vLLM serves on here.

    Raises:
        MszooError: another one was asked for, on which nothing can run here.
    """
    here = chosen_device(None)
    if device is not None and device != here:
        hint = f"See what keeps it from {device}: mszoo doctor --device {device}"
        raise MszooError("mszoo check", f"vLLM serves on {here} here, not on {device}", hint)
    return here


def select(catalog: Catalog, target: str | None) -> list[Subject]:
    """Return what to test: the device, suites, then models, layers and ops.

    Raises:
        MszooError: the target is neither a suite, nor what one registers, nor the device.
    """
    subjects = list(_all(catalog))
    if target is None:
        return subjects
    chosen = [
        item
        for item in subjects
        if (item.suite or item.name) == target
        or (item.kind in _OF_MODELS and target in (item.name, item.name.partition(".")[2]))
        or (item.kind in ("layer", "op") and target in _names_of_part(item))
    ]
    if not chosen:
        hint = _left_out(catalog, target) or names.nearest(catalog, target, (catalog.device,))
        what = f"{target} is neither a suite nor an architecture, layer or op of one"
        raise MszooError("mszoo check", what, hint)
    return chosen


def _names_of_part(subject: Subject) -> tuple[str, ...]:
    """Return what a layer or an op may be called: in full, without the suite, and a layer by its class."""
    if subject.kind == "op":
        return subject.name, subject.attributes["op"]
    target = subject.attributes["target"]
    return subject.name, target, target.rpartition(":")[2]


def _left_out(catalog: Catalog, target: str) -> str:
    """Say who left out a plugin of the name that was asked for; nothing if nobody did."""
    name = target.partition(".")[0]
    if name in {plugin.name for plugin in catalog.discovery.disabled}:
        return f"MSZOO_DISABLE leaves {name} out: unset MSZOO_DISABLE."
    if name in {plugin.name for plugin in catalog.discovery.unlisted}:
        return f"{catalog.settings.lock} doesn't list {name}: lock it with `mszoo lock`, or unset MSZOO_LOCK."
    return ""


def _all(catalog: Catalog) -> Iterable[Subject]:
    ours = f"mszoo {version('mszoo')}"
    yield Subject("device", catalog.device, "", ours, {"device": catalog.device})
    for item in catalog.discovery.contributions:
        yield Subject(
            "suite", item.suite.name, item.suite.name, item.plugin.source, {"suite": item.suite.name}
        )
    for decision in catalog.decisions().values():
        for verdict in decision.verdicts:
            name, adapter = verdict.candidate.qualified_name, verdict.candidate.adapter
            yield _subject(_kind(adapter), name, verdict.candidate, {"architecture": name}, adapter.refused)
    for decision in catalog.layer_decisions().values():
        for verdict in decision.verdicts:
            candidate = verdict.candidate
            attributes = {"suite": candidate.suite.name, "target": candidate.adapter.target}
            yield _subject("layer", candidate.qualified_name, candidate, attributes)
    for decision in catalog.op_decisions().values():
        several = len({item.candidate.suite.name for item in decision.verdicts}) < len(decision.verdicts)
        for verdict in decision.verdicts:
            candidate = verdict.candidate
            name, adapter = candidate.qualified_name, candidate.adapter
            attributes = {"suite": candidate.suite.name, "op": adapter.op}
            if several:
                name = f"{name} ({adapter.implementation})"
                attributes["implementation"] = adapter.implementation
            yield _subject("op", name, candidate, attributes)


def _kind(adapter: ModelAdapter) -> str:
    """Return which of :data:`_OF_MODELS` a record is of."""
    of_field = {"encoder": adapter.pooling, "head": adapter.drafts, "multimodal": adapter.modalities}
    return next((kind for kind, value in of_field.items() if value), "model")


def _subject(
    kind: str, name: str, candidate: Candidate, attributes: Mapping[str, str], refused: str = ""
) -> Subject:
    adapter = candidate.adapter
    declared = tuple(sorted(item.value for item in getattr(adapter, "capabilities", ())))
    source = candidate.plugin.source
    code, dtypes = adapter.implementation, tuple(adapter.dtypes)
    return Subject(kind, name, candidate.suite.name, source, attributes, code, refused, dtypes, declared)


def _require(tier: str) -> None:
    if find_spec("pytest") is None:
        raise MszooError("mszoo check", "pytest is not installed", f"Install it: {_EXTRA}.")
    if tier == TIERS[0]:
        return
    for module, distribution in (("vllm", "vLLM"), ("mindspore", "MindSpore")):
        if find_spec(module) is None:
            hint = f"Install it: pip install 'mszoo[cpu]', or check with --tier {TIERS[0]}."
            raise MszooError("mszoo check", f"{distribution} is not installed", hint)

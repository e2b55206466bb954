"""What ``mszoo explain`` says of the parts of models: who runs each op, and which layers are replaced."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rich.console import Console

from mszoo.adapters.vllm import other_plugins
from mszoo.adapters.vllm.cli.explain.cells import print_cells
from mszoo.adapters.vllm.layers import install as layers
from mszoo.adapters.vllm.ops.kernels import choose_kernels
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.report import table
from mszoo.registry.decisions import Decision
from mszoo.registry.devices import TABLE

_VLLM = "vllm:"


def ops_json(catalog: Catalog, dtype: str, only: Collection[str] = ()) -> dict[str, Any]:
    """Return who runs each op of a model, or one that was asked about.

    Keys: ``dtype``, ``kernel_set`` (the built-in one), ``reason`` (why that one) and ``ops``, each with ``op``,
    ``kernel_set``, ``code`` (``module:function``, or vLLM's ``module:Class`` that runs it), ``from`` (who gives
    it), ``reason``, and ``others``: the candidates that don't run, each with ``name``, ``code`` and ``reason``.
    A MindSpore primitive, which its suite calls itself, is there if it was asked about; ``code`` is null if nobody
    implements it here.

    Args:
        catalog: the decisions.
        dtype: what the model computes in.
        only: the ops to look at; none for all of a model.

    Raises:
        RefusalError: no kernel set serves this device and dtype.
    """
    kernels = choose_kernels(catalog, catalog.settings.kernels, dtype)
    decisions = catalog.op_decisions(dtype)
    found = [
        {
            "op": op,
            "kernel_set": item.kernel_set,
            "code": item.path,
            "from": item.who,
            "reason": item.reason,
            "others": _others(decisions.get(op), item.path, catalog.settings.kernels),
        }
        for op, item in kernels.ops.items()
        if not only or op in only
    ]
    found += [_primitive(decisions[op]) for op in only if op not in kernels.ops]
    return {"dtype": dtype, "kernel_set": kernels.base, "reason": kernels.reason, "ops": found}


def _primitive(decision: Decision) -> dict[str, Any]:
    first, winner = decision.verdicts[0], decision.winner
    code = None if winner is None else winner.adapter.implementation
    return {
        "op": decision.subject,
        "kernel_set": first.candidate.adapter.kernel_set,
        "code": code,
        "from": str(first.candidate.plugin.source),
        "reason": first.reason,
        "others": _others(decision, code or first.candidate.adapter.implementation),
    }


def layers_json(
    catalog: Catalog, served_by: Collection[str], dtype: str, only: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the layers that adapters replace or would replace: vLLM's, and cells inside the suites' models.

    Each has ``target``, ``suite`` (whose cell it is; null for a layer of vLLM's), ``replaces`` (``module:Class``,
    null if there is none), ``by`` (the adapter's qualified name, null if vLLM's or the suite's own layer runs),
    ``code``, ``from``, ``reason``, ``in_effect`` (false for a cell of a suite that serves none of the architectures
    asked about, whatever ``by`` says) and ``others``, the candidates that don't run, each with ``name``, ``code``
    and ``reason``.

    Args:
        catalog: the decisions.
        served_by: the suites whose models serve the architectures asked about.
        dtype: what the models compute in.
        only: the targets to look at; none for all.
    """
    taken = other_plugins.names_to_come(TABLE[catalog.device].package, catalog.device)
    plans = {item.decision.subject: item for item in layers.plan(catalog, taken)}
    # A layer of vLLM's is chosen by the dtype of whichever model holds it, a suite's cell by that of its model.
    cells = catalog.layer_decisions(dtype)
    return [
        _layer(target, decision if target.startswith(_VLLM) else cells[target], plans.get(target), served_by)
        for target, decision in catalog.layer_decisions().items()
        if not only or target in only
    ]


def print_ops(out: Console, report: dict[str, Any]) -> None:
    """Print what ops_json returned."""
    out.print(
        f"\nOps in {report['dtype']}: kernel set {report['kernel_set']}, {report['reason']}", style="bold"
    )
    rows = table("Op", "Set", "From", "Code and reason")
    for item in report["ops"]:
        lines = [item["code"] or "nobody", item["reason"], *_lines(item["others"])]
        rows.add_row(item["op"], item["kernel_set"], item["from"], "\n".join(lines))
    out.print(rows)


def print_layers(
    out: Console, report: list[dict[str, Any]], served_by: Collection[str], families: Collection[str]
) -> None:
    """Print what layers_json returned; the arguments are those of print_cells."""
    if not report:
        out.print("\nLayers: none is replaced, no suite registers one", style="bold")
        return
    of_vllm = [item for item in report if item["suite"] is None]
    if of_vllm:
        out.print("\nLayers of vLLM's own models", style="bold")
        rows = table("Layer", "Runs", "Code and reason")
        for item in of_vllm:
            lines = [f"{item['code']} replaces {item['replaces']}"] if item["by"] else []
            rows.add_row(
                item["target"],
                item["by"] or "its own",
                "\n".join([*lines, item["reason"], *_lines(item["others"])]),
            )
        out.print(rows)
    print_cells(out, report, served_by, families)


def _layer(
    target: str, decision: Decision, plan: layers.Plan | None, served_by: Collection[str]
) -> dict[str, Any]:
    first = decision.verdicts[0]
    owner, _, name = target.partition(":")
    suite = None if target.startswith(_VLLM) else owner
    replaces: str | None = name
    if suite is None:
        replaces = f"{plan.module}:{plan.name}" if plan is not None and plan.module else None
    obstacle = plan.obstacle if plan is not None else None
    runs = decision.winner is not None and replaces is not None and obstacle is None
    plugin = first.candidate.plugin
    return {
        "target": target,
        "suite": suite,
        "replaces": replaces,
        "by": first.candidate.qualified_name if runs else None,
        "code": first.candidate.adapter.implementation if runs else None,
        "from": plugin.source,
        "reason": f"{obstacle.what}. {obstacle.hint}" if obstacle is not None else first.reason,
        "in_effect": runs and (suite is None or suite in served_by),
        "others": _others(decision, first.candidate.adapter.implementation),
    }


def _others(decision: Decision | None, running: str, kernels: str = "auto") -> list[dict[str, str]]:
    """Return the candidates that don't run; one that won its decision came after mszoo's own implementation.

    Args:
        decision: about the op or layer.
        running: the code that runs.
        kernels: of an op, ``MSZOO_KERNELS``, which leaves other sets out.
    """
    others = []
    for verdict in decision.verdicts if decision is not None else ():
        candidate = verdict.candidate
        if candidate.adapter.implementation == running:
            continue
        reason, kernel_set = verdict.reason, getattr(candidate.adapter, "kernel_set", kernels)
        if verdict.status != "unavailable" and kernels not in ("auto", kernel_set):
            reason = f"MSZOO_KERNELS={kernels} leaves out its kernel set, {kernel_set}"
        elif verdict.status == "won":
            reason = (
                "mszoo's own goes before it: give it a higher priority, or put its suite into MSZOO_PREFER"
            )
        others.append(
            {"name": candidate.qualified_name, "code": candidate.adapter.implementation, "reason": reason}
        )
    return others


def _lines(others: list[dict[str, str]]) -> list[str]:
    return [f"not {item['name']} ({item['code']}): {item['reason']}" for item in others]

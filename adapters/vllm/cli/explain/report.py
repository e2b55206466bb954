"""What ``mszoo explain`` found out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.cli.explain.folder import config_dtype, config_fields
from mszoo.adapters.vllm.cli.explain.parts import layers_json, ops_json
from mszoo.adapters.vllm.cli.explain.processes import Processes, start, tensor_parallel
from mszoo.adapters.vllm.cli.explain.subject import Target
from mszoo.adapters.vllm.cli.explain.verdict import Verdict, ask
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate, Decision
from mszoo.registry.errors import Problem
from mszoo.registry.missing import missing_code
from mszoo.registry.records import DTYPES


@dataclass
class Report:
    """What was found out.

    Args:
        catalog: where the decisions come from.
        decisions: one per architecture asked about.
        target: what was asked about.
        ops, layers, verdict, processes: what was asked for beyond the decisions; None where it wasn't.
    """

    catalog: Catalog
    decisions: list[Decision]
    target: Target
    ops: dict[str, Any] | None = None
    layers: list[dict[str, Any]] | None = None
    verdict: Verdict | None = None
    processes: Processes | None = None

    @property
    def folder(self) -> Path | None:
        """The model folder; None where a name was given."""
        return self.target.folder

    @cached_property
    def missing(self) -> list[Problem]:
        """What is wrong with the records of what was asked about: code or layers that aren't there."""
        plain = {name.rpartition(".")[2] for name in self.target.architectures}
        return missing_code(self.catalog, {*plain, *self.target.layers, *self.target.ops})

    @property
    def winners(self) -> list[Candidate]:
        """Who serves the architectures that are served."""
        return [decision.winner for decision in self.decisions if decision.winner is not None]

    @property
    def good(self) -> bool:
        """Whether a MindSpore model serves, and nothing is wrong."""
        serves = bool(self.winners) if self.verdict is None else self.verdict.adapter is not None
        if not self.decisions:  # a layer or an op
            serves = any(item["code"] for item in [*(self.layers or ()), *(self.ops or {}).get("ops", ())])
        started = self.processes is None or (self.processes.agree and self.processes.served)
        return serves and started and not self.missing and not self.catalog.problems

    @property
    def served_by(self) -> set[str]:
        """The suites whose models serve the architectures; of a layer that was asked about, its own."""
        if self.target.layers:
            return {target.partition(":")[0] for target in self.target.layers}
        return {winner.suite.name for winner in self.winners}

    @property
    def families(self) -> set[str]:
        """The ``model_type`` of the models asked about, as far as it is known."""
        if self.folder is not None:
            found = [config_fields(self.folder).get("model_type")]
        else:
            found = [winner.adapter.example_config.get("model_type") for winner in self.winners]
        return {item for item in found if isinstance(item, str)}

    def add_parts(self, ops: bool, layers: bool, dtype: str | None) -> None:
        """Find out who runs ops and layers; RefusalError if no kernel set serves the dtype."""
        only_ops, only_layers = self.target.ops, self.target.layers
        ops, layers = ops or bool(only_ops), layers or bool(only_layers)
        if not ops and not layers:
            return
        declared = config_dtype(self.folder) if self.folder is not None else None
        own = next((winner.adapter.dtypes[0] for winner in self.winners), DTYPES[0])
        chosen = dtype or (declared if declared in DTYPES else own)
        if ops:
            self.ops = ops_json(self.catalog, chosen, only_ops)
        if layers:
            self.layers = layers_json(self.catalog, self.served_by, chosen, only_layers)

    def add_verdict(self, dtype: str | None, trust_remote_code: bool = False) -> None:
        """Find out who serves the folder, by building what would be built."""
        if self.folder is not None:
            self.verdict = ask(self.folder, dtype, trust_remote_code)

    def add_processes(self, trust_remote_code: bool = False) -> None:
        """Start vLLM's processes on the folder."""
        if self.folder is not None:
            fields = config_fields(self.folder)
            workers, reason = tensor_parallel(next(iter(self.winners), None), fields)
            trusted = {"trust_remote_code": True} if trust_remote_code else {}
            self.processes = start(self.folder, workers, reason, **trusted)

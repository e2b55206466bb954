"""What ``mszoo explain`` found out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.cli.explain.folder import config_dtype, config_fields
from mszoo.adapters.vllm.cli.explain.parts import layers_json, ops_json
from mszoo.adapters.vllm.cli.explain.processes import Processes, start, tensor_parallel
from mszoo.adapters.vllm.cli.explain.verdict import Verdict, ask
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate, Decision
from mszoo.registry.records import DTYPES


@dataclass
class Report:
    """What was found out.

    Args:
        catalog: where the decisions come from.
        decisions: one per architecture asked about.
        folder: the model folder; None for an architecture.
        ops, layers, verdict, processes: what was asked for beyond the decisions; None where it wasn't.
    """

    catalog: Catalog
    decisions: list[Decision]
    folder: Path | None
    ops: dict[str, Any] | None = None
    layers: list[dict[str, Any]] | None = None
    verdict: Verdict | None = None
    processes: Processes | None = None

    @property
    def winners(self) -> list[Candidate]:
        """Who serves the architectures that are served."""
        return [decision.winner for decision in self.decisions if decision.winner is not None]

    @property
    def good(self) -> bool:
        """Whether a MindSpore model serves, and nothing is wrong."""
        serves = bool(self.winners) if self.verdict is None else self.verdict.adapter is not None
        started = self.processes is None or (self.processes.agree and self.processes.served)
        return serves and started and not self.catalog.problems

    @property
    def served_by(self) -> set[str]:
        """The suites whose models serve the architectures."""
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
        if not ops and not layers:
            return
        declared = config_dtype(self.folder) if self.folder is not None else None
        own = next((winner.adapter.dtypes[0] for winner in self.winners), DTYPES[0])
        chosen = dtype or (declared if declared in DTYPES else own)
        if ops:
            self.ops = ops_json(self.catalog, chosen)
        if layers:
            self.layers = layers_json(self.catalog, self.served_by, chosen)

    def add_verdict(self, dtype: str | None) -> None:
        """Find out who serves the folder, by building what would be built."""
        if self.folder is not None:
            self.verdict = ask(self.folder, dtype)

    def add_processes(self) -> None:
        """Start vLLM's processes on the folder."""
        if self.folder is not None:
            fields = config_fields(self.folder)
            workers, reason = tensor_parallel(next(iter(self.winners), None), fields)
            self.processes = start(self.folder, workers, reason)

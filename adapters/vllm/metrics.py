"""Who serves, on vLLM's ``/metrics``: the entry point of ``vllm.stat_logger_plugins``.

Imported by vLLM's front end where it makes its loggers. With it vLLM keeps its own statistics too, whatever
``--disable-log-stats`` says; ``VLLM_PLUGINS`` leaves it out.
"""

from __future__ import annotations

import functools
from typing import Any

from mszoo.adapters.vllm import reports, servers
from mszoo.adapters.vllm.install import install
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models.own import describe, path_of
from mszoo.adapters.vllm.seam import AggregateStatLoggerBase, vllm_version
from mszoo.registry.catalog import Catalog

_LABELS = ("suite", "adapter", "architecture", "kernel_set", "decision", "vllm_version", "rank", "role")


class ModelInfo(AggregateStatLoggerBase):
    """Sets ``mszoo_model_info`` to 1 for each worker whose report can be read, and records nothing of requests.

    Args:
        vllm_config, engine_indexes: as of vLLM's loggers.
    """

    def __init__(self, vllm_config: Any, engine_indexes: list[int]) -> None:
        del engine_indexes
        self._config = vllm_config

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Nothing of a step is recorded."""

    def log_engine_initialized(self) -> None:
        """Say who serves."""
        catalog = install()
        if catalog is None or catalog.settings.disabled_all:
            return
        for report in reports.read() or self._of_vllm(catalog):
            _gauge().labels(
                report.suite,
                report.adapter,
                report.architecture,
                report.kernel_set,
                report.decision,
                vllm_version(),
                str(report.rank),
                report.role,
            ).set(1)

    def _of_vllm(self, catalog: Catalog) -> list[reports.Report]:
        """Say, before its first step, that a model of vLLM's serves; MindSpore models have told by now."""
        model_config = self._config.model_config
        architecture = model_config.architectures[0]
        model_class, _ = model_config.registry.resolve_model_cls(model_config.architectures, model_config)
        if hasattr(model_class, "vllm_entry"):  # its workers are on other machines
            return []
        log.info(
            "mszoo: %s is served by %s: %s",
            architecture,
            describe(model_class),
            servers.why_not_ours(architecture, catalog),
        )
        ranks = range(self._config.parallel_config.world_size)
        path, digest = path_of(model_class), catalog.digest()
        return [reports.Report(architecture, "vllm", path, "vllm", digest, rank) for rank in ranks]


@functools.cache
def _gauge() -> Any:
    import prometheus_client

    return prometheus_client.Gauge(
        "mszoo_model_info",
        "Who serves the model: a MindSpore model's adapter, or vLLM's own (suite vllm).",
        labelnames=_LABELS,
        multiprocess_mode="mostrecent",
    )

"""The doctor: finds what keeps MindSpore models from being served here, and says how to mend it."""

from __future__ import annotations

from mszoo.registry.catalog import Catalog
from mszoo.registry.doctor.ascend import check_ascend
from mszoo.registry.doctor.environment import Environment
from mszoo.registry.doctor.finding import LEVELS, Finding
from mszoo.registry.doctor.kernels import check_kernels
from mszoo.registry.doctor.settings import check_settings
from mszoo.registry.doctor.stack import check_stack
from mszoo.registry.doctor.suites import check_classes, check_plugins, check_suites
from mszoo.registry.doctor.vllm_plugins import check_fork, check_vllm_plugins

__all__ = ["Finding", "examine"]


def examine(facts: Environment, catalog: Catalog) -> list[Finding]:
    """Return all findings, the worst first; nothing is imported but the plugins, which the catalog did."""
    findings = [
        *check_stack(facts),
        *check_vllm_plugins(facts),
        *check_fork(facts),
        *check_settings(facts),
        *check_plugins(catalog),
        *check_suites(catalog),
        *check_classes(catalog),
        *check_kernels(facts),
        *check_ascend(facts),
    ]
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))

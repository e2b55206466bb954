"""Judges the plugins and suites: what failed, what can't be used and why, and classes that aren't there."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from mszoo.registry.availability import installed_version
from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import Contribution
from mszoo.registry.errors import Problem
from mszoo.registry.finding import Finding, Level
from mszoo.registry.missing import missing_code

_OWN_DISTRIBUTION = "mszoo"


def check_plugins(catalog: Catalog) -> Iterator[Finding]:
    """Report what discovery and the decisions found wrong."""
    mistyped = {name for name, _ in catalog.settings.mistyped}  # check_settings finds them
    for problem in catalog.problems:
        if problem.who in mistyped:
            continue
        yield _finding(problem, catalog)


def check_suites(
    catalog: Catalog, installed: Callable[[str], str | None] = installed_version
) -> Iterator[Finding]:
    """Report suites whose models can't run here: not installed, or installed and unusable.

    Models that a suite itself declares refused are no finding: nothing here mends them.
    """
    verdicts = [
        verdict
        for decision in catalog.decisions().values()
        for verdict in decision.verdicts
        if not verdict.candidate.adapter.refused
    ]
    for contribution in catalog.discovery.contributions:
        own = [item for item in verdicts if item.candidate.suite.name == contribution.suite.name]
        unavailable = [item for item in own if item.status == "unavailable"]
        if not unavailable:
            continue
        count = "none" if len(unavailable) == len(own) else f"only {len(own) - len(unavailable)}"
        reasons = list(dict.fromkeys(item.reason for item in unavailable))
        more = f" (and {len(reasons) - 1} other reasons: mszoo list)" if len(reasons) > 1 else ""
        # What keeps the whole suite from running comes before what keeps one model.
        what, _, cure = (catalog.suite_obstacle(contribution.suite) or reasons[0]).rpartition(": ")
        # mszoo's own adapters for a suite that isn't there are no fault; a plugin was installed to be used.
        level: Level = "info" if _is_absent(contribution, installed) else "warning"
        yield Finding(
            level,
            f"suite {contribution.suite.name}",
            f"{count} of its {len(own)} models can run on {catalog.device}: {what}{more}",
            f"{cure[:1].upper()}{cure[1:]}" if cure.startswith("serve it") else f"To use it: {cure}",
        )


def check_classes(catalog: Catalog) -> Iterator[Finding]:
    """Report records of models, layers and ops whose code or layer isn't there; nothing is imported."""
    for problem in missing_code(catalog):
        yield _finding(problem, catalog)


def _finding(problem: Problem, catalog: Catalog) -> Finding:
    """Return a problem with the command that goes on without what has it."""
    hint = problem.hint
    if problem.plugin is not None:
        without = shlex.quote(",".join(sorted({*catalog.settings.disabled, problem.plugin})))
        hint = hint.partition(", or set MSZOO_DISABLE=")[0].rstrip(".")
        hint = f"{hint}. Or go on without the plugin: export MSZOO_DISABLE={without}"
    elif problem.who.startswith("MSZOO_"):
        hint = f"{hint} Or: unset {problem.who}"
    return Finding("problem", problem.who, problem.what, hint)


def _is_absent(contribution: Contribution, installed: Callable[[str], str | None]) -> bool:
    """Say whether it is mszoo's own plugin for a suite that is not installed; it is named as its distribution."""
    own = contribution.plugin.distribution == _OWN_DISTRIBUTION
    return own and bool(contribution.suite.requires) and installed(contribution.suite.name) is None

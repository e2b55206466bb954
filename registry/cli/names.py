"""The names that commands take: suites, architectures, layers and ops; and what was likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli.report import chosen_device
from mszoo.registry.errors import MszooError
from mszoo.registry.known_ops import known_ops
from mszoo.registry.load import load_catalog


def suites(catalog: Catalog) -> list[str]:
    """Return the names of the suites."""
    return [item.suite.name for item in catalog.discovery.contributions]


def architectures(catalog: Catalog) -> list[str]:
    """Return the architectures, plain and of one suite."""
    qualified = (item.qualified_name for items in catalog.candidates.values() for item in items)
    return [*catalog.architectures, *qualified]


def layers_of(catalog: Catalog, name: str) -> list[str]:
    """Return the targets that a name means: a target, or the class of one or several (``RMSNorm``)."""
    targets = catalog.layer_decisions()
    return [target for target in targets if name in (target, target.rpartition(":")[2])]


def ops(catalog: Catalog) -> list[str]:
    """Return the ops: those that are specified, and what suites register beside."""
    return [*dict.fromkeys((*known_ops(), *catalog.op_decisions()))]


def nearest(catalog: Catalog, name: str, more: Iterable[str] = ()) -> str:
    """Return ``Did you mean NAME?``, or where to look.

    Args:
        catalog: has the names.
        name: what was asked for.
        more: further names.
    """
    targets = [*catalog.layer_decisions()]
    classes = [target.rpartition(":")[2] for target in targets]
    known = [*suites(catalog), *architectures(catalog), *ops(catalog), *targets, *classes, *more]
    folded = {item.lower(): item for item in reversed(known)}
    found = difflib.get_close_matches(name.lower(), folded, n=1)
    return f"Did you mean {folded[found[0]]}?" if found else "`mszoo list` shows what is registered."


def complete_explained(incomplete: str) -> list[str]:
    """Return what a shell offers for what can be explained by name: architectures and ops."""
    return _completed(incomplete, lambda catalog: [*architectures(catalog), *ops(catalog)])


def complete_suites(incomplete: str) -> list[str]:
    """Return what a shell offers for a suite."""
    return _completed(incomplete, suites)


def complete_names(incomplete: str) -> list[str]:
    """Return what a shell offers for a suite, an architecture or an op."""
    return _completed(incomplete, lambda catalog: [*suites(catalog), *architectures(catalog), *ops(catalog)])


def complete_subjects(incomplete: str) -> list[str]:
    """Return what a shell offers for what can be checked: suites, architectures, and the device."""
    return _completed(incomplete, lambda catalog: [*suites(catalog), *architectures(catalog), catalog.device])


def _completed(incomplete: str, names: Callable[[Catalog], Iterable[str]]) -> list[str]:
    try:
        catalog = load_catalog(device=chosen_device(None))
    except MszooError:  # a bad setting; the command says it, a shell that completes can't
        return []
    return sorted({name for name in names(catalog) if name.startswith(incomplete)})

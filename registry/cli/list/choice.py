"""What ``mszoo list NAME`` means: a suite, or architectures, layers and ops of a name."""

from __future__ import annotations

from dataclasses import dataclass

from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import names
from mszoo.registry.errors import MszooError


@dataclass(frozen=True)
class Choice:
    """Whose rows are shown.

    Args:
        suite: one suite's; None for everybody's.
        named: subjects by name; none for all of the suite's.
    """

    suite: str | None
    named: tuple[str, ...] = ()

    def subjects(self, catalog: Catalog) -> frozenset[str]:
        """Return the architectures, layer targets and ops that are shown."""
        if self.named:
            return frozenset(self.named)
        decisions = (catalog.decisions(), catalog.layer_decisions(), catalog.op_decisions())
        return frozenset(
            name
            for found in decisions
            for name, decision in found.items()
            if any(verdict.candidate.suite.name == self.suite for verdict in decision.verdicts)
        )


def choose(catalog: Catalog, name: str | None, suite: str | None) -> Choice | None:
    """Return what was asked for; None if nothing was.

    Args:
        catalog: has the names.
        name: a suite, an architecture (``LlamaForCausalLM``, ``native.LlamaForCausalLM``), a layer or an op.
        suite: a suite, whose rows alone are shown.

    Raises:
        MszooError: nobody has a name.
    """
    known = names.suites(catalog)
    if suite is not None and suite not in known:
        hint = names.nearest(catalog, suite)
        raise MszooError("mszoo list", f"{suite} is no suite here", hint)
    if name is None or (name in known and suite in (None, name)):
        return None if (suite or name) is None else Choice(suite or name)
    owner, _, plain = name.rpartition(".")
    if name in catalog.candidates:
        return Choice(suite, (name,))
    if plain in catalog.candidates and owner in known and suite in (None, owner):
        return Choice(owner, (plain,))
    layers = names.layers_of(catalog, name)
    if layers:
        return Choice(suite, tuple(layers))
    if name in catalog.op_decisions():
        return Choice(suite, (name,))
    if name in names.ops(catalog):
        what = f"{name} is an op that no suite registers: mszoo's own kernels run it"
        raise MszooError("mszoo list", what, f"See which: mszoo explain {name}")
    what = f"{name} is neither a suite, an architecture, a layer nor an op here"
    raise MszooError("mszoo list", what, names.nearest(catalog, name))

"""The commands that plugins give by the hook ``mszoo_commands``."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

from mszoo.registry.cli.report import chosen_device
from mszoo.registry.errors import MszooError, Problem
from mszoo.registry.hookcalls import call_hook
from mszoo.registry.load import load_catalog
from mszoo.registry.text import describe, kind, shown
from mszoo.registry.validation import OBJECT_PATH

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_MOST = 100  # of one plugin


def commands_of_plugins(taken: Container[str]) -> tuple[dict[str, tuple[str, str]], list[Problem]]:
    """Load all plugins and ask them; returns who gives each command and its ``module:object``, and what is wrong.

    Under a lock only modules of the plugin's own package are taken: those are hashed.

    Args:
        taken: names that others have.
    """
    found: dict[str, tuple[str, str]] = {}
    problems: list[Problem] = []
    try:
        catalog = load_catalog(device=chosen_device(None))
    except MszooError as error:  # the command that is run says so
        return found, [Problem(error.who, error.what, error.hint)]
    plugins = {plugin.name: plugin for plugin in catalog.discovery.plugins}
    for outcome in call_hook(catalog.discovery.manager, "mszoo_commands"):
        plugin = plugins[outcome.plugin]

        def tell(what: str, hint: str, who: str = str(plugin), name: str = plugin.name) -> None:
            problems.append(Problem(who, what, hint, name))

        for trace in outcome.traces:
            tell(f"{trace.what}, when mszoo_commands was called", trace.hint)
        if outcome.error is not None:
            tell(f"mszoo_commands raised {describe(outcome.error)}", plugin.cure)
            continue
        if not isinstance(outcome.value, Mapping):
            hint = "Return names and 'module:object' of functions."
            tell(f"mszoo_commands returned {kind(outcome.value)} instead of a mapping", hint)
            continue
        own = plugin.value.partition(":")[0].partition(".")[0]
        for name, path in [*outcome.value.items()][:_MOST]:
            good = type(name) is type(path) is str and _NAME.fullmatch(name) and OBJECT_PATH.fullmatch(path)
            if not good:
                hint = "Name it in lower case, and its function as 'module:function'."
                tell(f"its command {shown(name)} is {shown(path)}; it is left out", hint)
            elif name in taken or name in found:
                tell(f"its command {name!r} has the name of another; it is left out", "Rename it.")
            elif catalog.settings.lock is not None and path.partition(":")[0].partition(".")[0] != own:
                hint = f"Name a function of {own}, or unset MSZOO_LOCK."
                tell(f"its command {name!r} is code of another package, which the lock doesn't hold", hint)
            else:
                found[name] = (plugin.source, path)
    return found, problems

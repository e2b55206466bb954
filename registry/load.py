"""Reads the settings, finds the plugins and gives the catalog: where every process and command starts."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mszoo.registry.catalog import Catalog
from mszoo.registry.discovery import discover
from mszoo.registry.settings import KERNELS, Settings, no_kernel_set


def load_catalog(environ: Mapping[str, str] = os.environ, device: str = "cpu") -> Catalog:
    """Read the settings, discover the plugins and return the catalog.

    Raises:
        SettingsError: an environment variable holds a value that it doesn't allow.
        LockError: the lock file of MSZOO_LOCK can't be read.
    """
    settings = Settings.from_environ(environ)
    if settings.lock is None:
        return _checked(Catalog(discover(settings), settings, device))
    # Imported here: it knows this module, and a lock is rare.
    from mszoo.registry.lock import read_lock
    from mszoo.registry.lock_check import differences

    lock = read_lock(settings.lock)
    catalog = _checked(Catalog(discover(settings, lock=lock), settings, device))
    catalog.differences = differences(lock, catalog)
    return catalog


def _checked(catalog: Catalog) -> Catalog:
    """Raise SettingsError if MSZOO_KERNELS names a set that nobody has; with MSZOO_DISABLE=1 nobody asks for it."""
    settings = catalog.settings
    if not settings.disabled_all and settings.kernels not in (*KERNELS, *catalog.kernel_sets):
        raise no_kernel_set(settings.kernels, catalog.kernel_sets)
    return catalog

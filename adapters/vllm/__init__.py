"""The bridge: installs the catalog's decisions into vLLM and wraps MindSpore models as vLLM models."""

from __future__ import annotations


def register() -> None:
    """Install mszoo's adapters into vLLM; the entry point of ``vllm.general_plugins``.

    vLLM calls it in every process, some of them more than once. It runs no MindSpore op, and no exception
    leaves it: vLLM would die of it, and vLLM without mszoo still serves. MSZOO_LOCK reverses that: the operator
    wants what is locked or nothing.

    A vLLM that lacks what mszoo needs is refused here, by the inventory's reason.

    Raises:
        LockError: something differs from the lock in force.
        Exception: with MSZOO_LOCK set, whatever went wrong.
    """
    try:
        from mszoo.adapters.vllm.supported import check_vllm

        check_vllm()
        try:
            from mszoo.adapters.vllm.install import install
        except ImportError:
            check_vllm(always=True)  # says what is lacking, if that is why
            raise
        install()
    except Exception as error:
        import logging
        import os

        if os.environ.get("MSZOO_LOCK", "").strip():
            raise
        from mszoo.registry.errors import MszooError

        logging.getLogger("vllm.mszoo").error(
            "mszoo: nothing installed, vLLM serves its own models. %s",
            error,
            exc_info=not isinstance(error, MszooError),
        )

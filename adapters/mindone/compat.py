"""Names that transformers 5 dropped and MindSpore One's files still import; none is reached while serving."""

from __future__ import annotations

from typing import Any, NoReturn

FLAX_WEIGHTS_NAME = "flax_model.msgpack"
TF2_WEIGHTS_NAME = "tf_model.h5"
TF_WEIGHTS_NAME = "model.ckpt"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


class Unused:
    """Stands for a class that is only named, in annotations and ``isinstance``."""


def auto_docstring(target: Any = None, **_: Any) -> Any:
    """Return the decorated object: transformers 5 rejects docstrings written for 4.57."""
    return (lambda decorated: decorated) if target is None else target


def yes(*_: Any, **__: Any) -> bool:
    """Answer that a thing is available."""
    return True


def no(*_: Any, **__: Any) -> bool:
    """Answer that a name is no URL."""
    return False


def refuse_download(*_: Any, **__: Any) -> NoReturn:
    """Refuse: weights are vLLM's to find.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("models are not downloaded by MindSpore One here")

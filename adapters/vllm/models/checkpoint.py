"""Reads what a checkpoint holds from its files' headers, before any weight is loaded."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mszoo.registry.errors import BrokenCheckpointError, CheckpointError
from mszoo.registry.json_text import LARGEST_INDEX, read_json
from mszoo.registry.text import shown

_LONGEST_NAME = 255
_SHOWN = 20
_AGAIN = "Copy the file again"
#: Mistral's own files, which vLLM's loader prefers, and Hugging Face's beside them.
_CONSOLIDATED, _SHARDS = "consolidated*.safetensors", "model*.safetensors"
#: What training leaves beside the weights; vLLM's loader leaves it out.
_OF_TRAINING = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
#: By vLLM's load format, which files it reads: those of the first pattern that any has; and their index.
_HUGGING_FACE = ("model.safetensors.index.json", ("*.safetensors", "*.bin", "*.pt"))
_PATTERNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "auto": _HUGGING_FACE,
    "hf": _HUGGING_FACE,
    "safetensors": (_HUGGING_FACE[0], ("*.safetensors",)),
    "mistral": ("consolidated.safetensors.index.json", (_CONSOLIDATED,)),
    "pt": ("", ("*.pt",)),
}


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds.

    Args:
        shapes: of every tensor, by name.
        pattern: the files that vLLM's loader is to read, or None for those that it picks by itself.
    """

    shapes: dict[str, tuple[int, ...]]
    pattern: str | None = None


def read(vllm_config: Any) -> Checkpoint | None:
    """Read the headers of the files that vLLM's loader would read.

    Returns:
        None where it doesn't read safetensors or torch's files from a local folder (a hub name, another format).

    Raises:
        CheckpointError: the folder holds no weights, or a file is missing, truncated or of another kind.
    """
    folder = Path(vllm_config.model_config.model)
    load_format = str(vllm_config.load_config.load_format)
    if load_format not in _PATTERNS or not folder.is_dir():
        return None
    pattern = None
    index, patterns = _PATTERNS[load_format]
    if load_format == "auto" and any(folder.glob(_CONSOLIDATED)):
        if _has_all_shards(folder):
            pattern, index, patterns = _SHARDS, "", (_SHARDS,)
        else:
            index, patterns = _PATTERNS["mistral"]
    files = _files(folder, index, patterns)
    if not files:
        if any(folder.glob("*.gguf")):
            return None
        named = " or ".join(patterns)
        raise BrokenCheckpointError(
            str(folder), f"holds no weights (no {named} file)", "Download or convert the checkpoint again"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        found = _header(file) if file.suffix == ".safetensors" else _torch_header(file)
        if found is None:
            return None
        shapes.update(found)
    return Checkpoint(shapes, pattern)


class Reader:
    """Reads a model's checkpoint once for all candidates that ask.

    Args:
        vllm_config: names the folder and how it is loaded.
    """

    def __init__(self, vllm_config: Any) -> None:
        self._config = vllm_config
        self._read = functools.cache(lambda: read(vllm_config))

    def found(self) -> Checkpoint | None:
        """Return what the files hold, as :func:`read` does; raises what it raises."""
        return self._read()

    def check(self, network: Any, head: Mapping[str, tuple[int, ...]]) -> str | None:
        """Compare the checkpoint with what a network expects.

        Args:
            network: the model.
            head: shapes of the tensors that vLLM's own head of it needs, by name.

        Returns:
            The files that vLLM's loader is to read, as :attr:`Checkpoint.pattern`.

        Raises:
            CheckpointError: they don't fit.
        """
        # Asked for in any case: a model whose weights come later is to remember its tensors as it was built, before
        # vLLM puts LoRA layers in place of its own.
        expected = network.expected_tensors()
        found = self.found()
        if found is None:
            return None
        # Imported here: a refusal without it needs no MindSpore.
        from mszoo.layers.weights import Expected, check_tensors

        where = self._config.model_config.model
        missing = [name for name in head if name not in found.shapes]
        if missing:  # vLLM's own model would answer with whatever lies in its memory
            what = f"{', '.join(missing)}, the head for classes, is missing from the checkpoint"
            raise BrokenCheckpointError(where, what, "Serve a classifier's checkpoint, or without --convert")
        expected = expected | {name: Expected(name, None, shape) for name, shape in head.items()}
        named = {network.expected_name(name, expected): shape for name, shape in found.shapes.items()}
        check_tensors(expected, named, network.left_out(), where)
        return found.pattern


def is_broken(refusals: Iterable[Exception]) -> bool:
    """Say whether every candidate that looked at the checkpoint found it broken, and one did."""
    said = [isinstance(item, BrokenCheckpointError) for item in refusals if isinstance(item, CheckpointError)]
    return bool(said) and all(said)


def _has_all_shards(folder: Path) -> bool:
    """Say whether Hugging Face's files lie beside Mistral's, and one pattern gives just them to vLLM's loader."""
    index = folder / _HUGGING_FACE[0]
    shards = {file.name for file in folder.glob(_SHARDS)}
    return shards == ({"model.safetensors"} if not index.is_file() else set(_indexed(index)))


def _files(folder: Path, index_name: str, patterns: Iterable[str]) -> list[Path]:
    by_pattern = (sorted(folder.glob(pattern)) for pattern in patterns)
    found: list[Path] = next((files for files in by_pattern if files), [])
    if found and found[0].suffix != ".safetensors":
        return [file for file in found if not file.name.endswith(_OF_TRAINING)]
    index = folder / index_name
    if not (index_name and index.is_file()):
        return found
    names = _indexed(index)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if missing[_SHOWN:] else ""
        what = f"lacks {', '.join(missing[:_SHOWN])}{more}, which {index.name} lists"
        raise BrokenCheckpointError(str(folder), what, "Copy the missing files")
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    """Return the names of the files that an index lists.

    They lie beside it: a name that leads elsewhere is refused, and nothing of it is looked at.
    """
    try:
        content = read_json(index, LARGEST_INDEX)
    except (OSError, ValueError) as error:
        raise _no_index(index, str(error)) from error
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise _no_index(index, "it has no weight_map")
    names: dict[str, None] = {}
    for name in files.values():
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise _no_index(index, f"it lists {shown(name)} as a file")
        if name in (".", "..") or "/" in name or "\\" in name or not name.isprintable():
            raise _no_index(index, f"it lists {shown(name)}, which is not a file beside it")
        names[name] = None
    return sorted(names)


def _no_index(index: Path, why: str) -> BrokenCheckpointError:
    return BrokenCheckpointError(str(index), f"is not an index of safetensors files ({why})", _AGAIN)


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():  # a pipe would never end
        raise BrokenCheckpointError(
            str(file), "is truncated or not a safetensors file (it is no file)", _AGAIN
        )
    try:
        # Opening checks the header against the file's size.
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BrokenCheckpointError(
            str(file), f"is truncated or not a safetensors file ({error})", _AGAIN
        ) from error


def _torch_header(file: Path) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of a file of torch's without reading its tensors; None if it is of the old kind."""
    try:
        state = torch.load(file, map_location="meta", mmap=True, weights_only=True)
    except Exception:  # of whatever unpickling raises: vLLM's loader then tells, or reads it
        return None
    if not isinstance(state, dict):
        return None
    return {name: tuple(item.shape) for name, item in state.items() if isinstance(item, torch.Tensor)}

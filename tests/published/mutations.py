"""Configs of the corpus with one key wrong, and which of them can show that a suite reads a key otherwise."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .corpus import PROMPTS, expected, reference_of, write_config
from .readers import answers, config_of

_GONE = object()
_WRONG: tuple[Any, ...] = (None, "wrong", ["wrong"], {"wrong": 1}, 0, False, -1, _GONE)
_LARGEST = 50_000_000  # parameters: a dropped size may have a default that is large
#: Keys that most configs don't have and some models read.
_ADDED = ("is_causal", "rope_parameters", "an_unknown_key", "layer_types", "head_dim")


def mutations(
    config: dict[str, Any], seen: set[tuple[str, str]], more: tuple[Any, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give a config with one key changed, and the change; each key once for each architecture.

    Args:
        config: as published.
        seen: the architectures and keys that were given; those of this config are added.
        more: values to try beside the wrong ones.
    """
    architecture = config["architectures"][0]
    paths = [(name,) for name in config if name not in ("architectures", "model_type")]
    for name, value in config.items():
        if name in ("rope_scaling", "rope_parameters") and isinstance(value, dict):
            paths += [(name, entry) for entry in value]
    for path in [*paths, *((name,) for name in _ADDED)]:
        if (architecture, ".".join(path)) in seen:
            continue
        seen.add((architecture, ".".join(path)))
        for wrong in _WRONG + more:
            changed = copy.deepcopy(config)
            place = changed[path[0]] if len(path) > 1 else changed
            if wrong is _GONE:
                place.pop(path[-1], None)
            else:
                place[path[-1]] = copy.deepcopy(wrong)
            said = "dropped" if wrong is _GONE else f"{wrong!r}"
            yield f"{'.'.join(path)} {said}", changed


def telling(
    name: str, config: dict[str, Any], folder: Path, seen: set[tuple[str, str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give changed configs that a suite takes, that Hugging Face runs, and with other results than as published.

    Args:
        name: the model's.
        config: as published.
        folder: an empty one, for config files.
        seen: as of :func:`mutations`.

    Yields:
        The model and the change, and the config.
    """
    write_config(config, folder)
    base = _results(reference_of(folder), config)
    for what, changed in mutations(config, seen, more=(True, 1, 2)):
        if not _is_taken(changed):
            continue
        write_config(changed, folder)
        try:
            model = reference_of(folder)
            results = _results(model, changed) if model.num_parameters() < _LARGEST else []
        except Exception:  # no result to compare with
            continue
        if results and all(bool(values.isfinite().all()) for values in results) and _differ(results, base):
            yield f"{name}: {what}", changed


def pools(config: dict[str, Any]) -> bool:
    """Say whether a model gives hidden states and no logits."""
    generates = config["architectures"][0].endswith(("ForCausalLM", "LMHeadModel"))
    return not generates or not config.get("is_causal", True)


def _results(model: Any, config: dict[str, Any]) -> list[Any]:
    return [expected(model, prompt, pools=pools(config)) for prompt in PROMPTS]


def _differ(results: list[Any], base: list[Any]) -> bool:
    return any(
        one.shape != other.shape or float((one - other).abs().max()) > 1e-5 * float(other.abs().max())
        for one, other in zip(results, base, strict=True)
    )


def _is_taken(config: dict[str, Any]) -> bool:
    """Say whether the reader of any suite takes a config."""
    try:
        loaded = config_of(config)
    except Exception:  # transformers' own: no model is asked
        return False
    return "" in answers(loaded, config["architectures"][0]).values()

"""``make published``: serves the corpus with mszoo and without, and shows where mszoo is worse than vLLM alone.

    python -m tests.published.run [--only TEXT] [--suites] [--mutations COUNT]

For each published config: a random checkpoint, as Hugging Face's class writes it; the logits (an encoder's hidden
states) of what vLLM serves with mszoo and with ``MSZOO_DISABLE=1``, against Hugging Face's in float32, relative to
the largest; who answered. ``--suites`` also serves each with every other suite that lists its architecture.
``--mutations`` serves COUNT configs with one key wrong instead, by all suites: of those that Hugging Face runs,
that a suite takes, and that change Hugging Face's results (:mod:`tests.published.mutations`).

Exit code 1 where mszoo is worse than vLLM alone, or no suite serves a model that it lists and that isn't known.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .corpus import expected, read, reference_of, write_checkpoint, write_config
from .mutations import pools, telling

TOLERANCE = 2e-5
ALONE = "vLLM alone"
DEFAULT = "with mszoo"
#: By model: why no suite serves it. vLLM's own model does.
LEFT_TO_VLLM = {
    "facebook/opt-350m": "norms the stream itself (do_layer_norm_before: false)",
}


@dataclass
class Outcome:
    """What one way of serving one model gave.

    Attributes:
        who: answered; empty where nobody did.
        error: largest difference from Hugging Face, relative to the largest of its values; None without an answer.
        said: why nobody answered.
    """

    who: str = ""
    error: float | None = None
    said: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it answered as Hugging Face does."""
        return self.error is not None and self.error <= TOLERANCE

    def __str__(self) -> str:
        if self.error is None:
            return f"no answer ({self.said})"
        return f"{self.error:.1e} {self.who}"


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", default="", help="models or architectures whose names have this text in them"
    )
    parser.add_argument(
        "--suites", action="store_true", help="serve with each suite, not with the first alone"
    )
    parser.add_argument(
        "--mutations", type=int, default=0, help="how many configs with one key wrong to serve"
    )
    options = parser.parse_args()
    configs = {
        name: config
        for name, config in read().items()
        if options.only.lower() in f"{name} {config['architectures'][0]}".lower()
    }
    if not configs:
        parser.error(f"no model of the corpus has {options.only!r} in its name")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        if options.mutations:
            configs = drawn(configs, Path(folder) / "drawn", options.mutations)
        found = run(configs, Path(folder), suites=options.suites or bool(options.mutations))
    return report(configs, found, mutated=bool(options.mutations))


def drawn(configs: dict[str, dict[str, Any]], folder: Path, count: int) -> dict[str, dict[str, Any]]:
    """Return changed configs by model and change, one of each key of an architecture, ``count`` at the most."""
    seen: set[tuple[str, str]] = set()
    by_key: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for index, (name, config) in enumerate(configs.items()):
        try:
            for what, changed in telling(name, config, folder / str(index), seen):
                by_key.setdefault(what.rpartition(" ")[0], []).append((what, changed))
        except AttributeError:  # of no model type of transformers
            continue
        print(f"{name:44} {len(by_key)} keys", file=sys.stderr, flush=True)
    draw = random.Random(0)
    one_of_each = [draw.choice(changes) for changes in by_key.values()]
    return dict(draw.sample(one_of_each, min(count, len(one_of_each))))


def run(configs: dict[str, dict[str, Any]], folder: Path, *, suites: bool) -> dict[str, dict[str, Outcome]]:
    """Return, by model, the outcomes of all ways of serving it."""
    found: dict[str, dict[str, Outcome]] = {name: {} for name in configs}
    models, rows = {}, []
    for index, (name, config) in enumerate(configs.items()):
        place = folder / str(index)
        write_config(config, place)
        rows.append({"row": name, "folder": str(place), "pools": pools(config), "suite": ""})
        try:
            models[name] = reference_of(place)
            write_checkpoint(models[name], place)
            if rows[-1]["pools"]:
                _write_tokenizer(place)
        except Exception as error:  # of no model type of transformers: vLLM needs the code of the checkpoint
            said = f"Hugging Face has no such model: {type(error).__name__}: {_short(str(error))}"
            found[name] = {way: Outcome(said=said) for way in (ALONE, DEFAULT)}
            rows.pop()
    jobs = [(DEFAULT, rows, {}), (ALONE, rows, {"MSZOO_DISABLE": "1"})]
    for way, mine, environment in jobs:
        _serve(way, mine, environment, models, found, folder)
    if suites:
        for suite in ("native", "mindformers", "mindone"):
            more = [
                row | {"suite": suite}
                for row in rows
                if configs[row["row"]]["architectures"][0] in _listed(suite)
                and not found[row["row"]][DEFAULT].who.startswith(f"{suite}.")
            ]
            _serve(suite, more, {}, models, found, folder)
    return found


def report(
    configs: dict[str, dict[str, Any]], found: dict[str, dict[str, Outcome]], *, mutated: bool = False
) -> int:
    """Print the table and what is bad in it; return the exit code. A mutated config may be vLLM's to serve."""
    bad: list[str] = []
    for name, ways in found.items():
        print(f"{name:44} {configs[name]['architectures'][0]}")
        for way, outcome in ways.items():
            print(f"    {way:12} {outcome}")
        alone, ours = ways[ALONE], ways[DEFAULT]
        better = alone.is_right and not ours.is_right
        if better or (alone.error is not None and ours.error is None):
            bad.append(f"{name}: worse than vLLM alone: {ours}, alone {alone}")
        elif ours.who.startswith("vLLM") and name not in LEFT_TO_VLLM and not mutated:
            bad.append(f"{name}: no suite serves it")
        elif not ours.who.startswith("vLLM") and ours.error is not None and not ours.is_right:
            bad.append(f"{name}: differs from Hugging Face: {ours}")
        for way, outcome in ways.items():
            if way not in (ALONE, DEFAULT) and outcome.error is not None and not outcome.is_right:
                bad.append(f"{name}: {way} differs from Hugging Face: {outcome}")
    served = sum(
        not ways[DEFAULT].who.startswith("vLLM") and ways[DEFAULT].is_right for ways in found.values()
    )
    print(f"\n{served} of {len(found)} served by a suite, as Hugging Face computes them (within {TOLERANCE})")
    for line in bad:
        print(f"BAD {line}")
    return 1 if bad else 0


def _serve(
    way: str,
    rows: list[dict[str, Any]],
    environment: dict[str, str],
    models: dict[str, Any],
    found: dict[str, dict[str, Outcome]],
    folder: Path,
) -> None:
    """Serve rows in processes: another one where one dies."""
    import numpy

    results = folder / "results"
    results.mkdir(exist_ok=True)
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }
    todo = list(rows)
    while todo:
        lines = []
        with (
            open(folder / "stderr", "w+", encoding="utf-8") as errors,
            subprocess.Popen(
                [sys.executable, "-m", "tests.published.serve", str(results)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | defaults | environment,
                text=True,
            ) as process,
        ):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(todo))
            process.stdin.close()
            for printed in process.stdout:
                if not printed.startswith("ROW "):
                    continue
                line = json.loads(printed[4:])
                lines.append(line)
                row = todo[line["index"]]
                if "error" in line:
                    outcome = Outcome(said=_short(line["error"]))
                else:
                    with numpy.load(results / f"{line['index']}.npz") as values:
                        arrays = [values[f"arr_{index}"] for index in range(len(values.files))]
                    error = _difference(models[row["row"]], arrays, pools=row["pools"])
                    outcome = Outcome(line["who"], error)
                found[row["row"]][way] = outcome
                print(f"{row['row']:44} {way:12} {outcome}", file=sys.stderr, flush=True)
            errors.seek(0)
            last = errors.read()[-300:]
        if len(lines) < len(todo):
            found[todo[len(lines)]["row"]][way] = Outcome(said=f"the process died: {_short(last)}")
            lines.append({})
        todo = todo[len(lines) :]


def _difference(model: Any, arrays: list[Any], *, pools: bool) -> float:
    import torch

    worst = 0.0
    for ours, tokens in zip(arrays[::2], arrays[1::2], strict=True):
        wanted = expected(model, tokens.tolist(), pools=pools)
        wanted = wanted if pools else wanted[:-1]
        difference = (torch.from_numpy(ours) - wanted).abs().max() / wanted.abs().max()
        worst = max(worst, float(difference) if difference == difference else float("inf"))
    return worst


def _short(text: str) -> str:
    return " ".join(text.split())[:300]


def _listed(suite: str) -> set[str]:
    import importlib

    module = importlib.import_module(f"mszoo.adapters.{suite}")
    adapters = module.mszoo_model_adapters()
    return {
        adapter.architecture
        for adapter in adapters
        if not (adapter.refused or adapter.drafts or adapter.modalities)
    }


def _write_tokenizer(folder: Path) -> None:
    from mszoo.conformance.checkpoints import write_tokenizer

    config = (folder / "config.json").read_bytes()
    write_tokenizer(folder, 256)
    (folder / "config.json").write_bytes(config)


if __name__ == "__main__":
    raise SystemExit(main())

"""What mszoo adds to the start of every vLLM process, by the number of registered adapters.

    python tests/benchmarks/bench_startup.py [--adapters 1,300,10000] [--repeats 5] [--json]

Each figure comes from fresh processes, which take turns so that a busy machine hurts all alike. A process
imports what vLLM has imported when it loads plugins, and then times one of these:

* vLLM's ``load_general_plugins()`` with mszoo left out (``VLLM_PLUGINS=``),
* the same with mszoo, which is the cost that counts,
* the same under a lock of all that is installed,
* its parts one by one: imports, discovery, catalog with all decisions, installation into vLLM's registry; and
  the look-up of one decision afterwards.

The adapters belong to one generated distribution, beside mszoo's own. Wall time is what a user waits; CPU time
is the steadier of the two. Both are medians, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KINDS = ("with", "locked", "parts")
PLUGIN = """
from mszoo.registry import Capability, ModelAdapter, hookimpl

@hookimpl
def mszoo_model_adapters():
    return [
        ModelAdapter(
            f"Generated{{number}}ForCausalLM",
            f"generated.model_{{number}}:Model",
            capabilities=frozenset({{Capability.LORA}}),
            requires=("packaging>=20",),
            packed_modules_mapping={{"qkv_proj": ("q_proj", "k_proj", "v_proj")}},
            example_config={{"hidden_size": 64, "num_hidden_layers": 2}},
        )
        for number in range({count})
    ]
"""

CHILD = """
import json, sys, time
import vllm.engine.arg_utils, vllm.plugins
import vllm.model_executor.models.registry

marks = []
def mark(name):
    marks.append((name, time.perf_counter(), time.process_time()))

mark("")
if sys.argv[1] == "parts":
    import mszoo.adapters.vllm.install, mszoo.adapters.vllm.models.install
    mark("imports")
    from mszoo.registry.discovery import discover
    from mszoo.registry.settings import Settings
    settings = Settings.from_environ()
    discovery = discover(settings)
    mark("discovery")
    from mszoo.registry.catalog import Catalog
    catalog = Catalog(discovery, settings, "cpu")
    catalog.digest()
    mark("catalog")
    mszoo.adapters.vllm.models.install.register_models(catalog)
    mark("install")
    names = catalog.architectures
    for _ in range(1000):
        catalog.decide(names[-1])
    mark("look-up x 1000")
else:
    vllm.plugins.load_general_plugins()
    mark("load_general_plugins")
registry = vllm.model_executor.models.registry.ModelRegistry
times = {
    name: (wall - before[1], cpu - before[2])
    for before, (name, wall, cpu) in zip(marks, marks[1:])
}
generated = sum(name.startswith("Generated") for name in registry.models)
print(json.dumps({"times": times, "generated": generated}))
"""


def make_distribution(folder: Path, count: int) -> None:
    """Write an importable distribution that registers ``count`` adapters."""
    (folder / "generated_adapters.py").write_text(PLUGIN.format(count=count))
    info = folder / "generated-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: generated\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mszoo]\ngenerated = generated_adapters\n")


def run(kind: str, folder: Path, count: int) -> dict[str, tuple[float, float]]:
    """Run one fresh process; returns (wall, CPU) seconds by part."""
    environment = os.environ | {"PYTHONPATH": str(folder), "VLLM_LOGGING_LEVEL": "ERROR"}
    for name in ("VLLM_PLUGINS", "MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK"):
        environment.pop(name, None)
    if kind == "locked":
        environment["MSZOO_LOCK"] = str(folder / "mszoo.lock")
        if not (folder / "mszoo.lock").exists():
            command = "from mszoo.registry.cli import main; main()"
            arguments = [sys.executable, "-c", command, "lock", environment["MSZOO_LOCK"]]
            subprocess.run(arguments, env=environment, check=True, capture_output=True)
    if kind == "without":
        environment["VLLM_PLUGINS"] = ""
    result = subprocess.run(
        [sys.executable, "-c", CHILD, kind], env=environment, check=True, capture_output=True, text=True
    )
    report = json.loads(result.stdout.splitlines()[-1])
    # Qualified names don't start with "Generated".
    assert report["generated"] == count, f"{report['generated']} of {count} adapters are registered"
    return report["times"]


def measure(counts: list[int], repeats: int) -> dict[str, Any]:
    """Measure all kinds of processes in turn; returns the report that ``--json`` prints."""
    samples: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as root:
        folders = {count: Path(root, str(count)) for count in counts}
        for count, folder in folders.items():
            folder.mkdir()
            make_distribution(folder, count)
        for repeat in range(repeats + 1):  # the first round warms caches and compiles the plugins
            runs = [("without", 0)] + [(kind, count) for count in counts for kind in KINDS]
            for kind, count in runs:
                for part, seconds in run(kind, folders.get(count, Path(root)), count).items():
                    if repeat:
                        samples.setdefault((kind, count, part), []).append(seconds)
    rows = [
        {"process": kind, "adapters": count, "part": part} | _summary(values)
        for (kind, count, part), values in samples.items()
    ]
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "repeats": repeats,
        "unit": "ms",
        "rows": rows,
    }


def _summary(values: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    def spread(numbers: list[float]) -> dict[str, float]:
        return {
            name: round(1e3 * function(numbers), 3)
            for name, function in (("median", statistics.median), ("min", min), ("max", max))
        }

    return {"wall": spread([wall for wall, _ in values]), "cpu": spread([cpu for _, cpu in values])}


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapters", default="1,300,10000", help="numbers of adapters, comma separated")
    parser.add_argument("--repeats", type=int, default=5, help="processes per figure")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    arguments = parser.parse_args()
    report = measure([int(count) for count in arguments.adapters.split(",")], arguments.repeats)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    print(f"ms a process: median (min to max) of {report['repeats']}; {report['cores']} cores\n")
    print(f"{'adapters':>8}  {'process':8} {'part':22} {'wall':>26} {'CPU':>26}")
    for row in report["rows"]:
        times = [
            f"{row[kind]['median']:.1f} ({row[kind]['min']:.1f} to {row[kind]['max']:.1f})"
            for kind in ("wall", "cpu")
        ]
        print(f"{row['adapters']:>8}  {row['process']:8} {row['part']:22} {times[0]:>26} {times[1]:>26}")


if __name__ == "__main__":
    main()

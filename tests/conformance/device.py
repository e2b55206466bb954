"""The standard tests of a device: what every model takes for granted there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mszoo.conformance.base import Conformance, catalog, engine, need_libraries, numeric, static
from mszoo.conformance.checkpoints import Checkpoint, make_checkpoint
from mszoo.conformance.engines import RAW, Engines, generate, model_of
from mszoo.conformance.ops import call, on_device
from mszoo.kernels.spec import SPECS
from mszoo.registry.records import DTYPES

_ARCHITECTURE = "LlamaForCausalLM"
_TOKENS = (1, 17)
_GENERATED = 8
_PROMPTS = ([5, 6, 7], list(range(3, 150)))
_TIMEOUT = 3600  # seconds of `mszoo bench`


class DeviceConformance(Conformance):
    """The standard tests of the device that vLLM serves on here: ``mszoo check npu``.

    Set-up, the exchange of tensors, every op of the built-in kernel set, where weights lie, vLLM's default mode,
    and on an NPU the speed beside vLLM's own model. The models are random Llamas.

    Attributes:
        device: of mszoo.registry.devices.
        tiny, timed: config.json of the model whose answers are compared, and of the one that is timed.
    """

    kind = "device"
    device: str
    tiny: ClassVar[dict[str, Any]] = {
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    timed: ClassVar[dict[str, Any]] = tiny | {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }

    @classmethod
    def subject(cls) -> str:
        """Return the device's name."""
        return cls.device

    @pytest.fixture(scope="class")
    @classmethod
    def engines(cls) -> Iterator[Engines]:
        """The engines of the device's Llama, one at a time."""
        need_libraries()
        winner = catalog().decide(_ARCHITECTURE).winner
        if winner is None:
            pytest.skip(f"no adapter of {_ARCHITECTURE} is available")
        engines = Engines(winner.qualified_name)
        yield engines
        engines.close()

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
        """The tiny checkpoint."""
        return _checkpoint(cls.tiny, tmp_path_factory.mktemp("tiny"))

    @static
    def test_set_up(self) -> None:
        """The doctor finds no problem with the machine and what is installed."""
        from mszoo.registry.cli.doctor import examine
        from mszoo.registry.cli.doctor.environment import read_environment

        found = examine(read_environment(self.device), catalog())
        problems = [f"{item.who}: {item.what}. {item.hint}" for item in found if item.level == "problem"]
        assert not problems, "\n".join(problems)

    @numeric
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_exchange(self, dtype: str) -> None:
        """A tensor of torch's and its view in MindSpore are one memory, in both directions."""
        need_libraries()
        import torch

        from mszoo.kernels import runtime
        from mszoo.kernels.exchange import to_mindspore, to_torch

        import mindspore as ms

        runtime.prepare(self.device)
        ours = torch.arange(6, dtype=torch.float32).to(getattr(torch, dtype)).view(2, 3).to(self.device)
        view = to_mindspore(ours)
        assert view.data_ptr() == ours.data_ptr(), "MindSpore has a copy of torch's tensor"
        ours.mul_(2)
        view = to_mindspore(ours)  # who reads again says so, and torch's work is waited for
        assert view.astype(ms.float32).asnumpy().tolist() == [[0, 2, 4], [6, 8, 10]]
        theirs = view + view
        back = to_torch(theirs)
        assert back.device.type == ours.device.type
        assert back.data_ptr() == theirs.data_ptr(), "torch has a copy of MindSpore's tensor"
        assert back.cpu().tolist() == [[0, 4, 8], [12, 16, 20]]

    @numeric
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("op", SPECS)
    def test_op(self, op: str, dtype: str) -> None:
        """Each op of the built-in kernel set has float64's result, within its tolerance."""
        need_libraries()
        import torch

        from mszoo.conformance.reference import compare, exact, example, reference
        from mszoo.kernels import runtime
        from mszoo.kernels.dispatch import choose

        runtime.prepare(self.device)
        kernels = choose("auto", self.device, dtype)
        if kernels.by_vllm(op):
            pytest.skip("vLLM's own module computes it")
        for tokens in _TOKENS:
            given = example(op, tokens, getattr(torch, dtype))
            made = call(kernels.function(op), on_device(given, self.device))
            compare(op, dtype, made, reference(op, exact(given)))

    @engine
    def test_weights(
        self, engines: Engines, checkpoint: Checkpoint, record_property: Callable[[str, object], None]
    ) -> None:
        """Weights lie on the device, in memory that torch allocated: vLLM counts no other."""
        import torch

        model = model_of(engines.get(checkpoint.folder, **RAW))
        places = {parameter.device.type for parameter in model.parameters()}
        assert places == {self.device}
        if self.device == "cpu":
            return
        size = sum(parameter.nbytes for parameter in model.parameters())
        allocated = getattr(torch, self.device).memory_allocated()
        assert allocated >= size, f"torch counts {allocated} bytes, and the weights have {size}"
        record_property(
            "measured", f"{allocated / 2**20:.0f} MiB allocated, {size / 2**20:.0f} of them weights"
        )

    @engine
    def test_default_mode(
        self, engines: Engines, checkpoint: Checkpoint, record_property: Callable[[str, object], None]
    ) -> None:
        """vLLM's default mode, graphs included where it has them, gives the tokens of ``--enforce-eager``."""
        eager = [answer.tokens for answer in self._answers(engines, checkpoint, enforce_eager=True)]
        answered = [answer.tokens for answer in self._answers(engines, checkpoint)]
        config = engines.get(checkpoint.folder).llm_engine.vllm_config.compilation_config
        record_property("measured", f"vLLM's graphs: {config.cudagraph_mode.name}")
        assert answered == eager

    def _answers(self, engines: Engines, checkpoint: Checkpoint, **options: Any) -> Any:
        return generate(
            engines.get(checkpoint.folder, **options), [list(item) for item in _PROMPTS], _GENERATED
        )

    @engine
    def test_speed(
        self, engines: Engines, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """``mszoo bench`` beside vLLM's own model, which also compares what both answer; any ratio passes."""
        if self.device == "cpu":
            pytest.skip("on a CPU, run mszoo bench with a model of the size that counts")
        engines.close()
        _checkpoint(self.timed, tmp_path / "timed")
        command = [sys.executable, "-c", "from mszoo.registry.cli import main; main()", "bench"]
        command += [str(tmp_path / "timed"), "--dtype", "float16", "--batch", "1,8", "--new", "32"]
        done = subprocess.run(
            [*command, "--runs", "1", "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT,
        )
        assert done.returncode == 0, f"mszoo bench ends with {done.returncode}: {done.stderr[-2000:]}"
        record_property("measured", _ratios(json.loads(done.stdout)))


def _checkpoint(config: dict[str, Any], folder: Path) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    return make_checkpoint(config, _ARCHITECTURE, folder, lambda _: {})


def _ratios(report: dict[str, Any]) -> str:
    """Return what ``mszoo bench --json`` measured, in one line."""
    rows = (f"{row['name']}: {row['ratio']:.2f}" for row in report["rows"])
    return f"MindSpore to vLLM's own, {report['dtype']}: {'; '.join(rows)}"

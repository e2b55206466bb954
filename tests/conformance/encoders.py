"""The standard tests of an encoder's adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mszoo.conformance.architectures import ArchitectureConformance, random_tokens
from mszoo.conformance.base import engine, numeric
from mszoo.conformance.checkpoints import Checkpoint, make_checkpoint, write_tokenizer
from mszoo.conformance.engines import Engines, encode, model_of, pooling, widest_dtype
from mszoo.conformance.fresh import run_fresh
from mszoo.conformance.shadow import relative_error
from mszoo.registry.decisions import Candidate
from mszoo.registry.records import Capability

PROMPT_LENGTHS = (1, 7, 33, 97)
#: Positions of RoBERTa's like start behind the padding token's, so fewer tokens than positions fit.
LENGTH = 256


class EncoderConformance(ArchitectureConformance):
    """The standard tests of one encoder's adapter, whose record says ``pooling``::

        from mszoo.conformance import EncoderConformance

        class TestMyEncoder(EncoderConformance):
            architecture = "mysuite.MyModel"

    The tiny checkpoint comes from the record's ``example_config``; the reference is transformers' class. Where
    there is none, override ``reference``, and ``write_files`` if the config's class comes with the checkpoint.

    Troubleshooting. *Hidden states differ*: look at what the embeddings add (positions, their first number, token
    types), at a norm's epsilon, at the activation. *Single texts are right and batches aren't*: tokens see those of
    another text; attend with mszoo.layers.EncoderAttention.

    Attributes:
        tolerance: largest difference of hidden states by dtype, relative to the largest one of the float32
            reference.
    """

    kind = "encoder"
    tolerance = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
        """The tiny checkpoint."""
        adapter = cls.find()[0].adapter
        assert adapter.example_config, (
            "the record has no example_config: conformance needs a tiny config.json"
        )
        folder = tmp_path_factory.mktemp(adapter.architecture)

        def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
            if all("reference" not in vars(one) for one in cls.__mro__ if one is not EncoderConformance):
                pytest.fail(
                    f"transformers has no {adapter.architecture}, so there is nothing to compare with: override "
                    f"{cls.__name__}.reference(checkpoint, text) in a class of your package, whose module an entry "
                    "point of the group mszoo.conformance names",
                    pytrace=False,
                )
            write_tokenizer(folder, adapter.example_config["vocab_size"])
            llm = engines.get(folder, load_format="dummy", **cls.options())
            expected = model_of(llm).network.expected_tensors()
            return {name: entry.shape for name, entry in expected.items() if entry.shape is not None}

        cls.write_files(folder)
        made = make_checkpoint(adapter.example_config, adapter.architecture, folder, shapes)
        write_tokenizer(folder, made.config["vocab_size"])
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def alone(cls, engines: Engines, checkpoint: Checkpoint) -> list[Any]:
        """The results of texts in the widest dtype, each given alone."""
        llm = engines.get(checkpoint.folder, **cls.options())
        return [encode(llm, [text])[0] for text in cls.texts(checkpoint)]

    @classmethod
    def texts(cls, checkpoint: Checkpoint) -> list[list[int]]:
        """Return texts of odd lengths, as token ids."""
        return [random_tokens(checkpoint, length, seed=length) for length in PROMPT_LENGTHS]

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the options of the engines."""
        return pooling(cls.find()[0].adapter.task)

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write what each checkpoint needs next to config.json, such as the file of its config class.

        Args:
            folder: the checkpoint's.
        """

    @classmethod
    def reference(cls, checkpoint: Checkpoint, text: list[int]) -> Any:
        """Return Hugging Face's hidden states of a text, or the scores of its classes or of its tokens'."""
        import torch

        with torch.no_grad():
            given = checkpoint.model(torch.tensor([text]))
        return (given.last_hidden_state if cls.find()[0].adapter.task == "embed" else given.logits)[0]

    @numeric
    def test_hidden_states(
        self, dtype: str, engines: Engines, checkpoint: Checkpoint, alone: list[Any]
    ) -> None:
        """Texts of odd lengths have the reference's hidden states, or scores of classes."""
        if dtype != widest_dtype():
            llm = engines.get(checkpoint.folder, dtype=dtype, **self.options())
            alone = [encode(llm, [text])[0] for text in self.texts(checkpoint)]
        for text, got in zip(self.texts(checkpoint), alone, strict=True):
            error = relative_error(got, self.reference(checkpoint, text))
            assert error <= self.tolerance[dtype], (
                f"results of {len(text)} tokens differ from the reference by {error:.1e} of the largest, "
                f"{self.tolerance[dtype]:.0e} is allowed"
            )

    @engine
    def test_who_answers(self, engines: Engines, checkpoint: Checkpoint, alone: list[Any]) -> None:
        """Said from inside the worker: this adapter's model took the step."""
        llm = engines.get(checkpoint.folder, **self.options())
        model = model_of(llm)
        assert getattr(model, "candidate", None) is not None, (
            f"{type(model).__name__} serves, which is not ours"
        )
        assert model.candidate.qualified_name == self.architecture
        before = model.forwards
        encode(llm, [random_tokens(checkpoint, 5, seed=1)])
        assert model.forwards == before + 1, "the step was not this model's"

    @engine
    def test_batches(self, engines: Engines, checkpoint: Checkpoint, alone: list[Any]) -> None:
        """Texts of different lengths in one step: each gets what it gets alone."""
        llm = engines.get(checkpoint.folder, **self.options())
        before = model_of(llm).forwards
        together = encode(llm, self.texts(checkpoint))
        assert model_of(llm).forwards == before + 1, "they were not in one step: the test proves nothing"
        for text, got, expected in zip(self.texts(checkpoint), together, alone, strict=True):
            error = relative_error(got, expected)
            assert error <= self.tolerance[widest_dtype()], (
                f"{len(text)} tokens differ by {error:.1e} from what they are alone"
            )

    @engine
    def test_parallel(
        self, candidate: Candidate, checkpoint: Checkpoint, alone: list[Any], tmp_path: Path
    ) -> None:
        """Two ranks give what one gives, and on both ranks this adapter serves."""
        if Capability.TENSOR_PARALLEL not in candidate.adapter.capabilities:
            pytest.skip("the record doesn't declare tensor-parallel")
        import torch

        result = run_fresh(
            checkpoint.folder,
            self.architecture,
            self.texts(checkpoint),
            None,
            {**self.options(), "tensor_parallel_size": 2, "max_model_len": LENGTH},
            tmp_path / "answers.json",
        )
        assert [worker["adapter"] for worker in result["workers"]] == [self.architecture] * 2
        for text, got, expected in zip(self.texts(checkpoint), result["answers"], alone, strict=True):
            error = relative_error(torch.tensor(got), expected)
            assert error <= self.tolerance[widest_dtype()], (
                f"{len(text)} tokens differ by {error:.1e} from what one rank gives"
            )

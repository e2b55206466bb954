"""The standard tests of a model that reads images beside text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mszoo.conformance.architectures import ArchitectureConformance, random_tokens
from mszoo.conformance.base import catalog, engine, numeric
from mszoo.conformance.checkpoints import Checkpoint, make_checkpoint
from mszoo.conformance.engines import RAW, STEP, Engines, model_of, widest_dtype
from mszoo.conformance.shadow import relative_error

GENERATED = 4
LENGTH = 512  # of a prompt with images
#: Pixels of images, of sizes that no processor leaves as they are.
SIZES = ((41, 30), (17, 90))


class Request(NamedTuple):
    """A prompt and its images.

    Attributes:
        tokens: ids, with the image's token once for each image.
        images: PIL's.
    """

    tokens: list[int]
    images: list[Any]


class MultiModalConformance(ArchitectureConformance):
    """The standard tests of the adapter of a model whose record says ``modalities``::

        from mszoo.conformance import MultiModalConformance

        class TestMyModel(MultiModalConformance):
            architecture = "mysuite.MyForConditionalGeneration"

            @classmethod
            def write_files(cls, folder):
                ...  # the processor, with a tokenizer of the tiny vocabulary

    The tiny checkpoint comes from the record's ``example_config``, and the reference is transformers' class.

    Troubleshooting. *Text alone agrees and images don't*: compare the tower's layers with Hugging Face's, then the
    projector; look at which layer's output is read, and whether its first vector is.

    Attributes:
        tolerance: largest difference of logits in float32, relative to the largest one.
    """

    kind = "multimodal"
    tolerance = 2e-5

    @classmethod
    def write_files(cls, folder: Path) -> None:
        """Write the processor, as Hugging Face's ``AutoProcessor`` reads it.

        Args:
            folder: the checkpoint's, which has config.json and the weights.
        """
        pytest.fail(
            f"nobody wrote the processor of the tiny checkpoint: override {cls.__name__}.write_files(folder)",
            pytrace=False,
        )

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
        """The tiny checkpoint."""
        adapter = cls.find()[0].adapter
        folder = tmp_path_factory.mktemp(adapter.architecture)

        def shapes(_: Path) -> dict[str, tuple[int, ...]]:
            pytest.fail(f"transformers has no {adapter.architecture} to compare with", pytrace=False)

        made = make_checkpoint(adapter.example_config, adapter.architecture, folder, shapes)
        cls.write_files(folder)
        return made

    @classmethod
    def requests(cls, checkpoint: Checkpoint) -> list[Request]:
        """Return prompts without an image, with one, and with two between words."""
        import numpy as np
        from PIL import Image

        token = checkpoint.model.config.image_token_id
        random = np.random.default_rng(0)
        images = [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]
        words = [one for one in random_tokens(checkpoint, 12, seed=1) if one != token]
        return [
            Request(words, []),
            Request([token, *words], images[:1]),
            Request([*words[:3], token, *words[3:5], token, *words[5:]], images),
        ]

    def expected_logits(self, checkpoint: Checkpoint, tokens: list[int], images: list[Any]) -> Any:
        """Return the reference's logits [len(tokens), vocab] of a prompt whose images' tokens are all there."""
        import torch

        from transformers import AutoProcessor

        inputs: dict[str, Any] = {}
        if images:
            processor = AutoProcessor.from_pretrained(checkpoint.folder)
            inputs = dict(processor.image_processor(images, return_tensors="pt"))
        with torch.no_grad():
            return checkpoint.model(input_ids=torch.tensor([tokens]), **inputs).logits[0]

    @numeric
    def test_logits(self, engines: Engines, checkpoint: Checkpoint) -> None:
        """Prompts with and without images, and generated tokens, have the reference's logits."""
        import torch

        if widest_dtype() != "float32":
            pytest.skip(f"no attention on {catalog().device} takes float32")
        llm = engines.get(checkpoint.folder, **_options(RAW))
        for request in self.requests(checkpoint):
            (output,) = _ask(llm, [request], logprobs=-1, prompt_logprobs=-1)
            completion = output.outputs[0]
            rows = [row for row in output.prompt_logprobs if row] + list(completion.logprobs)
            logits = torch.tensor([[row[token].logprob for token in range(len(row))] for row in rows])
            tokens = [*output.prompt_token_ids, *completion.token_ids]
            expected = self.expected_logits(checkpoint, tokens, request.images)[:-1]
            error = relative_error(logits, expected)
            assert error <= self.tolerance, (
                f"logits of a prompt with {len(request.images)} images differ from the reference by {error:.1e} of "
                f"the largest, {self.tolerance:.0e} is allowed"
            )

    @engine
    def test_a_batch_in_chunks(self, engines: Engines, checkpoint: Checkpoint) -> None:
        """Prompts asked together, in chunks across images and from the cache, get the answers that they get alone.

        Said from inside the worker: this adapter's model took the steps.
        """
        requests = self.requests(checkpoint)
        llm = engines.get(checkpoint.folder, **_options(RAW))
        alone = [_ask(llm, [request])[0].outputs[0].token_ids for request in requests]
        llm = engines.get(checkpoint.folder, **_options({"max_num_batched_tokens": STEP}))
        for _ in range(2):
            together = [output.outputs[0].token_ids for output in _ask(llm, requests)]
            assert together == alone
        model = model_of(llm)
        assert getattr(model, "candidate", None) is not None, (
            f"{type(model).__name__} serves, which is not ours"
        )
        assert model.candidate.qualified_name == self.architecture
        assert model.forwards > 0


def _options(options: dict[str, Any]) -> dict[str, Any]:
    limit = {"image": len(SIZES)}
    roomy = {"max_model_len": LENGTH, "max_num_batched_tokens": LENGTH}
    return {"skip_tokenizer_init": False, "limit_mm_per_prompt": limit, **roomy, **options}


def _ask(llm: Any, requests: list[Request], **wanted: int) -> list[Any]:
    """Return vLLM's outputs of requests, all asked at once."""
    from mszoo.conformance.seam import SamplingParams

    inputs = [
        {"prompt_token_ids": request.tokens}
        | ({"multi_modal_data": {"image": request.images}} if request.images else {})
        for request in requests
    ]
    sampling = SamplingParams(
        temperature=0, max_tokens=GENERATED, ignore_eos=True, detokenize=False, **wanted
    )
    found: list[Any] = llm.generate(inputs, sampling, use_tqdm=False)
    return found

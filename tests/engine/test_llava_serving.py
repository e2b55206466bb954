"""LLaVA under a real `vllm serve`: images over the chat API, and requests that must not harm the server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters.vllm.cli.demo.serve import find_answerer

from .llava_checkpoints import Reference, make_llava, pictures
from .server import MODEL, Server, make_text_checkpoint, running_server

ADAPTER = "native.LlavaForConditionalGeneration"
_OPTIONS = ("--max-model-len", "256", "--max-num-seqs", "8", "--max-num-batched-tokens", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limit = ("--limit-mm-per-prompt", '{"image": 2}')
    with running_server(folder, tmp_path_factory.mktemp("server"), *_OPTIONS, *limit) as running:
        yield running


def part(image: Any) -> dict[str, Any]:
    """Return an image, or bytes that are none, as a part of a message."""
    content = image
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        content = buffer.getvalue()
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def question(*parts: dict[str, Any]) -> dict[str, Any]:
    """Return a request for a greedy answer."""
    content = [*parts, {"type": "text", "text": "What is this?"}]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": 6}
    return body | {"temperature": 0, "ignore_eos": True, "return_token_ids": True, "model": MODEL}


def answer(server: Server, *images: Any) -> list[int]:
    """Return the tokens that the server answers with."""
    given = server.post("/v1/chat/completions", question(*map(part, images)))
    return given["choices"][0]["token_ids"]


def test_it_answers_about_images(server: Server, folder: Path) -> None:
    """Hugging Face's greedy tokens, of one image and of two; the worker says that this adapter answers."""
    first, second, _ = pictures()
    reference = Reference(folder)
    for images in ([first], [second], [second, first]):
        text = "<image>" * len(images) + "What is this?"
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        request = {"prompt": prompt, "multi_modal_data": {"image": images}}
        assert answer(server, *images) == reference.answer(request, 6)
    assert answer(server, first) != answer(server, second)
    assert find_answerer(server.log()).adapter == ADAPTER


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([part(b"no image at all")], "image"),
        ([part(pictures()[0])] * 3, "At most 2 image(s) may be provided in one prompt"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@"}}], "base64"),
        ([{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}], "video"),
    ],
)
def test_bad_images_are_refused(parts: list[dict[str, Any]], said: str, server: Server) -> None:
    """A clear error of vLLM's, and the next request is answered."""
    response = server.http.post("/v1/chat/completions", json=question(*parts))
    assert 400 <= response.status_code < 500, response.text
    assert said in response.json()["error"]["message"]
    assert len(answer(server, pictures()[0])) == 6


def test_an_image_in_a_text_model(tmp_path: Path) -> None:
    folder = make_text_checkpoint(tmp_path / "text")
    with running_server(folder, tmp_path, "--max-model-len", "256") as server:
        response = server.http.post("/v1/chat/completions", json=question(part(pictures()[0])))
        assert response.status_code == 400
        assert "is not a multimodal model" in response.json()["error"]["message"]
        assert len(answer(server)) == 6
        assert find_answerer(server.log()).adapter == "native.LlamaForCausalLM"

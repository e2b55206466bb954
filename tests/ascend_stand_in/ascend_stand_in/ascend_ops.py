"""Stand-ins, in torch on CPU, for the Ascend ops that MindSpore Transformers' networks call.

They follow the ops' documented meaning, as far as the networks use it. Masks are taken as they are given: what a
mask doesn't hide is seen.
"""

from typing import Any

import torch
import torch.nn.functional as F

from mszoo.kernels.exchange import to_mindspore, to_torch


def use_stand_ins(network: Any, calls: dict[str, int]) -> None:
    """Put stand-ins in the places of a built network's Ascend ops, and count their calls in ``calls``."""

    def counted(op: Any) -> Counted:
        return Counted(op, calls)

    for _, cell in network.cells_and_names():
        kind = type(cell).__name__
        if kind == "RMSNorm":
            cell.norm = counted(RmsNorm(cell.eps))
        elif kind in ("RotaryEmbedding", "PartialRotaryEmbedding", "YaRNScalingRotaryEmbedding"):
            op = cell.rotary_embedding_op
            # Networks of one process share these cells.
            turn = op.op if isinstance(op, Counted) else ApplyRotaryPosEmb(cell.dim, op.cos_format == 3)
            cell.rotary_embedding_op = counted(turn)
        elif kind == "FlashAttention":
            heads, kv_heads = cell.head_num, cell.kv_head_num
            scale = cell.flash_attention.scale_value
            cell.reshape_and_cache = counted(ReshapeAndCache())
            paged = cell.paged_attention
            cell.flash_attention = counted(FlashAttentionScore(heads, kv_heads, scale))
            cell.paged_attention = counted(PagedAttention(heads, paged.kv_head_num, scale, paged.mla_v_dim))
        elif kind == "TopKRouter":
            cell.routing = counted(TopKRouting(cell.config, cell.score_function, cell.expert_bias))
        elif kind == "MoELayer":
            cell.token_dispatcher = TokenDispatcher(cell.token_dispatcher.num_experts)
        elif kind in ("ColumnParallelGroupedLinear", "RowParallelGroupedLinear"):
            cell.quant_method.matmul = counted(GroupedMatmulV4())


class Counted:
    """An op that counts its calls, by its class's name."""

    def __init__(self, op: Any, calls: dict[str, int]) -> None:
        self.op, self.calls = op, calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = type(self.op).__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return self.op(*args, **kwargs)


class RmsNorm:
    def __init__(self, eps: float) -> None:
        self.eps = eps

    def __call__(self, x: Any, weight: Any) -> Any:
        x, weight = to_torch(x), to_torch(weight.value())
        return to_mindspore(F.rms_norm(x, (x.shape[-1],), weight, self.eps)), None


class ApplyRotaryPosEmb:
    """Rows of cosines and sines are those of the tokens; a longer table is read from its start, by sequence."""

    def __init__(self, size: int, interleaved: bool) -> None:
        self.size, self.interleaved = size, interleaved

    def __call__(self, query: Any, key: Any, cos: Any, sin: Any, lens: Any) -> Any:
        query, key, cos, sin = (to_torch(item.contiguous()) for item in (query, key, cos, sin))
        if len(cos) != len(query):
            rows = torch.cat([torch.arange(count, device=query.device) for count in to_torch(lens).tolist()])
            cos, sin = cos[rows], sin[rows]
        return tuple(to_mindspore(self.turn(item, cos, sin)) for item in (query, key))

    def turn(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        heads = x.view(len(x), -1, self.size)
        if self.interleaved:
            pairs = heads.unflatten(-1, (-1, 2))
            turned = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
        else:
            first, second = heads.chunk(2, -1)
            turned = torch.cat((-second, first), -1)
        return (heads * cos[:, None] + turned * sin[:, None]).reshape(x.shape)


class ReshapeAndCache:
    def __call__(self, key: Any, value: Any, key_cache: Any, value_cache: Any, slots: Any) -> None:
        index = to_torch(slots).long()
        for new, cache in ((key, key_cache), (value, value_cache)):
            if new is None:
                continue
            rows = to_torch(cache).flatten(0, 1)
            rows[index] = to_torch(new).view(len(index), *rows.shape[1:])


class FlashAttentionScore:
    """Causal by its 128 x 128 mask, which stands for a mask of any length; layout TH."""

    def __init__(self, heads: int, kv_heads: int, scale: float) -> None:
        self.heads, self.kv_heads, self.scale = heads, kv_heads, scale

    def __call__(self, query: Any, key: Any, value: Any, *rest: Any) -> Any:
        _, _, _, mask, _, query_lens, key_lens = rest
        mask = to_torch(mask)
        assert mask.shape == (128, 128)
        assert torch.equal(mask.cpu() != 0, torch.ones(128, 128, dtype=torch.bool).triu(1))
        lens = to_torch(query_lens).tolist()
        assert lens == to_torch(key_lens).tolist()
        assert sum(lens) == query.shape[0]
        parts = [to_torch(item.contiguous()).split(lens) for item in (query, key, value)]
        outputs = []
        for q, k, v in zip(*parts, strict=True):
            later = torch.ones(len(q), len(q), device=q.device).triu(1) > 0
            causal = torch.zeros_like(later, dtype=q.dtype).masked_fill(later, -1e30)
            outputs.append(attend(q, k, v, causal, self))
        return None, None, None, to_mindspore(torch.cat(outputs))


class PagedAttention:
    """A latent cache's values are the first ``latent`` numbers of its keys."""

    def __init__(self, heads: int, kv_heads: int, scale: float, latent: int) -> None:
        self.heads, self.kv_heads, self.scale, self.latent = heads, kv_heads, scale, latent

    def __call__(self, query: Any, key_cache: Any, value_cache: Any, *rest: Any) -> Any:
        block_tables, seq_lens, _, _, mask, query_lens = rest
        mask, keys, values = to_torch(mask), to_torch(key_cache), to_torch(value_cache)
        values = values[..., : self.latent] if self.latent else values
        lens = to_torch(query_lens).tolist()
        outputs, start = [], 0
        queries = to_torch(query.contiguous()).split(lens)
        for q, length, blocks in zip(
            queries, to_torch(seq_lens).tolist(), to_torch(block_tables), strict=True
        ):
            used = blocks[: -(-length // keys.shape[1])].long()
            k, v = (cache[used].flatten(0, 1)[:length].flatten(1) for cache in (keys, values))
            of_these = torch.zeros(len(q), length, device=q.device)
            if len(q) > 1:
                of_these = of_these + mask[start : start + len(q), :length]
            outputs.append(attend(q, k, v, of_these, self))
            start += len(q)
        return to_mindspore(torch.cat(outputs))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, op: Any) -> torch.Tensor:
    query = q.view(len(q), op.heads, -1).transpose(0, 1)
    key, value = (
        x.reshape(len(x), op.kv_heads, -1).repeat_interleave(op.heads // op.kv_heads, 1).transpose(0, 1)
        for x in (k, v)
    )
    weights = (query @ key.transpose(1, 2) * op.scale + mask).softmax(-1)
    return (weights @ value).transpose(0, 1).reshape(len(q), -1)


class TopKRouting:
    """The best experts and their weights; several ops in the suite, two of which CPU lacks."""

    def __init__(self, config: Any, scores: str, bias: Any) -> None:
        self.config, self.scores, self.bias = config, scores, bias

    def __call__(self, logits: Any) -> Any:
        config, count = self.config, self.config.moe_router_topk
        logits = to_torch(logits.contiguous())
        scores = logits.softmax(-1) if self.scores == "softmax" else logits.sigmoid()
        ranked = scores if self.bias is None else scores + to_torch(self.bias.value())
        if config.moe_router_group_topk:
            groups = ranked.unflatten(-1, (config.moe_router_num_groups, -1))
            best = groups.topk(count // config.moe_router_group_topk, -1)[0].sum(-1)
            chosen = best.topk(config.moe_router_group_topk, -1)[1]
            seen = torch.zeros_like(best, dtype=torch.bool).scatter(1, chosen, value=True)
            ranked = groups.masked_fill(~seen[..., None], 0.0).flatten(1)
        experts = ranked.topk(count, -1)[1]
        weights = scores.gather(1, experts)
        if config.norm_topk_prob and count > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        weights = weights * (config.moe_router_topk_scaling_factor or 1.0)
        return to_mindspore(weights), to_mindspore(experts.int())


class TokenDispatcher:
    """Rows by expert and back: in the suite MoeInitRoutingV2 and MoeTokenUnpermute, between ops that CPU lacks."""

    def __init__(self, experts: int) -> None:
        self.experts = experts

    def dispatch_preprocess(self, weights: Any, experts: Any) -> Any:
        return weights, experts

    def token_dispatch(self, x: Any, experts: Any) -> Any:
        chosen = to_torch(experts).long()
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.experts)
        rows = to_torch(x.contiguous())[order // chosen.shape[1]]
        return to_mindspore(rows), to_mindspore(counts), (order,)

    def token_combine(self, rows: Any, weights: Any, order: Any) -> Any:
        rows, weights = to_torch(rows.contiguous()), to_torch(weights.contiguous())
        back = torch.empty_like(rows)
        back[order] = rows
        return to_mindspore((back.view(*weights.shape, -1) * weights[..., None]).sum(1))


class GroupedMatmulV4:
    def __call__(self, xs: Any, weights: Any, *rest: Any, **_: Any) -> Any:
        counts = to_torch(rest[6]).tolist()
        rows, weight = to_torch(xs[0].contiguous()), to_torch(weights[0].value())
        parts = zip(rows.split(counts), weight, strict=True)
        return [to_mindspore(torch.cat([part @ of_one for part, of_one in parts]))]

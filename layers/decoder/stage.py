"""Which part of a decoder a rank of a pipeline has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.layers.seam import get_current_vllm_config, get_pp_group, get_pp_indices


@dataclass(frozen=True)
class Stage:
    """Some of a decoder's layers, one after the other.

    Attributes:
        start, end: its layers are those from ``start`` to before ``end``.
        is_first: it has the embeddings too.
        is_last: it has the last norm and the output projection too.
    """

    start: int
    end: int
    is_first: bool = True
    is_last: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole decoder."""
        return self.is_first and self.is_last

    def needs_embedding(self, spec: DecoderSpec) -> bool:
        """Return whether it has the token embedding: the first has, and where logits are tied to it the last."""
        return self.is_first or (self.is_last and spec.tie_word_embeddings)

    def absent(self, spec: DecoderSpec) -> Iterator[str]:
        """Give the names of a checkpoint's tensors that other stages have; "*" at the end stands for any."""
        for index in range(len(spec.layers)):
            if not self.start <= index < self.end:
                yield f"{spec.name}.{spec.layers_name}.{index}.*"
        if not self.needs_embedding(spec):
            yield f"{spec.name}.{spec.embedding_name}.*"
        if not self.is_first and spec.positions is not None:
            yield f"{spec.name}.{spec.positions.name}.*"
        if not self.is_last:
            yield f"{spec.name}.{spec.norm.name}.*"
            yield f"{spec.lm_head_name}.*"


def stage_of_this_rank(spec: DecoderSpec) -> Stage:
    """Return this rank's part, as vLLM shares layers out; a draft model of the last stage is whole there."""
    group, count = get_pp_group(), len(spec.layers)
    if get_current_vllm_config().parallel_config.pipeline_parallel_size == 1:
        return Stage(0, count)
    start, end = get_pp_indices(count, group.rank_in_group, group.world_size)
    return Stage(start, end, group.is_first_rank, group.is_last_rank)

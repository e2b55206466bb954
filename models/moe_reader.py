"""From the config of a decoder with experts to its spec: what the architectures have in common."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import MLPSpec, MoESpec
from mszoo.models.reader import DecoderReader
from mszoo.registry.errors import RefusalError


class MoEReader(DecoderReader):
    """Reads mixtures of experts too; see :class:`mszoo.models.reader.DecoderReader`."""

    def moe(self, experts: str, **changes: Any) -> MoESpec:
        """Return the mixture of experts.

        Args:
            experts: the field that has their number.
            changes: fields of the spec that the architecture has otherwise.

        Raises:
            RefusalError: the numbers of experts, of groups and of those that a token passes don't fit.
        """
        fields = {
            "num_experts": experts,
            "top_k": "num_experts_per_tok",
            "intermediate_size": "moe_intermediate_size",
            "hidden_act": "hidden_act",
        }
        read = {name: self.required(field) for name, field in fields.items() if name not in changes}
        return self._checked(MoESpec(**read | changes))

    def grouped_moe(
        self, experts: str = "n_routed_experts", shared: str = "n_shared_experts", **changes: Any
    ) -> MoESpec:
        """Return a mixture of experts as DeepSeek-V3 has it: sigmoids and a bias choose, groups first.

        Args:
            experts: as of :meth:`moe`.
            shared: the field that has the number of shared experts.
            changes: as of :meth:`moe`.
        """
        fields = {
            "scoring_func": "sigmoid",
            "renormalize": self.flag("norm_topk_prob"),
            "routed_scaling_factor": self.required("routed_scaling_factor"),
            "correction_bias_name": "gate.e_score_correction_bias",
            "num_expert_group": self.required("n_group"),
            "topk_group": self.required("topk_group"),
            "shared": self.shared_experts(shared),
        }
        return self.moe(experts, **fields | changes)

    def shared_experts(self, field: str, **changes: Any) -> MLPSpec:
        """Return the experts that every token passes, which are one MLP.

        Args:
            field: has their number.
            changes: fields of the spec that the architecture has otherwise.

        Raises:
            RefusalError: there are none.
        """
        number = self.required(field)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            self.refuse(field, number)
        width = self.required("moe_intermediate_size") * number
        return self.mlp(**{"intermediate_size": width, "name": "shared_experts"} | changes)

    def sparse_from(self, field: str = "first_k_dense_replace") -> list[bool]:
        """Return of each layer whether it has experts: all but so many of the first."""
        return [index >= self.required(field) for index in range(self.num_layers)]

    def sparse_by_type(self) -> list[bool]:
        """Return of each layer whether it has experts, as ``mlp_layer_types`` says.

        Raises:
            RefusalError: it says something else, or too little.
        """
        types = self.required("mlp_layer_types")
        known = isinstance(types, (list, tuple)) and all(one in ("dense", "sparse") for one in types)
        if not known or len(types) < self.num_layers:
            self.refuse("mlp_layer_types", types)
        return [one == "sparse" for one in types[: self.num_layers]]

    def _checked(self, made: MoESpec) -> MoESpec:
        experts, groups, chosen = made.num_experts, made.num_expert_group, made.topk_group
        per_group = experts // groups
        if experts % groups or (groups > 1 and per_group < 2):
            self._do_not_fit(f"n_group={groups} with {experts} experts")
        if chosen > groups:
            self._do_not_fit(f"topk_group={chosen} with n_group={groups}")
        if made.top_k > chosen * per_group:
            self._do_not_fit(
                f"num_experts_per_tok={made.top_k} with {chosen * per_group} experts to choose of"
            )
        return made

    def _do_not_fit(self, what: str) -> None:
        raise RefusalError(self.who, f"config.json says {what}, which don't fit", "Mend config.json")

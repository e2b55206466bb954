// A mixture of experts in one call, for the `cpu` kernel set: the router, vLLM's kernel for experts, and shared experts
// beside them.

#include <tuple>

#include "layer_parts.h"

namespace {

using namespace mszoo;

const Op& fused_experts() {
  static const Op found{"_C::cpu_fused_moe",
                        {"output", "input", "w13", "w2", "w13_bias", "w2_bias", "topk_weights", "topk_id",
                         "skip_weighted", "act", "isa"}};
  return found;
}

struct Mixture : torch::CustomClassHolder {
  // The fields of mszoo.layers.decoder.MoESpec by their names there:
  // tensors: "gate.handler", whose product is float32, "gate.bias", "e_score_correction_bias" [experts]; biases of
  //   experts as vLLM's kernel takes them, "w13_bias" and "w2_bias"; of shared experts "<projection>.handler" and
  //   "<projection>.bias".
  // integers: "top_k", "num_expert_group", "topk_group", "<projection>.width"; as a truth value "renormalize".
  // floats: "routed_scaling_factor".
  // words: "scoring_func", "softmax" or "sigmoid"; "activation" of shared experts, an op's name, empty without them;
  //   "experts_activation" and "isa", as vLLM's kernel takes them.
  Mixture(Named<at::Tensor> tensors, Named<int64_t> integers, Named<double> floats, Named<std::string> words)
      : gate_(projection("gate", tensors, integers)),
        shared_(mlp(words.at("activation"), tensors, integers)),
        correction_bias_(find(tensors, "e_score_correction_bias")),
        w13_bias_(optional(tensors, "w13_bias")),
        w2_bias_(optional(tensors, "w2_bias")),
        top_k_(integers.at("top_k")),
        groups_(integers.at("num_expert_group")),
        topk_group_(integers.at("topk_group")),
        renormalize_(integers.at("renormalize")),
        scale_(floats.at("routed_scaling_factor")),
        softmax_(words.at("scoring_func") == "softmax"),
        activation_(words.at("experts_activation")),
        isa_(words.at("isa")) {
    TORCH_CHECK(softmax_ || words.at("scoring_func") == "sigmoid", "a compiled mixture of experts has no scoring_func ",
                words.at("scoring_func"));
  }

  // x: [T, hidden]; w13, w2: the packed weights of vLLM's layer. Returns [T, hidden].
  at::Tensor run(const at::Tensor& x, const at::Tensor& w13, const at::Tensor& w2) {
    const auto logits = scratch(kLogits, x.size(0), gate_.width, at::kFloat);
    gate_.apply(x.to(at::kFloat), logits);
    const auto [weights, experts] = choose(logits);
    const auto output = at::empty_like(x);
    fused_experts()(output, x, w13, w2, w13_bias_, w2_bias_, weights, experts.to(at::kInt), false, activation_, isa_);
    if (shared_) {
      const auto beside = scratch(kOutput2, x.size(0), x.size(1), x.scalar_type());
      shared_->apply(x, beside);
      output.add_(beside);
    }
    return output;
  }

 private:
  static IValue optional(const Named<at::Tensor>& tensors, const std::string& name) {
    const auto found = find(tensors, name);
    return found ? IValue(*found) : IValue();
  }

  // As mszoo.layers.moe.TopKRouter: logits [T, experts] -> weights [T, k] float32, experts [T, k].
  std::tuple<at::Tensor, at::Tensor> choose(const at::Tensor& logits) const {
    if (softmax_ && renormalize_ && groups_ == 1 && !correction_bias_) {  // the same weights in fewer ops
      auto [best, chosen] = logits.topk(top_k_, -1, true, false);
      return {scaled(best.softmax(-1)), chosen};
    }
    const auto scores = softmax_ ? logits.softmax(-1) : logits.sigmoid();
    auto preference = correction_bias_ ? scores + *correction_bias_ : scores;
    if (groups_ > 1) preference = of_best_groups(preference);
    const auto chosen = std::get<1>(preference.topk(top_k_, -1, true, false));
    auto weights = scores.gather(1, chosen);
    if (renormalize_) weights.div_(weights.sum(-1, true).add_(1e-20));
    return {scaled(weights), chosen};
  }

  at::Tensor scaled(at::Tensor weights) const { return scale_ == 1.0 ? weights : weights.mul_(scale_); }

  // As mszoo.layers.moe.best_groups.
  at::Tensor of_best_groups(const at::Tensor& scores) const {
    const auto grouped = scores.view({scores.size(0), groups_, -1});
    const auto of_groups = correction_bias_ ? std::get<0>(grouped.topk(2, -1)).sum(-1) : grouped.amax(-1);
    const auto best = std::get<1>(of_groups.topk(topk_group_, -1, true, false));
    const auto left_out = at::ones({scores.size(0), groups_}, at::TensorOptions().dtype(at::kBool));
    return grouped.masked_fill(left_out.scatter_(1, best, false).unsqueeze(-1), -INFINITY).flatten(1);
  }

  Projection gate_;
  std::optional<Mlp> shared_;
  OptionalTensor correction_bias_;
  IValue w13_bias_, w2_bias_;
  int64_t top_k_, groups_, topk_group_;
  bool renormalize_;
  double scale_;
  bool softmax_;
  std::string activation_, isa_;
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(mszoo, m) {
  m.class_<Mixture>("Mixture")
      .def(torch::init<Named<at::Tensor>, Named<int64_t>, Named<double>, Named<std::string>>())
      .def("run", &Mixture::run);
}

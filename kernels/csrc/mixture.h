// A mixture of experts in one call, for the `cpu` kernel set: the router, vLLM's kernel for experts, and shared experts
// beside them.

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "layer_parts.h"

namespace mszoo {

inline const Op& fused_experts() {
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

  // x: [T, hidden]; output: the same, and may be x; w13, w2: the packed weights of vLLM's layer.
  void run(const at::Tensor& x, const at::Tensor& output, const at::Tensor& w13, const at::Tensor& w2) {
    const auto rows = x.size(0);
    const auto dtype = x.scalar_type();
    const auto logits = scratch(kLogits, rows, gate_.width, at::kFloat);
    gate_.apply(x.to(at::kFloat), logits);
    const auto [weights, experts] = choose(logits);
    const auto routed = scratch(kOutput, rows, x.size(1), dtype);
    fused_experts()(routed, x, w13, w2, w13_bias_, w2_bias_, weights, experts, false, activation_, isa_);
    if (shared_) {
      shared_->apply(x, output);
      output.add_(routed);
    } else {
      output.copy_(routed);
    }
  }

 private:
  static IValue optional(const Named<at::Tensor>& tensors, const std::string& name) {
    const auto found = find(tensors, name);
    return found ? IValue(*found) : IValue();
  }

  // As mszoo.layers.moe.TopKRouter: logits [T, experts] -> weights [T, k] float32, experts [T, k] int32.
  // torch would take some fifteen ops, each of which costs more than a token's choice.
  std::tuple<at::Tensor, at::Tensor> choose(const at::Tensor& logits) const {
    const auto rows = logits.size(0), experts = logits.size(1);
    const auto scores = softmax_ ? logits.softmax(-1) : logits.sigmoid();
    const auto weights = scratch(kWeights, rows, top_k_, at::kFloat);
    const auto chosen = scratch(kChosen, rows, top_k_, at::kInt);
    const auto* score = scores.const_data_ptr<float>();
    const auto* bias = correction_bias_ ? correction_bias_->const_data_ptr<float>() : nullptr;
    auto* weight = weights.data_ptr<float>();
    auto* choice = chosen.data_ptr<int>();
    at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
      std::vector<float> preference(experts), of_groups(groups_);
      std::vector<int> order, best;
      for (auto row = begin; row < end; ++row) {
        const auto* of_row = score + row * experts;
        for (int64_t i = 0; i < experts; ++i) preference[i] = bias ? of_row[i] + bias[i] : of_row[i];
        if (groups_ > 1) leave_out_groups(preference, of_groups, best);
        highest(preference, top_k_, order);
        float sum = 0;
        for (int64_t i = 0; i < top_k_; ++i) {
          choice[row * top_k_ + i] = order[i];
          sum += weight[row * top_k_ + i] = of_row[order[i]];
        }
        const auto factor = static_cast<float>(scale_) / (renormalize_ ? sum + 1e-20f : 1.0f);
        for (int64_t i = 0; i < top_k_; ++i) weight[row * top_k_ + i] *= factor;
      }
    });
    return {weights, chosen};
  }

  // Puts the places of the k highest values in front, as topk orders them: NaN is the highest.
  static void highest(const std::vector<float>& values, int64_t k, std::vector<int>& places) {
    places.resize(values.size());
    std::iota(places.begin(), places.end(), 0);
    const auto value = [&](int i) { return std::isnan(values[i]) ? std::numeric_limits<float>::infinity() : values[i]; };
    std::partial_sort(places.begin(), places.begin() + k, places.end(), [&](int a, int b) {
      return value(a) != value(b) ? value(a) > value(b) : a < b;
    });
  }

  // As mszoo.layers.moe.best_groups: experts outside the best groups get minus infinity.
  void leave_out_groups(std::vector<float>& values, std::vector<float>& of_groups, std::vector<int>& best) const {
    const auto width = static_cast<int64_t>(values.size()) / groups_;
    for (int64_t group = 0; group < groups_; ++group) {
      auto first = -std::numeric_limits<float>::infinity(), second = first;
      for (int64_t i = group * width; i < (group + 1) * width; ++i) {
        second = std::max(second, std::min(first, values[i]));
        first = std::max(first, values[i]);
      }
      of_groups[group] = correction_bias_ ? first + second : first;
    }
    highest(of_groups, groups_, best);
    for (auto left_out = best.begin() + topk_group_; left_out != best.end(); ++left_out) {
      const auto from = values.begin() + *left_out * width;
      std::fill(from, from + width, -std::numeric_limits<float>::infinity());
    }
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

}  // namespace mszoo

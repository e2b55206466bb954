// What compiled decoder layers are made of: vLLM's kernels, reached through torch's dispatcher by the names and
// signatures in their schemas, and norms, projections and MLPs that call them. Only torch's headers are needed.

#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <vector>

namespace mszoo {

using c10::IValue;
using OptionalTensor = std::optional<at::Tensor>;
template <class T>
using Named = c10::Dict<std::string, T>;

// An op of vLLM's library, called with arguments by name: its versions order them differently, and have some more.
class Op {
 public:
  // given: the names of the arguments that a call has, in the order of the call; a name in brackets may be missing in
  //   the op.
  Op(const char* name, const std::vector<std::string>& given) {
    const auto found = c10::Dispatcher::singleton().findSchema({name, ""});
    TORCH_CHECK(found, "vLLM's library lacks the op ", name, ", which a compiled decoder layer calls");
    handle_ = found;
    std::vector<bool> taken(given.size());
    for (const auto& argument : handle_->schema().arguments()) {
      size_t i = 0;
      while (i < given.size() && given[i] != argument.name() && given[i] != "[" + argument.name() + "]") ++i;
      if (i < given.size()) {
        taken[i] = true;
        order_.push_back(i);
        rest_.emplace_back();
      } else {
        TORCH_CHECK(argument.default_value(), "vLLM's op ", name, " has an argument ", argument.name(),
                    " that a compiled decoder layer doesn't know");
        order_.push_back(given.size());
        rest_.push_back(*argument.default_value());
      }
    }
    for (size_t i = 0; i < given.size(); ++i) {
      TORCH_CHECK(taken[i] || given[i][0] == '[', "vLLM's op ", name, " has no argument ", given[i],
                  ", which a compiled decoder layer gives");
    }
  }

  bool has(const std::string& argument) const { return handle_->schema().argumentIndexWithName(argument).has_value(); }

  template <class... Values>
  void operator()(Values&&... values) const {
    std::array<IValue, sizeof...(Values)> given{IValue(std::forward<Values>(values))...};
    std::vector<IValue> stack;
    stack.reserve(order_.size());
    for (size_t i = 0; i < order_.size(); ++i) {
      stack.push_back(order_[i] < given.size() ? std::move(given[order_[i]]) : rest_[i]);
    }
    handle_->callBoxed(&stack);
  }

 private:
  std::optional<c10::OperatorHandle> handle_;
  std::vector<size_t> order_;
  std::vector<IValue> rest_;
};

struct Ops {
  Op rms_norm{"_C::rms_norm", {"out", "input", "weight", "epsilon"}};
  Op fused_add_rms_norm{"_C::fused_add_rms_norm", {"input", "residual", "weight", "epsilon"}};
  Op rotary_embedding{"_C::rotary_embedding",
                      {"positions", "query", "key", "head_size", "cos_sin_cache", "is_neox"}};
  Op multiply{"_C::onednn_mm", {"c", "a", "bias", "handler_tensor"}};
  Op store{"_C::cpu_attn_reshape_and_cache", {"key", "value", "key_cache", "value_cache", "slot_mapping", "isa"}};
  Op attention{"_C::cpu_attention_with_kv_cache",
               {"query", "key_cache", "value_cache", "output", "query_start_loc", "seq_lens", "scale", "causal",
                "alibi_slopes", "block_table", "softcap", "scheduler_metadata", "s_aux", "[dynamic_causal]",
                // The window as one number, or before vLLM 0.24 as the keys before a query and those behind it.
                "[sliding_window_size]", "[sliding_window_left]", "[sliding_window_right]"}};

  Ops() {
    TORCH_CHECK(attention.has("sliding_window_size") || attention.has("sliding_window_left"),
                "vLLM's op _C::cpu_attention_with_kv_cache takes no sliding window that a compiled decoder layer knows");
  }
};

inline const Ops& ops() {
  static const Ops found;
  return found;
}

template <class T>
std::optional<T> find(const Named<T>& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? std::nullopt : std::optional<T>(found->value());
}

// Intermediate results live in buffers that grow to the largest step and stay: large allocations go back to the
// system when freed, and getting them again costs a page fault per 4 KiB in every layer.
enum Slot {
  kQkv,
  kAttended,
  kBeside,
  kUp,
  kGated,
  kNormed = kGated,
  kOutput,
  kOutput2,
  kFloat,
  kLatent,
  kCompressed,
  kAbsorbed,
  kLatentQuery,
  kLatentAttended,
  kLogits,
  kWeights,
  kChosen,
  kSlots
};

inline at::Tensor scratch(int slot, int64_t rows, int64_t columns, at::ScalarType dtype) {
  static thread_local std::array<at::Tensor, kSlots> buffers;
  auto& buffer = buffers[slot];
  const int64_t size = rows * columns;
  if (!buffer.defined() || buffer.scalar_type() != dtype || buffer.numel() < size) {
    buffer = at::empty({size}, at::TensorOptions().dtype(dtype));
  }
  return buffer.narrow(0, 0, size).view({rows, columns});
}

struct Norm {
  std::string kind;  // "rms_norm", "gemma_rms_norm" (by a float32 weight, in float32), "layer_norm", "" for none
  OptionalTensor weight, bias;
  double eps = 0;

  bool exists() const { return !kind.empty(); }

  // in, out: [rows, N], each row in one piece; they may be the same.
  void apply(const at::Tensor& in, const at::Tensor& out) const {
    if (kind == "rms_norm") {
      ops().rms_norm(out, in, *weight, eps);
    } else if (kind == "gemma_rms_norm") {
      auto exact = scratch(kFloat, in.size(0), in.size(1), at::kFloat);
      exact.copy_(in);
      ops().rms_norm(exact, exact, *weight, eps);
      out.copy_(exact);
    } else {
      out.copy_(at::layer_norm(in, {in.size(1)}, weight, bias, eps));
    }
  }
};

struct Projection {
  at::Tensor handler;  // what vLLM's create_onednn_mm made
  IValue bias;
  int64_t width = 0;

  void apply(const at::Tensor& in, const at::Tensor& out) const { ops().multiply(out, in, bias, handler); }
};

inline Projection projection(const std::string& name, const Named<at::Tensor>& tensors,
                             const Named<int64_t>& integers) {
  const auto bias = find(tensors, name + ".bias");
  return {tensors.at(name + ".handler"), bias ? IValue(*bias) : IValue(), integers.at(name + ".width")};
}

inline Norm norm(const std::string& name, const Named<at::Tensor>& tensors, const Named<double>& floats,
                 const Named<std::string>& words) {
  const auto kind = find(words, name);
  if (!kind) return {};
  Norm made{*kind, find(tensors, name + ".weight"), find(tensors, name + ".bias"), floats.at(name + ".eps")};
  TORCH_CHECK(made.weight || made.kind == "layer_norm", name, " has no weight");
  return made;
}

inline void add_norm(const at::Tensor& x, const at::Tensor& residual, const Norm& norm) {
  ops().fused_add_rms_norm(x, residual, *norm.weight, norm.eps);
}

// Two projections with an activation between; up holds gate and up side by side where it is gated.
struct Mlp {
  Projection up, down;
  std::string activation;  // an op's name without "_and_mul"
  bool is_gated = false;

  // in, out: [rows, hidden]; they may be the same.
  void apply(const at::Tensor& in, const at::Tensor& out) const {
    const auto rows = in.size(0);
    const auto dtype = in.scalar_type();
    auto wide = scratch(kUp, rows, up.width, dtype);
    up.apply(in, wide);
    if (!is_gated) {
      activate(wide, wide);
      down.apply(wide, out);
      return;
    }
    const auto width = up.width / 2;
    auto gated = scratch(kGated, rows, width, dtype);
    activate(gated, wide.narrow(1, 0, width));
    gated.mul_(wide.narrow(1, width, width));
    down.apply(gated, out);
  }

  // torch's activations are vectorized, vLLM's fused ones evaluate the exponential one element at a time.
  void activate(at::Tensor out, const at::Tensor& in) const {
    if (activation == "silu") {
      at::silu_out(out, in);
    } else if (activation == "gelu" || activation == "gelu_tanh") {
      at::gelu_out(out, in, activation == "gelu" ? "none" : "tanh");
    } else if (activation == "quick_gelu") {
      at::mul_out(out, in, at::sigmoid(in * 1.702));
    } else {
      at::clamp_min_out(out, in, 0);
      if (activation == "relu2") out.mul_(out);
    }
  }
};

// op: the activation's, of which a gated one ends in "_and_mul"; empty for no MLP.
inline std::optional<Mlp> mlp(std::string op, const Named<at::Tensor>& tensors, const Named<int64_t>& integers) {
  if (op.empty()) return std::nullopt;
  static const std::string gated = "_and_mul";
  Mlp made{projection("up_proj", tensors, integers), projection("down_proj", tensors, integers)};
  made.is_gated = op.size() > gated.size() && op.compare(op.size() - gated.size(), gated.size(), gated) == 0;
  if (made.is_gated) op.resize(op.size() - gated.size());
  for (const auto* known : {"silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu"}) {
    if (op == known) {
      made.activation = op;
      return made;
    }
  }
  TORCH_CHECK(false, "a compiled decoder layer has no activation ", op);
}

}  // namespace mszoo

// One decoder layer per call, for the `cpu` kernel set: norms, projections, rotation, cache write, attention and
// MLP as one chain of vLLM's and torch's CPU kernels. Called op by op from Python, the chain costs
// more in interpretation than in arithmetic when few tokens are decoded.
//
// Only torch's headers are needed: vLLM's kernels are reached through torch's dispatcher, by the names and
// signatures in their schemas. The class is registered with torch, so the library has no Python ABI.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <vector>

namespace {

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

const Ops& ops() {
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
enum Slot { kQkv, kAttended, kUp, kGated, kNormed = kGated, kOutput, kOutput2, kFloat, kSlots };

at::Tensor scratch(int slot, int64_t rows, int64_t columns, at::ScalarType dtype) {
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

struct DecoderLayer : torch::CustomClassHolder {
  // The fields of the layer's spec (mszoo.layers.decoder.DecoderLayerSpec) by their names there:
  // tensors: "<norm>.weight", "<norm>.bias", "<projection>.handler", "<projection>.bias", and where queries and keys
  //   turn "cos_sin_cache" [max, R], R/2 cosines and R/2 sines.
  // integers: "num_heads", "num_kv_heads", "head_size", "sliding_window" (-1 for none), "<projection>.width"; as truth
  //   values "is_neox_style", "qk_norm_after_rotary", "parallel_residual", "norms_sums" and "is_causal".
  // floats: "scale", "logits_soft_cap", "residual_multiplier", "clip_qkv" (0 leaves the values), "<norm>.eps".
  // words: the kind of each norm that there is; "activation": an op's name, empty without an MLP.
  // Norms: norm_before_attention, norm_after_attention, norm_before_mlp, norm_after_mlp, q_norm, k_norm.
  // Projections: qkv_proj, o_proj, up_proj (gate and up side by side where gated), down_proj. Without the last two the
  //   layer ends before the MLP, which is another's.
  DecoderLayer(Named<at::Tensor> tensors, Named<int64_t> integers, Named<double> floats, Named<std::string> words)
      : qkv_proj_(projection("qkv_proj", tensors, integers)),
        o_proj_(projection("o_proj", tensors, integers)),
        heads_(integers.at("num_heads")),
        kv_heads_(integers.at("num_kv_heads")),
        head_size_(integers.at("head_size")),
        window_(integers.at("sliding_window")),
        neox_(integers.at("is_neox_style")),
        late_(integers.at("qk_norm_after_rotary")),
        parallel_(integers.at("parallel_residual")),
        sums_(integers.at("norms_sums")),
        causal_(integers.at("is_causal")),
        scale_(floats.at("scale")),
        softcap_(floats.at("logits_soft_cap")),
        multiplier_(floats.at("residual_multiplier")),
        clip_(floats.at("clip_qkv")),
        cos_sin_cache_(find(tensors, "cos_sin_cache")),
        activation_(words.at("activation")) {
    size_t i = 0;
    for (const auto* name : {"norm_before_attention", "norm_after_attention", "norm_before_mlp", "norm_after_mlp",
                             "q_norm", "k_norm"}) {
      norms_[i++] = norm(name, tensors, floats, words);
    }
    has_mlp_ = !activation_.empty();
    if (!has_mlp_) return;
    up_proj_ = projection("up_proj", tensors, integers);
    down_proj_ = projection("down_proj", tensors, integers);
    static const std::string gated = "_and_mul";
    gated_ = activation_.size() > gated.size() &&
             activation_.compare(activation_.size() - gated.size(), gated.size(), gated) == 0;
    if (gated_) activation_.resize(activation_.size() - gated.size());
    TORCH_CHECK(activation_ == "silu" || activation_ == "gelu" || activation_ == "gelu_tanh" ||
                    activation_ == "relu" || activation_ == "relu2" || activation_ == "quick_gelu",
                "a compiled decoder layer has no activation ", activation_);
  }

  // x: [T, hidden], overwritten. Without `residual` it is the residual stream, before and after the layer. With it
  //   the stream is the sum of both, before and after; in the first layer the residual's content is not read.
  //   A layer that ends before the MLP needs it: x is then what the MLP gets, and the residual is the stream.
  // positions: [T], rows of cos_sin_cache.
  // The first `tokens` rows are real, the rest padding.
  void run(const at::Tensor& x, const OptionalTensor& residual, bool first, const at::Tensor& positions,
           const at::Tensor& kv_cache, const at::Tensor& slot_mapping,
           const at::Tensor& query_start_loc, const at::Tensor& seq_lens, const at::Tensor& block_table,
           const at::Tensor& scheduler_metadata, int64_t tokens, const std::string& isa) {
    TORCH_CHECK(has_mlp_ || (residual && !parallel_), "the stream has to lie beside what the MLP gets");
    const auto rows = x.size(0), hidden = x.size(1);
    const auto dtype = x.scalar_type();
    const auto& [before_attention, after_attention, before_mlp, after_mlp, q_norm, k_norm] = norms_;
    const auto stream = residual ? *residual : x;
    // What attention and MLP compute lies beside the stream.
    const auto output = residual ? x : scratch(kOutput, rows, hidden, dtype);

    auto normed = stream;
    if (residual && !first) {
      add_norm(x, stream, before_attention);
      normed = x;
    } else {
      if (residual) stream.copy_(x);
      if (before_attention.exists()) {
        normed = scratch(kNormed, rows, hidden, dtype);
        before_attention.apply(stream, normed);
      }
    }

    auto qkv = scratch(kQkv, rows, qkv_proj_.width, dtype);
    qkv_proj_.apply(normed, qkv);
    const auto q_size = heads_ * head_size_, kv_size = kv_heads_ * head_size_;
    auto query = qkv.narrow(1, 0, q_size), key = qkv.narrow(1, q_size, kv_size),
         value = qkv.narrow(1, q_size + kv_size, kv_size);
    if (!late_) norm_heads(query, key, q_norm, k_norm);
    if (clip_ != 0) qkv.clamp_(-clip_, clip_);
    if (cos_sin_cache_) ops().rotary_embedding(positions, query, key, head_size_, *cos_sin_cache_, neox_);
    if (late_) norm_heads(query, key, q_norm, k_norm);

    auto attended = scratch(kAttended, rows, q_size, dtype);
    attend(query.view({rows, heads_, head_size_}), key.view({rows, kv_heads_, head_size_}),
           value.view({rows, kv_heads_, head_size_}), attended.view({rows, heads_, head_size_}), kv_cache,
           slot_mapping, query_start_loc, seq_lens, block_table, scheduler_metadata, tokens, isa);
    o_proj_.apply(attended, output);

    if (parallel_) {
      const auto mlp = scratch(kOutput2, rows, hidden, dtype);
      if (before_mlp.exists()) {
        normed = scratch(kNormed, rows, hidden, dtype);
        before_mlp.apply(stream, normed);
      }
      run_mlp(normed, mlp, rows, dtype);
      stream.add_(output, multiplier_);
      stream.add_(mlp, multiplier_);
      return;
    }
    if (sums_) {
      norm_sum(stream, output, after_attention);
      if (!has_mlp_) {
        output.copy_(stream);
        return;
      }
      run_mlp(stream, output, rows, dtype);
      norm_sum(stream, output, after_mlp);
      return;
    }
    if (after_attention.exists()) after_attention.apply(output, output);
    if (before_mlp.kind == "rms_norm" && multiplier_ == 1.0) {
      add_norm(output, stream, before_mlp);
      normed = output;
    } else {
      stream.add_(output, multiplier_);
      normed = stream;
      if (before_mlp.exists()) {
        normed = has_mlp_ ? scratch(kNormed, rows, hidden, dtype) : output;
        before_mlp.apply(stream, normed);
      }
    }
    if (!has_mlp_) return;
    run_mlp(normed, output, rows, dtype);
    if (after_mlp.exists()) after_mlp.apply(output, output);
    if (!residual) stream.add_(output, multiplier_);
  }

 private:
  static Projection projection(const std::string& name, const Named<at::Tensor>& tensors,
                               const Named<int64_t>& integers) {
    const auto bias = find(tensors, name + ".bias");
    return {tensors.at(name + ".handler"), bias ? IValue(*bias) : IValue(), integers.at(name + ".width")};
  }

  static Norm norm(const std::string& name, const Named<at::Tensor>& tensors, const Named<double>& floats,
                   const Named<std::string>& words) {
    const auto kind = find(words, name);
    if (!kind) return {};
    Norm made{*kind, find(tensors, name + ".weight"), find(tensors, name + ".bias"), floats.at(name + ".eps")};
    TORCH_CHECK(made.weight || made.kind == "layer_norm", name, " has no weight");
    return made;
  }

  static void add_norm(const at::Tensor& x, const at::Tensor& residual, const Norm& norm) {
    ops().fused_add_rms_norm(x, residual, *norm.weight, norm.eps);
  }

  // The stream becomes the norm of its sum with x.
  void norm_sum(const at::Tensor& stream, const at::Tensor& x, const Norm& norm) const {
    stream.add_(x, multiplier_);
    norm.apply(stream, stream);
  }

  void run_mlp(const at::Tensor& in, const at::Tensor& out, int64_t rows, at::ScalarType dtype) const {
    auto up = scratch(kUp, rows, up_proj_.width, dtype);
    up_proj_.apply(in, up);
    if (!gated_) {
      activate(up, up);
      down_proj_.apply(up, out);
      return;
    }
    const auto width = up_proj_.width / 2;
    auto gated = scratch(kGated, rows, width, dtype);
    activate(gated, up.narrow(1, 0, width));
    gated.mul_(up.narrow(1, width, width));
    down_proj_.apply(gated, out);
  }

  // torch's activations are vectorized, vLLM's fused ones evaluate the exponential one element at a time.
  void activate(at::Tensor out, const at::Tensor& in) const {
    if (activation_ == "silu") {
      at::silu_out(out, in);
    } else if (activation_ == "gelu" || activation_ == "gelu_tanh") {
      at::gelu_out(out, in, activation_ == "gelu" ? "none" : "tanh");
    } else if (activation_ == "quick_gelu") {
      at::mul_out(out, in, at::sigmoid(in * 1.702));
    } else {
      at::clamp_min_out(out, in, 0);
      if (activation_ == "relu2") out.mul_(out);
    }
  }

  static void norm_heads(const at::Tensor& query, const at::Tensor& key, const Norm& q_norm, const Norm& k_norm) {
    if (!q_norm.exists()) return;
    norm_part(query, q_norm);
    norm_part(key, k_norm);
  }

  // The norm's width says whether each head is normed, or all together.
  static void norm_part(const at::Tensor& part, const Norm& norm) {
    auto rows = part.reshape({-1, norm.weight->size(0)}).contiguous();
    auto out = at::empty_like(rows);
    norm.apply(rows, out);
    part.copy_(out.view(part.sizes()));
  }

  void attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& out,
              const at::Tensor& kv_cache, const at::Tensor& slot_mapping, const at::Tensor& query_start_loc,
              const at::Tensor& seq_lens, const at::Tensor& block_table, const at::Tensor& scheduler_metadata,
              int64_t tokens, const std::string& isa) const {
    // vLLM's layout: [blocks, kv_heads, block, 2 * head_size], keys in the first half of a block's memory.
    const auto block = kv_cache.size(2);
    auto pages = kv_cache.view({kv_cache.size(0), kv_cache.size(1), 2 * block, head_size_});
    auto keys = pages.narrow(2, 0, block), values = pages.narrow(2, block, block);
    ops().store(key, value, keys, values, slot_mapping, isa);
    ops().attention(query.narrow(0, 0, tokens), keys, values, out.narrow(0, 0, tokens), query_start_loc, seq_lens,
                    scale_, causal_, IValue(), block_table, softcap_, scheduler_metadata, IValue(), IValue(), window_,
                    window_ < 0 ? window_ : window_ - 1, window_ < 0 ? window_ : causal_ ? int64_t{0} : window_ - 1);
  }

  std::array<Norm, 6> norms_;
  Projection qkv_proj_, o_proj_, up_proj_, down_proj_;
  int64_t heads_, kv_heads_, head_size_, window_;
  bool neox_, late_, parallel_, sums_, causal_, has_mlp_ = false, gated_ = false;
  double scale_, softcap_, multiplier_, clip_;
  OptionalTensor cos_sin_cache_;
  std::string activation_;
};

}  // namespace

TORCH_LIBRARY(mszoo, m) {
  m.class_<DecoderLayer>("DecoderLayer")
      .def(torch::init<Named<at::Tensor>, Named<int64_t>, Named<double>, Named<std::string>>())
      .def("run", &DecoderLayer::run);
}

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
using Stack = std::vector<IValue>;
using OptionalTensor = std::optional<at::Tensor>;

c10::OperatorHandle find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

void call(const c10::OperatorHandle& op, Stack stack) { op.callBoxed(&stack); }

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
  std::string kind;  // "rms", "float_rms" (by a float32 weight, in float32), "layer", or "" for none
  OptionalTensor weight, bias;
  double eps = 0;

  bool exists() const { return !kind.empty(); }

  // in, out: [rows, N], each row in one piece; they may be the same.
  void apply(const at::Tensor& in, const at::Tensor& out) const {
    static const auto rms_norm = find("_C::rms_norm");
    if (kind == "rms") {
      call(rms_norm, {out, in, *weight, eps});
    } else if (kind == "float_rms") {
      auto exact = scratch(kFloat, in.size(0), in.size(1), at::kFloat);
      exact.copy_(in);
      call(rms_norm, {exact, exact, *weight, eps});
      out.copy_(exact);
    } else {
      out.copy_(at::layer_norm(in, {in.size(1)}, weight, bias, eps));
    }
  }
};

struct DecoderLayer : torch::CustomClassHolder {
  // kinds, weights, biases, epsilons: of the norms before and after attention, before and after the MLP, of queries
  //   and of keys; see Norm.
  // handlers, projection_biases, widths: of qkv, o, up (gate and up side by side in a gated MLP) and down. A handler
  //   is what vLLM's create_onednn_mm made. Without up and down the layer ends before the MLP, which is another's.
  // activation: "silu", "gelu", "gelu_tanh", "relu" or "relu2"; with "_and_mul" behind it the MLP is gated. Empty
  //   without an MLP.
  // rotation: "halves", "pairs", or "" where nothing turns. late: queries and keys are normed after they turned.
  // parallel: attention and MLP see the same stream, normed once, or for the MLP by its own norm.
  // multiplier: of what both add to the stream.
  DecoderLayer(std::vector<std::string> kinds, std::vector<OptionalTensor> weights,
               std::vector<OptionalTensor> biases, std::vector<double> epsilons, std::vector<at::Tensor> handlers,
               std::vector<OptionalTensor> projection_biases, std::vector<int64_t> widths, int64_t num_heads,
               int64_t num_kv_heads, int64_t head_size, double scale, int64_t sliding_window, double softcap,
               const std::string& activation, const std::string& rotation, bool late, bool parallel,
               double multiplier)
      : handlers_(std::move(handlers)),
        widths_(std::move(widths)),
        heads_(num_heads),
        kv_heads_(num_kv_heads),
        head_size_(head_size),
        scale_(scale),
        window_(sliding_window),
        softcap_(softcap),
        activation_(activation),
        rotation_(rotation),
        late_(late),
        parallel_(parallel),
        multiplier_(multiplier) {
    TORCH_CHECK(kinds.size() == 6 && weights.size() == 6 && biases.size() == 6 && epsilons.size() == 6, "six norms");
    const auto projections = handlers_.size();
    has_mlp_ = projections == 4;
    TORCH_CHECK((has_mlp_ || projections == 2) && projection_biases.size() == projections &&
                    widths_.size() == projections,
                "two or four projections");
    for (size_t i = 0; i < kinds.size(); ++i) {
      TORCH_CHECK(kinds[i].empty() || kinds[i] == "layer" || weights[i], "a norm without a weight");
      norms_[i] = Norm{kinds[i], weights[i], biases[i], epsilons[i]};
    }
    for (auto& bias : projection_biases) biases_.push_back(bias ? IValue(*bias) : IValue());
    static const std::string gated = "_and_mul";
    gated_ = activation_.size() > gated.size() &&
             activation_.compare(activation_.size() - gated.size(), gated.size(), gated) == 0;
    if (gated_) activation_.resize(activation_.size() - gated.size());
    TORCH_CHECK(!has_mlp_ || activation_ == "silu" || activation_ == "gelu" || activation_ == "gelu_tanh" ||
                    activation_ == "relu" || activation_ == "relu2",
                "unknown activation ", activation);
  }

  // x: [T, hidden], overwritten. Without `residual` it is the residual stream, before and after the layer. With it
  //   the stream is the sum of both, before and after; in the first layer the residual's content is not read.
  //   A layer that ends before the MLP needs it: x is then what the MLP gets, and the residual is the stream.
  // cos_sin_cache: [max, R], R/2 cosines and R/2 sines; positions: [T], rows in it. Both only where something turns.
  // The first `tokens` rows are real, the rest padding.
  void run(const at::Tensor& x, const OptionalTensor& residual, bool first, const OptionalTensor& positions,
           const OptionalTensor& cos_sin_cache, const at::Tensor& kv_cache, const at::Tensor& slot_mapping,
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

    auto qkv = scratch(kQkv, rows, widths_[0], dtype);
    project(0, normed, qkv);
    const auto q_size = heads_ * head_size_, kv_size = kv_heads_ * head_size_;
    auto query = qkv.narrow(1, 0, q_size), key = qkv.narrow(1, q_size, kv_size),
         value = qkv.narrow(1, q_size + kv_size, kv_size);
    if (!late_) norm_heads(query, key, q_norm, k_norm);
    if (!rotation_.empty()) {
      static const auto rotate = find("_C::rotary_embedding");
      call(rotate,
           {*positions, query, key, head_size_, *cos_sin_cache, rotation_ == "halves", int64_t{0}, false});
    }
    if (late_) norm_heads(query, key, q_norm, k_norm);

    auto attended = scratch(kAttended, rows, q_size, dtype);
    attend(query.view({rows, heads_, head_size_}), key.view({rows, kv_heads_, head_size_}),
           value.view({rows, kv_heads_, head_size_}), attended.view({rows, heads_, head_size_}), kv_cache,
           slot_mapping, query_start_loc, seq_lens, block_table, scheduler_metadata, tokens, isa);
    project(1, attended, output);

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
    if (after_attention.exists()) after_attention.apply(output, output);
    if (before_mlp.kind == "rms" && multiplier_ == 1.0) {
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
  static void add_norm(const at::Tensor& x, const at::Tensor& residual, const Norm& norm) {
    static const auto op = find("_C::fused_add_rms_norm");
    call(op, {x, residual, *norm.weight, norm.eps});
  }

  void project(int which, const at::Tensor& in, const at::Tensor& out) const {
    static const auto op = find("_C::onednn_mm");
    call(op, {out, in, biases_[which], handlers_[which]});
  }

  void run_mlp(const at::Tensor& in, const at::Tensor& out, int64_t rows, at::ScalarType dtype) const {
    auto up = scratch(kUp, rows, widths_[2], dtype);
    project(2, in, up);
    if (!gated_) {
      activate(up, up);
      project(3, up, out);
      return;
    }
    const auto width = widths_[2] / 2;
    auto gated = scratch(kGated, rows, width, dtype);
    activate(gated, up.narrow(1, 0, width));
    gated.mul_(up.narrow(1, width, width));
    project(3, gated, out);
  }

  // torch's activations are vectorized, vLLM's fused ones evaluate the exponential one element at a time.
  void activate(at::Tensor out, const at::Tensor& in) const {
    if (activation_ == "silu") {
      at::silu_out(out, in);
    } else if (activation_ == "gelu" || activation_ == "gelu_tanh") {
      at::gelu_out(out, in, activation_ == "gelu" ? "none" : "tanh");
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
    static const auto store = find("_C::cpu_attn_reshape_and_cache");
    static const auto attention = find("_C::cpu_attention_with_kv_cache");
    call(store, {key, value, keys, values, slot_mapping, isa, 1.0, 1.0, std::string("auto")});
    call(attention,
         {query.narrow(0, 0, tokens), keys, values, out.narrow(0, 0, tokens), query_start_loc, seq_lens, scale_,
          true, IValue(), window_, block_table, softcap_, scheduler_metadata, IValue(), IValue(), 1.0, 1.0,
          std::string("auto")});
  }

  std::array<Norm, 6> norms_;
  std::vector<at::Tensor> handlers_;
  std::vector<IValue> biases_;
  std::vector<int64_t> widths_;
  int64_t heads_, kv_heads_, head_size_;
  double scale_;
  int64_t window_;
  double softcap_;
  std::string activation_, rotation_;
  bool has_mlp_, gated_, late_, parallel_;
  double multiplier_;
};

}  // namespace

TORCH_LIBRARY(mszoo, m) {
  m.class_<DecoderLayer>("DecoderLayer")
      .def(torch::init<std::vector<std::string>, std::vector<OptionalTensor>, std::vector<OptionalTensor>,
                       std::vector<double>, std::vector<at::Tensor>, std::vector<OptionalTensor>,
                       std::vector<int64_t>, int64_t, int64_t, int64_t, double, int64_t, double, const std::string&,
                       const std::string&, bool, bool, double>())
      .def("run", &DecoderLayer::run);
}

// One dense decoder layer per call, for the `cpu` kernel set: norms, projections, rotation, cache write,
// attention and gated MLP as one chain of vLLM's CPU kernels. Called op by op from Python, the chain costs more
// in interpretation than in arithmetic when few tokens are decoded.
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

c10::OperatorHandle find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

// Intermediate results live in buffers that grow to the largest step and stay: large allocations go back to the
// system when freed, and getting them again costs a page fault per 4 KiB in every layer.
at::Tensor scratch(int slot, int64_t rows, int64_t columns, at::ScalarType dtype) {
  static thread_local std::array<at::Tensor, 4> buffers;
  auto& buffer = buffers[slot];
  const int64_t size = rows * columns;
  if (!buffer.defined() || buffer.scalar_type() != dtype || buffer.numel() < size) {
    buffer = at::empty({size}, at::TensorOptions().dtype(dtype));
  }
  return buffer.narrow(0, 0, size).view({rows, columns});
}

struct DecoderLayer : torch::CustomClassHolder {
  // norms: input, post-attention, and, if heads are normed, query and key.
  // handlers, biases, widths: of qkv, o, gate_up and down. A handler is what vLLM's create_onednn_mm made.
  DecoderLayer(std::vector<at::Tensor> norms, double eps, std::vector<at::Tensor> handlers,
               std::vector<std::optional<at::Tensor>> biases, std::vector<int64_t> widths,
               at::Tensor cos_sin_cache, int64_t num_heads, int64_t num_kv_heads, int64_t head_size, double scale,
               int64_t sliding_window, double softcap, const std::string& activation)
      : norms_(std::move(norms)),
        eps_(eps),
        handlers_(std::move(handlers)),
        widths_(std::move(widths)),
        cos_sin_cache_(std::move(cos_sin_cache)),
        heads_(num_heads),
        kv_heads_(num_kv_heads),
        head_size_(head_size),
        scale_(scale),
        window_(sliding_window),
        softcap_(softcap),
        gelu_(activation == "gelu_and_mul" ? "none" : activation == "gelu_tanh_and_mul" ? "tanh" : "") {
    TORCH_CHECK(!gelu_.empty() || activation == "silu_and_mul", "unknown activation ", activation);
    TORCH_CHECK(norms_.size() == 2 || norms_.size() == 4, "norms: 2 or 4");
    TORCH_CHECK(handlers_.size() == 4 && biases.size() == 4 && widths_.size() == 4, "four projections");
    for (auto& bias : biases) biases_.push_back(bias ? IValue(*bias) : IValue());
  }

  // x, residual: [T, hidden], overwritten with the layer's output and the residual stream. In the first layer
  // the residual's content is not read. The first `tokens` rows are real, the rest padding.
  void run(const at::Tensor& x, const at::Tensor& residual, bool first, const at::Tensor& positions,
           const at::Tensor& kv_cache, const at::Tensor& slot_mapping, const at::Tensor& query_start_loc,
           const at::Tensor& seq_lens, const at::Tensor& block_table, const at::Tensor& scheduler_metadata,
           int64_t tokens, const std::string& isa) {
    const auto rows = x.size(0);
    const auto dtype = x.scalar_type();

    at::Tensor normed = x;
    if (first) {
      residual.copy_(x);
      normed = scratch(3, rows, x.size(1), dtype);
      static const auto rms_norm = find("_C::rms_norm");
      call(rms_norm, {normed, x, norms_[0], eps_});
    } else {
      add_norm(x, residual, norms_[0]);
    }

    auto qkv = scratch(0, rows, widths_[0], dtype);
    project(0, normed, qkv);
    const auto q_size = heads_ * head_size_, kv_size = kv_heads_ * head_size_;
    auto query = qkv.narrow(1, 0, q_size), key = qkv.narrow(1, q_size, kv_size),
         value = qkv.narrow(1, q_size + kv_size, kv_size);
    if (norms_.size() == 4) {
      norm_heads(query, heads_, norms_[2]);
      norm_heads(key, kv_heads_, norms_[3]);
    }
    static const auto rotate = find("_C::rotary_embedding");
    call(rotate, {positions, query, key, head_size_, cos_sin_cache_, true, int64_t{0}, false});

    auto attended = scratch(1, rows, q_size, dtype);
    attend(query.view({rows, heads_, head_size_}), key.view({rows, kv_heads_, head_size_}),
           value.view({rows, kv_heads_, head_size_}), attended.view({rows, heads_, head_size_}), kv_cache,
           slot_mapping, query_start_loc, seq_lens, block_table, scheduler_metadata, tokens, isa);
    project(1, attended, x);

    add_norm(x, residual, norms_[1]);
    auto gate_up = scratch(2, rows, widths_[2], dtype);
    project(2, x, gate_up);
    auto gated = scratch(3, rows, widths_[2] / 2, dtype);
    activate(gated, gate_up);
    project(3, gated, x);
  }

 private:
  static void call(const c10::OperatorHandle& op, Stack stack) { op.callBoxed(&stack); }

  void add_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight) const {
    static const auto op = find("_C::fused_add_rms_norm");
    call(op, {x, residual, weight, eps_});
  }

  void project(int which, const at::Tensor& in, const at::Tensor& out) const {
    static const auto op = find("_C::onednn_mm");
    call(op, {out, in, biases_[which], handlers_[which]});
  }

  // torch's activations are vectorized, vLLM's fused ones evaluate the exponential one element at a time.
  void activate(at::Tensor out, const at::Tensor& gate_up) const {
    const auto width = out.size(1);
    const auto gate = gate_up.narrow(1, 0, width), up = gate_up.narrow(1, width, width);
    if (gelu_.empty()) {
      at::silu_out(out, gate);
    } else {
      at::gelu_out(out, gate, gelu_);
    }
    out.mul_(up);
  }

  void norm_heads(const at::Tensor& part, int64_t heads, const at::Tensor& weight) const {
    static const auto op = find("_C::rms_norm");
    auto rows = part.reshape({-1, head_size_}).contiguous();
    auto out = at::empty_like(rows);
    call(op, {out, rows, weight, eps_});
    part.copy_(out.view({part.size(0), heads * head_size_}));
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

  std::vector<at::Tensor> norms_;
  double eps_;
  std::vector<at::Tensor> handlers_;
  std::vector<IValue> biases_;
  std::vector<int64_t> widths_;
  at::Tensor cos_sin_cache_;
  int64_t heads_, kv_heads_, head_size_;
  double scale_;
  int64_t window_;
  double softcap_;
  std::string gelu_;  // torch's name of the approximation; empty: SiLU
};

}  // namespace

TORCH_LIBRARY(mszoo, m) {
  m.class_<DecoderLayer>("DecoderLayer")
      .def(torch::init<std::vector<at::Tensor>, double, std::vector<at::Tensor>,
                       std::vector<std::optional<at::Tensor>>, std::vector<int64_t>, at::Tensor, int64_t, int64_t,
                       int64_t, double, int64_t, double, const std::string&>())
      .def("run", &DecoderLayer::run);
}

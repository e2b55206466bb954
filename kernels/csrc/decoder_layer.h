// One decoder layer per call, for the `cpu` kernel set: norms, projections, rotation, cache write, attention and
// MLP as one chain of vLLM's and torch's CPU kernels. Called op by op from Python, the chain costs
// more in interpretation than in arithmetic when few tokens are decoded.
// The class is registered with torch, so the library has no Python ABI.

#pragma once

#include "layer_parts.h"

namespace mszoo {

struct DecoderLayer : torch::CustomClassHolder {
  // The fields of the layer's spec (mszoo.layers.decoder.DecoderLayerSpec) by their names there:
  // tensors: "<norm>.weight", "<norm>.bias", "<projection>.handler", "<projection>.bias", and where queries and keys
  //   turn "cos_sin_cache" [max, R], R/2 cosines and R/2 sines.
  // integers: "num_heads", "num_kv_heads", "head_size", "sliding_window" (-1 for none), "<projection>.width"; as truth
  //   values "is_neox_style", "qk_norm_after_rotary", "parallel_residual", "norms_sums" and "is_causal".
  // floats: "scale", "logits_soft_cap", "residual_multiplier", "clip_qkv" (0 leaves the values), "<norm>.eps".
  // words: the kind of each norm that there is; "activation": an op's name, empty without an MLP.
  // Norms: norm_before_attention, norm_after_attention, norm_before_mlp, norm_after_mlp, q_norm, k_norm, norm_beside.
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
        cos_sin_cache_(find(tensors, "cos_sin_cache")) {
    size_t i = 0;
    for (const auto* name : {"norm_before_attention", "norm_after_attention", "norm_before_mlp", "norm_after_mlp",
                             "q_norm", "k_norm", "norm_beside"}) {
      norms_[i++] = norm(name, tensors, floats, words);
    }
    mlp_ = mlp(words.at("activation"), tensors, integers);
  }

  // x: [T, hidden], overwritten. Without `residual` it is the residual stream, before and after the layer. With it
  //   the stream is the sum of both, before and after; in the first layer the residual's content is not read.
  //   A layer that ends before the MLP needs it: x is then what the MLP gets, and the residual is the stream.
  // positions: [T], rows of cos_sin_cache.
  // beside: [T, hidden], whose norm attention reads in front of the stream's, where there is a norm_beside.
  // The first `tokens` rows are real, the rest padding.
  void run(const at::Tensor& x, const OptionalTensor& residual, bool first, const at::Tensor& positions,
           const OptionalTensor& beside, const at::Tensor& kv_cache, const at::Tensor& slot_mapping,
           const at::Tensor& query_start_loc, const at::Tensor& seq_lens, const at::Tensor& block_table,
           const at::Tensor& scheduler_metadata, int64_t tokens, const std::string& isa) {
    TORCH_CHECK(norms_.back().exists() == beside.has_value(), "something lies beside the stream, or should");
    TORCH_CHECK(mlp_ || (residual && !parallel_), "the stream has to lie beside what the MLP gets");
    const auto rows = x.size(0), hidden = x.size(1);
    const auto dtype = x.scalar_type();
    const auto& [before_attention, after_attention, before_mlp, after_mlp, q_norm, k_norm, norm_beside] = norms_;
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

    if (norm_beside.exists()) {
      const auto other = scratch(kAttended, rows, hidden, dtype), both = scratch(kBeside, rows, 2 * hidden, dtype);
      norm_beside.apply(*beside, other);
      both.narrow(1, 0, hidden).copy_(other);
      both.narrow(1, hidden, hidden).copy_(normed);
      normed = both;
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
      mlp_->apply(normed, mlp);
      stream.add_(output, multiplier_);
      stream.add_(mlp, multiplier_);
      return;
    }
    if (sums_) {
      norm_sum(stream, output, after_attention);
      if (!mlp_) {
        output.copy_(stream);
        return;
      }
      mlp_->apply(stream, output);
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
        normed = mlp_ ? scratch(kNormed, rows, hidden, dtype) : output;
        before_mlp.apply(stream, normed);
      }
    }
    if (!mlp_) return;
    mlp_->apply(normed, output);
    if (after_mlp.exists()) after_mlp.apply(output, output);
    if (!residual) stream.add_(output, multiplier_);
  }

 private:
  // The stream becomes the norm of its sum with x.
  void norm_sum(const at::Tensor& stream, const at::Tensor& x, const Norm& norm) const {
    stream.add_(x, multiplier_);
    norm.apply(stream, stream);
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

  std::array<Norm, 7> norms_;
  Projection qkv_proj_, o_proj_;
  std::optional<Mlp> mlp_;
  int64_t heads_, kv_heads_, head_size_, window_;
  bool neox_, late_, parallel_, sums_, causal_;
  double scale_, softcap_, multiplier_, clip_;
  OptionalTensor cos_sin_cache_;
};

}  // namespace mszoo

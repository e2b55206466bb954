// One decoder layer with multi-head latent attention, for the `cpu` kernel set: in one call where every request decodes
// one token, else in two, before vLLM's attention on the latent cache and after it, which branches in Python.

#pragma once

#include <cstring>
#include <tuple>

#include "layer_parts.h"

namespace mszoo {

struct LatentLayer : torch::CustomClassHolder {
  // As DecoderLayer's, and of mszoo.layers.decoder.LatentAttentionSpec:
  // tensors: "<norm>.weight", "<projection>.handler", "cos_sin_cache".
  // integers: "num_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "is_neox_style",
  //   "<projection>.width".
  // floats: "scale", "<norm>.eps".
  // Norms, all "rms_norm": norm_before_attention, norm_before_mlp, kv_a_layernorm, and q_a_layernorm where queries
  //   are of low rank.
  // Projections: q_proj (q_b_proj where queries are of low rank, behind q_a_proj), kv_a_proj_with_mqa, o_proj; up_proj
  //   and down_proj where the layer doesn't end before the MLP.
  LatentLayer(Named<at::Tensor> tensors, Named<int64_t> integers, Named<double> floats, Named<std::string> words)
      : before_attention_(norm("norm_before_attention", tensors, floats, words)),
        before_mlp_(norm("norm_before_mlp", tensors, floats, words)),
        q_a_layernorm_(norm("q_a_layernorm", tensors, floats, words)),
        kv_a_layernorm_(norm("kv_a_layernorm", tensors, floats, words)),
        q_proj_(projection("q_proj", tensors, integers)),
        kv_a_proj_(projection("kv_a_proj_with_mqa", tensors, integers)),
        o_proj_(projection("o_proj", tensors, integers)),
        mlp_(mlp(words.at("activation"), tensors, integers)),
        heads_(integers.at("num_heads")),
        rank_(integers.at("kv_lora_rank")),
        nope_(integers.at("qk_nope_head_dim")),
        rope_(integers.at("qk_rope_head_dim")),
        neox_(integers.at("is_neox_style")),
        scale_(floats.at("scale")),
        cos_sin_cache_(tensors.at("cos_sin_cache")) {
    if (q_a_layernorm_.exists()) q_a_proj_ = projection("q_a_proj", tensors, integers);
  }

  // x, residual: [T, hidden]; their sum is the stream, and the residual becomes it. In the first layer the stream is x,
  //   and the residual's content is not read. x is overwritten.
  // positions: [T], rows of cos_sin_cache.
  // Returns what vLLM's attention takes: queries [T, heads, nope + rope], compressed keys and values [T, rank], the one
  //   key with position [T, 1, rope]. They are overwritten by the next layer.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> before(const at::Tensor& x, const at::Tensor& residual, bool first,
                                                        const at::Tensor& positions) {
    const auto rows = x.size(0);
    const auto dtype = x.scalar_type();
    if (first) {
      residual.copy_(x);
      before_attention_.apply(x, x);
    } else {
      add_norm(x, residual, before_attention_);
    }
    auto low = x;
    if (q_a_proj_) {
      low = scratch(kUp, rows, q_a_proj_->width, dtype);
      q_a_proj_->apply(x, low);
      q_a_layernorm_.apply(low, low);
    }
    const auto flat = scratch(kQkv, rows, q_proj_.width, dtype);
    q_proj_.apply(low, flat);
    const auto query = flat.view({rows, heads_, nope_ + rope_});
    const auto latent = scratch(kLatent, rows, kv_a_proj_.width, dtype);
    kv_a_proj_.apply(x, latent);
    const auto compressed = scratch(kCompressed, rows, rank_, dtype);
    compressed.copy_(latent.narrow(1, 0, rank_));
    kv_a_layernorm_.apply(compressed, compressed);
    const auto key = latent.narrow(1, rank_, rope_);
    // vLLM's kernel turns heads that lie side by side.
    const auto part = query.narrow(2, nope_, rope_);
    const auto turned = scratch(kAttended, rows, heads_ * rope_, dtype);
    turned.view({rows, heads_, rope_}).copy_(part);
    ops().rotary_embedding(positions, turned, key, rope_, cos_sin_cache_, neox_);
    part.copy_(turned.view({rows, heads_, rope_}));
    return {query, compressed, key.unsqueeze(1)};
  }

  // The whole layer, of tokens that each are the only new one of their request. x, residual, first, positions: as
  // before() takes them, and x and residual become what after() makes of them.
  // w_uk_t [heads, nope, rank], w_uv [heads, rank, value]: the two parts of kv_b_proj, which queries and what was
  //   attended to are multiplied by, instead of every cached token.
  // kv_cache: [blocks, block size, rank + rope]; slot_mapping: [T] rows of it, negative for none.
  // block_table: [T, most blocks] int32; seq_lens: [T] int32, each token's own position included.
  void decode(const at::Tensor& x, const at::Tensor& residual, bool first, const at::Tensor& positions,
              const at::Tensor& w_uk_t, const at::Tensor& w_uv, const at::Tensor& kv_cache,
              const at::Tensor& slot_mapping, const at::Tensor& block_table, const at::Tensor& seq_lens) {
    static const Op attend{"_C::mla_decode_kvcache",
                           {"out", "query", "kv_cache", "scale", "block_tables", "seq_lens"}};
    const auto rows = x.size(0), value = w_uv.size(2);
    const auto dtype = x.scalar_type();
    const auto [query, compressed, key] = before(x, residual, first, positions);
    store(compressed, key.squeeze(1), kv_cache, slot_mapping);

    // Products of each head, [heads, T, ...]; attention takes the heads of a token side by side.
    auto absorbed = scratch(kAbsorbed, heads_ * rows, rank_, dtype).view({heads_, rows, rank_});
    at::bmm_out(absorbed, query.narrow(2, 0, nope_).transpose(0, 1), w_uk_t);
    const auto latent = scratch(kLatentQuery, rows, heads_ * (rank_ + rope_), dtype).view({rows, heads_, rank_ + rope_});
    latent.narrow(2, 0, rank_).copy_(absorbed.transpose(0, 1));
    latent.narrow(2, rank_, rope_).copy_(query.narrow(2, nope_, rope_));
    const auto sums = scratch(kLatentAttended, rows, heads_ * rank_, dtype).view({rows, heads_, rank_}).zero_();
    attend(sums, latent, kv_cache, scale_, block_table, seq_lens);
    auto values = scratch(kAbsorbed, heads_ * rows, value, dtype).view({heads_, rows, value});
    at::bmm_out(values, sums.transpose(0, 1), w_uv);
    const auto attended = scratch(kAttended, rows, heads_ * value, dtype);
    attended.view({rows, heads_, value}).copy_(values.transpose(0, 1));
    after(attended, x, residual);
  }

  // attended: [T, heads * value]. x becomes what the MLP computed, or gets where that is another's; the residual
  //   becomes the stream that this is added to.
  void after(const at::Tensor& attended, const at::Tensor& x, const at::Tensor& residual) {
    o_proj_.apply(attended, x);
    add_norm(x, residual, before_mlp_);
    if (mlp_) mlp_->apply(x, x);
  }

 private:
  void store(const at::Tensor& compressed, const at::Tensor& key, const at::Tensor& kv_cache,
             const at::Tensor& slot_mapping) const {
    TORCH_CHECK(kv_cache.scalar_type() == key.scalar_type() && kv_cache.is_contiguous() &&
                    kv_cache.size(2) == rank_ + rope_ && slot_mapping.scalar_type() == at::kLong &&
                    slot_mapping.numel() >= key.size(0),
                "a latent cache, or the slots in it, of another kind");
    const auto bytes = key.element_size(), row = (rank_ + rope_) * bytes;
    auto* cache = static_cast<char*>(kv_cache.data_ptr());
    const auto* slots = slot_mapping.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < key.size(0); ++i) {
      if (slots[i] < 0) continue;
      auto* place = cache + slots[i] * row;
      std::memcpy(place, static_cast<const char*>(compressed.const_data_ptr()) + i * compressed.stride(0) * bytes,
                  rank_ * bytes);
      std::memcpy(place + rank_ * bytes,
                  static_cast<const char*>(key.const_data_ptr()) + i * key.stride(0) * bytes, rope_ * bytes);
    }
  }

  Norm before_attention_, before_mlp_, q_a_layernorm_, kv_a_layernorm_;
  Projection q_proj_, kv_a_proj_, o_proj_;
  std::optional<Projection> q_a_proj_;
  std::optional<Mlp> mlp_;
  int64_t heads_, rank_, nope_, rope_;
  bool neox_;
  double scale_;
  at::Tensor cos_sin_cache_;
};

}  // namespace mszoo

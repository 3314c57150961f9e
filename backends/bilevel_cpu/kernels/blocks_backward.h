// The gradients of blocks.h. Work is split in one of two ways, which add the same numbers in the same
// order: by heads, where each block is weighed once for all gradients; or, for more threads than
// heads of images, by regions of queries and then by regions of keys.
#pragma once
#include "blocks.h"

// What the backward pass reads beside q, k and v, and what it writes.
struct Gradients {
  std::vector<int64_t> out_places, lse_places, d_out_places, d_q_places, d_k_places, d_v_places;

  explicit Gradients(const Call& call)
      : out_places(places(call.out, call.q_grid)),
        lse_places(places(call.lse, call.q_grid)),
        d_out_places(places(call.d_out, call.q_grid)),
        d_q_places(places(call.d_q, call.q_grid)),
        d_k_places(places(call.d_k, call.k_grid)),
        d_v_places(places(call.d_v, call.k_grid)) {}
};

INLINE Real dot(const Real* a, const Real* b, int64_t width) {
  Vector products = {};
  for (int64_t c = 0; c < width; c += LANES) products += load(a + c) * load(b + c);
  Real sum = 0;
  for (int l = 0; l < LANES; l++) sum += products[l];
  return sum;
}

// With weights p = exp(s - lse): dv = p.T do, ds = p (do v.T - rowsum(do o)), dq = ds k scale,
// dk = ds.T q scale.
struct BackwardBlocks : Blocks {
  const Gradients& gradients;
  Real *d_rows, *d_columns;  // of the output: (BLOCK, value_width), (value_width, BLOCK)
  Real* d_scores;            // (keys, BLOCK)
  Real *lse, *delta;         // of the queries
  Real* d_q;                 // (BLOCK, width)

  BackwardBlocks(const Plan& plan, const Gradients& gradients) : Blocks(plan), gradients(gradients) {
    d_rows = memory.take<Real>(BLOCK * value_width);
    d_columns = memory.take<Real>(BLOCK * value_width);
    d_scores = memory.take<Real>(BLOCK * BLOCK);
    lse = memory.take<Real>(BLOCK);
    delta = memory.take<Real>(BLOCK);
    d_q = memory.take<Real>(BLOCK * width);
  }

  void pack_gradients(int64_t image, int64_t head, int64_t first, int64_t n) {
    pack_queries(image, head, first, n, 1);
    pack_rows(d_columns, plan.out, image, head, &gradients.out_places[first], n, plan.value_dim, value_width);
    pack_rows(d_rows, plan.d_out, image, head, &gradients.d_out_places[first], n, plan.value_dim, value_width);
    std::fill(lse, lse + BLOCK, INF);  // what is no query weighs nothing
    std::fill(delta, delta + BLOCK, Real(0));
    for (int64_t i = 0; i < n; i++) {
      lse[i] = plan.lse.at<Real>(image, head)[gradients.lse_places[first + i]];
      delta[i] = dot(d_rows + i * value_width, d_columns + i * value_width, value_width);
    }
    transpose_rows(d_columns, BLOCK, d_rows, n, value_width);
    std::fill(d_q, d_q + n * width, Real(0));
  }

  // To weights and gradients of scores, of the packed queries and keys.
  void weigh(int64_t keys_now, int64_t lanes) {
    score(keys_now, lanes);
    scores_of<BLOCK>(d_scores, d_columns, values, keys_now, lanes, plan.value_dim, value_width);
    Real exponent = plan.exponent();
    for (int64_t j = 0; j < keys_now; j++)
      for (int64_t q = 0; q < lanes; q += LANES) {
        int64_t at = j * BLOCK + q;
        Vector weight = exp2(load(weights + at) * exponent - load(lse + q));
        store(weights + at, weight);
        store(d_scores + at, weight * (load(d_scores + at) - load(delta + q)));
      }
  }

  void add_to_queries(int64_t keys_now, int64_t n) { sums_of<1, BLOCK>(d_q, d_scores, keys, n, keys_now, width); }
  void add_to_keys(Real* d_k, Real* d_v, int64_t key, int64_t keys_now, int64_t n) {
    sums_of<BLOCK, 1>(d_v, weights + key * BLOCK, d_rows, keys_now, n, value_width);
    sums_of<BLOCK, 1>(d_k, d_scores + key * BLOCK, rows, keys_now, n, width);
  }

  void write(const Map& to, int64_t image, int64_t head, const int64_t* tokens, const Real* from, int64_t n,
             int64_t channels, int64_t width, Real factor) const {
    for (int64_t i = 0; i < n; i++)
      unpack_row(to.at<Stored>(image, head) + tokens[i], from + i * width, channels, to.channel, factor);
  }
  void write_queries(int64_t image, int64_t head, int64_t first, int64_t n) const {
    write(plan.d_q, image, head, &gradients.d_q_places[first], d_q, n, plan.head_dim, width, Real(plan.scale));
  }
  void write_keys(int64_t image, int64_t head, int64_t first, int64_t n, const Real* d_k, const Real* d_v) const {
    write(plan.d_k, image, head, &gradients.d_k_places[first], d_k, n, plan.head_dim, width, Real(plan.scale));
    write(plan.d_v, image, head, &gradients.d_v_places[first], d_v, n, plan.value_dim, value_width, 1);
  }
};

// All gradients of one head of an image.
class HeadBackward {
 public:
  HeadBackward(const Plan& plan, const Gradients& gradients) : plan(plan), blocks(plan, gradients) {
    d_k = blocks.memory.take<Real>(plan.k_grid.num_tokens() * blocks.width);
    d_v = blocks.memory.take<Real>(plan.k_grid.num_tokens() * blocks.value_width);
  }

  void operator()(int64_t item) {
    int64_t image = item / plan.heads, head = item % plan.heads, tokens = plan.k_grid.num_tokens();
    std::fill(d_k, d_k + tokens * blocks.width, Real(0));
    std::fill(d_v, d_v + tokens * blocks.value_width, Real(0));
    for (int64_t region = 0; region < plan.q_regions; region++) {
      blocks.packed = false;
      int64_t end = plan.q_starts[region + 1];
      for (int64_t i = plan.q_starts[region]; i < end; i += BLOCK)
        of_queries(image, head, region, i, std::min(BLOCK, end - i));
    }
    blocks.write_keys(image, head, 0, tokens, d_k, d_v);
  }

 private:
  const Plan& plan;
  BackwardBlocks blocks;
  Real *d_k, *d_v;

  void of_queries(int64_t image, int64_t head, int64_t region, int64_t first, int64_t n) {
    blocks.pack_gradients(image, head, first, n);
    for (KeyBlocks block(plan, plan.routes(image, region), plan.topk); block.next();) {
      blocks.pack_keys(image, head, block);
      blocks.weigh(block.count, padded(n));
      blocks.add_to_queries(block.count, n);
      for (int64_t s = 0, key = 0; s < block.num_segments; key += block.segments[s++].count) {
        auto [token, count] = block.segments[s];
        blocks.add_to_keys(d_k + token * blocks.width, d_v + token * blocks.value_width, key, count, n);
      }
    }
    blocks.write_queries(image, head, first, n);
  }
};

// The gradient of the queries of one region and head.
class QueryBackward {
 public:
  QueryBackward(const Plan& plan, const Gradients& gradients) : plan(plan), blocks(plan, gradients) {}

  void operator()(int64_t item) {
    int64_t head = item % plan.heads, image = item / plan.heads / plan.q_regions;
    int64_t region = item / plan.heads % plan.q_regions, end = plan.q_starts[region + 1];
    blocks.packed = false;
    for (int64_t i = plan.q_starts[region]; i < end; i += BLOCK) {
      int64_t n = std::min(BLOCK, end - i);
      blocks.pack_gradients(image, head, i, n);
      for (KeyBlocks block(plan, plan.routes(image, region), plan.topk); block.next();) {
        blocks.pack_keys(image, head, block);
        blocks.weigh(block.count, padded(n));
        blocks.add_to_queries(block.count, n);
      }
      blocks.write_queries(image, head, i, n);
    }
  }

 private:
  const Plan& plan;
  BackwardBlocks blocks;
};

// For each key region of an image, the query regions that attend to it, in ascending order.
struct Askers {
  std::vector<int64_t> starts, regions;

  explicit Askers(const Plan& plan) : starts(plan.images * plan.k_regions + 1), regions(plan.images * plan.q_regions * plan.topk) {
    int64_t routes = plan.q_regions * plan.topk;
    auto row = [&](int64_t i) { return i / routes * plan.k_regions + plan.index[i]; };
    for (int64_t i = 0; i < int64_t(regions.size()); i++) starts[row(i) + 1]++;
    for (size_t i = 1; i < starts.size(); i++) starts[i] += starts[i - 1];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t i = 0; i < int64_t(regions.size()); i++) regions[next[row(i)]++] = i % routes / plan.topk;
  }
};

// The gradients of the keys and values of one region and head.
class KeyBackward {
 public:
  KeyBackward(const Plan& plan, const Gradients& gradients, const Askers& askers)
      : plan(plan), askers(askers), blocks(plan, gradients) {
    int64_t most = plan.k_grid.region_tokens();
    d_k = blocks.memory.take<Real>(most * blocks.width);
    d_v = blocks.memory.take<Real>(most * blocks.value_width);
  }

  void operator()(int64_t item) {
    int64_t head = item % plan.heads, row = item / plan.heads, image = row / plan.k_regions, region = row % plan.k_regions;
    int64_t start = plan.k_starts[region], tokens = plan.k_starts[region + 1] - start;
    std::fill(d_k, d_k + tokens * blocks.width, Real(0));
    std::fill(d_v, d_v + tokens * blocks.value_width, Real(0));
    blocks.packed = false;
    for (int64_t i = askers.starts[row]; i < askers.starts[row + 1]; i++) {
      int64_t asker = askers.regions[i], end = plan.q_starts[asker + 1];
      for (int64_t q = plan.q_starts[asker]; q < end; q += BLOCK)
        of_queries(image, head, region, q, std::min(BLOCK, end - q));
    }
    blocks.write_keys(image, head, start, tokens, d_k, d_v);
  }

 private:
  const Plan& plan;
  const Askers& askers;
  BackwardBlocks blocks;
  Real *d_k, *d_v;

  void of_queries(int64_t image, int64_t head, int64_t region, int64_t first, int64_t n) {
    blocks.pack_gradients(image, head, first, n);
    for (KeyBlocks block(plan, &region, 1); block.next();) {
      blocks.pack_keys(image, head, block);
      blocks.weigh(block.count, padded(n));
      blocks.add_to_keys(d_k + block.first * blocks.width, d_v + block.first * blocks.value_width, 0, block.count, n);
    }
  }
};

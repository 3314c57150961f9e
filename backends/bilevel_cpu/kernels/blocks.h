// Regions of many tokens: blocks of queries, one in each lane, meet blocks of keys.
#pragma once
#include "call.h"

constexpr int64_t BLOCK = 64;  // queries, and keys, at once

// Tokens of one key region, counted region by region.
struct Segment {
  int64_t first, count;
};

// The tokens that queries attend to, block by block: those of some key regions, in their order.
struct KeyBlocks {
  const Plan& plan;
  const int64_t *region, *end;
  int64_t used = 0;  // tokens of the region that earlier blocks have
  int64_t first = 0, count = 0, num_segments = 0;
  Segment segments[BLOCK];

  KeyBlocks(const Plan& plan, const int64_t* regions, int64_t n) : plan(plan), region(regions), end(regions + n) {}

  bool next() {
    first += count;
    count = num_segments = 0;
    while (count < BLOCK && region != end) {
      int64_t start = plan.k_starts[*region], left = plan.k_starts[*region + 1] - start - used;
      int64_t taken = std::min(left, BLOCK - count);
      segments[num_segments++] = {start + used, taken};
      count += taken;
      used += taken;
      if (taken == left) region++, used = 0;
    }
    return count > 0;
  }
  bool is_all() const { return first == 0 && region == end; }
};

// A block of queries and one of keys, packed.
struct Blocks {
  const Plan& plan;
  Scratch memory;
  int64_t width, value_width;  // channels, in whole vectors
  Real *rows, *columns;        // queries: (BLOCK, width), (width, BLOCK)
  Real *keys, *values;         // (BLOCK, width), (BLOCK, value_width)
  Real* weights;               // (keys, BLOCK)
  bool packed = false;         // whether the keys are all that the region's queries attend to

  explicit Blocks(const Plan& plan) : plan(plan), width(padded(plan.head_dim)), value_width(padded(plan.value_dim)) {
    rows = memory.take<Real>(BLOCK * width);
    columns = memory.take<Real>(BLOCK * width);
    keys = memory.take<Real>(BLOCK * width);
    values = memory.take<Real>(BLOCK * value_width);
    weights = memory.take<Real>(BLOCK * BLOCK);
  }

  void pack_queries(int64_t image, int64_t head, int64_t first, int64_t n, Real factor) {
    pack_rows(rows, plan.q, image, head, &plan.q_places[first], n, plan.head_dim, width, factor);
    transpose_rows(columns, BLOCK, rows, n, width);
  }
  void pack_keys(int64_t image, int64_t head, const KeyBlocks& block) {
    if (packed) return;
    packed = block.is_all();
    Real *key = keys, *value = values;
    for (int64_t s = 0; s < block.num_segments; s++) {
      auto [first, n] = block.segments[s];
      pack_rows(key, plan.k, image, head, &plan.k_places[first], n, plan.head_dim, width);
      pack_rows(value, plan.v, image, head, &plan.v_places[first], n, plan.value_dim, value_width);
      key += n * width;
      value += n * value_width;
    }
  }
  void score(int64_t keys_now, int64_t lanes) {
    scores_of<BLOCK>(weights, columns, keys, keys_now, lanes, plan.head_dim, width);
  }
};

// Equation 7 of BiFormer for the queries of one region and head, by an online softmax.
class BlockForward {
 public:
  BlockForward(const Plan& plan, const std::vector<int64_t>& out_places, const std::vector<int64_t>& lse_places)
      : plan(plan), out_places(out_places), lse_places(lse_places), blocks(plan) {
    sums = memory.take<Real>(BLOCK * blocks.value_width);
    tops = memory.take<Real>(BLOCK);
    totals = memory.take<Real>(BLOCK);
    decays = memory.take<Real>(BLOCK);
  }

  void operator()(int64_t item) {
    int64_t head = item % plan.heads, image = item / plan.heads / plan.q_regions;
    int64_t region = item / plan.heads % plan.q_regions, end = plan.q_starts[region + 1];
    blocks.packed = false;
    for (int64_t i = plan.q_starts[region]; i < end; i += BLOCK) {
      int64_t n = std::min(BLOCK, end - i);
      attend(image, head, region, i, n);
      write(image, head, i, n);
    }
  }

 private:
  const Plan& plan;
  const std::vector<int64_t>&out_places, &lse_places;
  Blocks blocks;
  Scratch memory;
  Real *sums, *tops, *totals, *decays;

  void attend(int64_t image, int64_t head, int64_t region, int64_t first, int64_t n) {
    int64_t lanes = padded(n), width = blocks.value_width;
    blocks.pack_queries(image, head, first, n, plan.exponent());
    std::fill(sums, sums + n * width, Real(0));
    std::fill(totals, totals + lanes, Real(0));
    std::fill(tops, tops + lanes, -INF);
    for (KeyBlocks block(plan, plan.routes(image, region), plan.topk); block.next();) {
      blocks.pack_keys(image, head, block);
      blocks.score(block.count, lanes);
      weigh(block.count, lanes);
      if (block.first)
        for (int64_t i = 0; i < n; i++)
          for (int64_t c = 0; c < width; c += LANES) store(sums + i * width + c, load(sums + i * width + c) * decays[i]);
      sums_of<1, BLOCK>(sums, blocks.weights, blocks.values, n, block.count, width);
    }
  }

  // From scores to weights; `decays` is what those of earlier blocks are to be multiplied by.
  void weigh(int64_t keys, int64_t lanes) {
    for (int64_t q = 0; q < lanes; q += LANES) {
      Real* column = blocks.weights + q;
      Vector before = load(tops + q), top = before, total = {};
      for (int64_t j = 0; j < keys; j++) top = max(load(column + j * BLOCK), top);
      Vector base = top == -INF ? Vector{} : top;  // infinity less infinity would be NaN
      for (int64_t j = 0; j < keys; j++) {
        Vector weight = exp2(load(column + j * BLOCK) - base);
        store(column + j * BLOCK, weight);
        total += weight;
      }
      Vector decay = exp2(before - base);
      store(decays + q, decay);
      store(totals + q, load(totals + q) * decay + total);
      store(tops + q, top);
    }
  }

  void write(int64_t image, int64_t head, int64_t first, int64_t n) {
    Stored* out = plan.out.at<Stored>(image, head);
    for (int64_t i = 0; i < n; i++)
      unpack_row(out + out_places[first + i], sums + i * blocks.value_width, plan.value_dim, plan.out.channel, 1 / totals[i]);
    if (!plan.lse.data) return;
    Real* lse = plan.lse.at<Real>(image, head);
    for (int64_t i = 0; i < n; i++) lse[lse_places[first + i]] = tops[i] + std::log2(totals[i]);
  }
};

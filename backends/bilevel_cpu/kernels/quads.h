// Regions of at most four tokens. A vector has the scores of some queries of one region with four
// keys of another: lane l is that of query l / 4 with key l % 4. A head's maps are packed once for
// all its regions, whose tokens are made up to four by zeros.
#pragma once
#include "blocks_backward.h"

constexpr int QUAD = 4;
constexpr int QUERIES = LANES / QUAD > 0 ? LANES / QUAD : 1;  // of one vector
constexpr int PARTS = QUAD / QUERIES;                         // vectors for the queries of a region
constexpr int AT_ONCE = 8;                                    // key regions

// One map of a head: rows (regions, QUAD, width), and, of each group of QUERIES regions, columns
// (width, LANES).
struct QuadMap {
  int64_t width;
  Real *rows, *columns;

  QuadMap(Scratch& memory, int64_t regions, int64_t width)
      : width(width),
        rows(memory.take<Real>(padded(regions, QUERIES) * QUAD * width)),
        columns(memory.take<Real>(padded(regions, QUERIES) * QUAD * width)) {}

  void pack(const Map& map, int64_t image, int64_t head, const std::vector<int64_t>& starts,
            const std::vector<int64_t>& places, int64_t channels) {
    int64_t regions = int64_t(starts.size()) - 1;
    std::fill(rows, rows + padded(regions, QUERIES) * QUAD * width, Real(0));
    for (int64_t r = 0; r < regions; r++)
      pack_rows(rows + r * QUAD * width, map, image, head, &places[starts[r]], starts[r + 1] - starts[r], channels, width);
    for (int64_t r = 0; r < regions; r += QUERIES)
      transpose_rows(columns + r * QUAD * width, LANES, rows + r * QUAD * width, LANES, width);
  }
  const Real* region_rows(int64_t region) const { return rows + region * QUAD * width; }
  const Real* region_columns(int64_t region) const {
    return columns + region / QUERIES * LANES * width + region % QUERIES * QUAD;
  }
};

// The scores of one region's queries with the keys of its routed regions, and sums by them.
class Quads {
 public:
  Quads(const Plan& plan, Scratch& memory) : plan(plan) {
    spread = memory.take<Real>(LANES * padded(std::max(plan.head_dim, plan.value_dim)));
  }

  // scores[part][e], for all routes.
  void score(Real* scores, const QuadMap& queries, int64_t region, const QuadMap& keys, const int64_t* routes, int64_t depth) {
    const Real* group = queries.columns + region / QUERIES * LANES * queries.width;
    for (int part = 0; part < PARTS; part++) {
      switch (region % QUERIES * QUAD / QUERIES + part) {
        case 0: spread_queries<0>(group, depth); break;
        case 1: spread_queries<1>(group, depth); break;
        case 2: spread_queries<2>(group, depth); break;
        default: spread_queries<3>(group, depth);
      }
      for (int64_t e = 0; e < plan.topk; e += AT_ONCE) {
        const Real* columns[AT_ONCE];
        for (int64_t i = 0; i < AT_ONCE; i++) columns[i] = keys.region_columns(routes[std::min(e + i, plan.topk - 1)]);
        Vector sum[AT_ONCE] = {};
        for (int64_t d = 0; d < depth; d++) {
          Vector query = load(spread + d * LANES);
          for (int i = 0; i < AT_ONCE; i++) sum[i] += query * load_four(columns[i] + d * LANES);
        }
        for (int i = 0; i < AT_ONCE; i++) store(scores + (part * stride() + e + i) * LANES, sum[i]);
      }
    }
  }
  int64_t stride() const { return padded(plan.topk, AT_ONCE); }  // vectors of a part
  int64_t size() const { return PARTS * stride() * LANES; }

  // What makes the scores of keys that are not there minus infinity.
  Vector mask(int64_t region) const {
    int64_t tokens = plan.k_starts[region + 1] - plan.k_starts[region];
    Vector found = {};
    for (int l = 0; l < LANES; l++) found[l] = l % QUAD < tokens ? 0 : -INF;
    return found;
  }

  // sums[query] += factors with the rows of all routed regions.
  template <int VECTORS>
  void add(Real* sums, const Real* factors, const QuadMap& map, const int64_t* routes) const {
    Vector sum[QUAD][VECTORS];
    for (int i = 0; i < QUAD; i++)
      for (int c = 0; c < VECTORS; c++) sum[i][c] = load(sums + i * map.width + c * LANES);
    for (int64_t e = 0; e < plan.topk; e++) {
      const Real *rows = map.region_rows(routes[e]) , *factor = factors + e * LANES;
      for (int t = 0; t < QUAD; t++) {
        Vector row[VECTORS];
        for (int c = 0; c < VECTORS; c++) row[c] = load(rows + t * map.width + c * LANES);
        for (int i = 0; i < QUAD; i++) {
          Vector f = broadcast(factor[i / QUERIES * stride() * LANES + i % QUERIES * QUAD + t]);
          for (int c = 0; c < VECTORS; c++) sum[i][c] += f * row[c];
        }
      }
    }
    for (int i = 0; i < QUAD; i++)
      for (int c = 0; c < VECTORS; c++) store(sums + i * map.width + c * LANES, sum[i][c]);
  }
  void add(Real* sums, const Real* factors, QuadMap map, const int64_t* routes) const {
    int64_t c = 0, width = map.width;
    for (; c + 2 * LANES <= width; c += 2 * LANES, map.rows += 2 * LANES) add<2>(sums + c, factors, map, routes);
    for (; c < width; c += LANES, map.rows += LANES) add<1>(sums + c, factors, map, routes);
  }

 private:
  const Plan& plan;
  Real* spread;  // (channels, LANES)

  // Each query of a quarter of a group's lanes in as many lanes as there are keys.
  template <int QUARTER>
  void spread_queries(const Real* group, int64_t depth) {
    for (int64_t d = 0; d < depth; d++)
      store(spread + d * LANES, repeated<QUARTER * QUERIES, QUAD>(load(group + d * LANES), All{}));
  }
};

// Equation 7 of BiFormer for some regions of one head; an item is one of `parts` of them.
class QuadForward {
 public:
  QuadForward(const Plan& plan, const std::vector<int64_t>& out_places, const std::vector<int64_t>& lse_places, int64_t parts)
      : plan(plan), out_places(out_places), lse_places(lse_places), parts(parts),
        q(memory, plan.q_regions, padded(plan.head_dim)),
        k(memory, plan.k_regions, padded(plan.head_dim)),
        v(memory, plan.k_regions, padded(plan.value_dim)),
        quads(plan, memory) {
    weights = memory.take<Real>(quads.size());
    sums = memory.take<Real>(QUAD * v.width);
  }

  void operator()(int64_t item) {
    int64_t part = item % parts, head = item / parts % plan.heads, image = item / parts / plan.heads;
    if (item / parts != packed) {
      packed = item / parts;
      q.pack(plan.q, image, head, plan.q_starts, plan.q_places, plan.head_dim);
      k.pack(plan.k, image, head, plan.k_starts, plan.k_places, plan.head_dim);
      v.pack(plan.v, image, head, plan.k_starts, plan.v_places, plan.value_dim);
    }
    for (int64_t r = part * plan.q_regions / parts; r < (part + 1) * plan.q_regions / parts; r++) attend(image, head, r);
  }

 private:
  const Plan& plan;
  const std::vector<int64_t>&out_places, &lse_places;
  int64_t parts, packed = -1;
  Scratch memory;
  QuadMap q, k, v;
  Quads quads;
  Real *weights, *sums;

  void attend(int64_t image, int64_t head, int64_t region) {
    const int64_t* routes = plan.routes(image, region);
    quads.score(weights, q, region, k, routes, plan.head_dim);
    Vector tops[PARTS], totals[PARTS];
    for (int part = 0; part < PARTS; part++) weigh(weights + part * quads.stride() * LANES, routes, tops[part], totals[part]);
    std::fill(sums, sums + QUAD * v.width, Real(0));
    quads.add(sums, weights, v, routes);
    int64_t first = plan.q_starts[region], n = plan.q_starts[region + 1] - first;
    for (int64_t i = 0; i < n; i++) {
      Real total = totals[i / QUERIES][i % QUERIES * QUAD], top = tops[i / QUERIES][i % QUERIES * QUAD];
      unpack_row(plan.out.at<Stored>(image, head) + out_places[first + i], sums + i * v.width, plan.value_dim, plan.out.channel, 1 / total);
      if (plan.lse.data) plan.lse.at<Real>(image, head)[lse_places[first + i]] = top + std::log2(total);
    }
  }

  void weigh(Real* scores, const int64_t* routes, Vector& top, Vector& total) {
    Real exponent = plan.exponent();
    top = broadcast(-INF);
    for (int64_t e = 0; e < plan.topk; e++) {
      Vector score = load(scores + e * LANES) * exponent;
      if (ragged) score += quads.mask(routes[e]);
      store(scores + e * LANES, score);
      top = max(score, top);
    }
    top = max(swapped<1>(top, All{}), top);
    top = max(swapped<2>(top, All{}), top);
    Vector base = top == -INF ? Vector{} : top;
    total = Vector{};
    for (int64_t e = 0; e < plan.topk; e++) {
      Vector weight = exp2(load(scores + e * LANES) - base);
      store(scores + e * LANES, weight);
      total += weight;
    }
    total += swapped<1>(total, All{});
    total += swapped<2>(total, All{});
  }
  bool ragged = plan.k_starts.back() != plan.k_regions * QUAD;
};

// The gradients of one head of an image.
class QuadBackward {
 public:
  QuadBackward(const Plan& plan, const Gradients& gradients)
      : plan(plan), gradients(gradients),
        q(memory, plan.q_regions, padded(plan.head_dim)),
        k(memory, plan.k_regions, padded(plan.head_dim)),
        v(memory, plan.k_regions, padded(plan.value_dim)),
        d_out(memory, plan.q_regions, padded(plan.value_dim)),
        quads(plan, memory) {
    weights = memory.take<Real>(quads.size());
    d_scores = memory.take<Real>(quads.size());
    out = memory.take<Real>(QUAD * v.width);
    d_q = memory.take<Real>(QUAD * q.width);
    d_k = memory.take<Real>(plan.k_regions * QUAD * k.width);
    d_v = memory.take<Real>(plan.k_regions * QUAD * v.width);
  }

  void operator()(int64_t item) {
    int64_t image = item / plan.heads, head = item % plan.heads;
    q.pack(plan.q, image, head, plan.q_starts, plan.q_places, plan.head_dim);
    k.pack(plan.k, image, head, plan.k_starts, plan.k_places, plan.head_dim);
    v.pack(plan.v, image, head, plan.k_starts, plan.v_places, plan.value_dim);
    d_out.pack(plan.d_out, image, head, plan.q_starts, gradients.d_out_places, plan.value_dim);
    std::fill(d_k, d_k + plan.k_regions * QUAD * k.width, Real(0));
    std::fill(d_v, d_v + plan.k_regions * QUAD * v.width, Real(0));
    for (int64_t region = 0; region < plan.q_regions; region++) of_queries(image, head, region);
    for (int64_t g = 0; g < plan.k_regions; g++) {
      int64_t first = plan.k_starts[g], n = plan.k_starts[g + 1] - first;
      write(plan.d_k, image, head, &gradients.d_k_places[first], d_k + g * QUAD * k.width, n, plan.head_dim, k.width, Real(plan.scale));
      write(plan.d_v, image, head, &gradients.d_v_places[first], d_v + g * QUAD * v.width, n, plan.value_dim, v.width, 1);
    }
  }

 private:
  const Plan& plan;
  const Gradients& gradients;
  Scratch memory;
  QuadMap q, k, v, d_out;
  Quads quads;
  Real *weights, *d_scores, *out, *d_q, *d_k, *d_v;

  static void write(const Map& to, int64_t image, int64_t head, const int64_t* tokens, const Real* from, int64_t n,
                    int64_t channels, int64_t width, Real factor) {
    for (int64_t i = 0; i < n; i++)
      unpack_row(to.at<Stored>(image, head) + tokens[i], from + i * width, channels, to.channel, factor);
  }

  void of_queries(int64_t image, int64_t head, int64_t region) {
    const int64_t* routes = plan.routes(image, region);
    int64_t first = plan.q_starts[region], n = plan.q_starts[region + 1] - first;
    pack_rows(out, plan.out, image, head, &gradients.out_places[first], n, plan.value_dim, v.width);
    quads.score(weights, q, region, k, routes, plan.head_dim);
    quads.score(d_scores, d_out, region, v, routes, plan.value_dim);
    weigh(image, head, region, n, routes);
    std::fill(d_q, d_q + QUAD * q.width, Real(0));
    quads.add(d_q, d_scores, k, routes);
    write(plan.d_q, image, head, &gradients.d_q_places[first], d_q, n, plan.head_dim, q.width, Real(plan.scale));
    for (int64_t e = 0; e < plan.topk; e++)
      for (int part = 0; part < PARTS; part++) {
        int64_t at = (part * quads.stride() + e) * LANES, query = part * QUERIES, some = std::min<int64_t>(QUERIES, n - query);
        sums_of<1, QUAD>(d_v + routes[e] * QUAD * v.width, weights + at, d_out.region_rows(region) + query * v.width, QUAD, some, v.width);
        sums_of<1, QUAD>(d_k + routes[e] * QUAD * k.width, d_scores + at, q.region_rows(region) + query * q.width, QUAD, some, k.width);
      }
  }

  void weigh(int64_t image, int64_t head, int64_t region, int64_t n, const int64_t* routes) {
    int64_t first = plan.q_starts[region];
    bool ragged = plan.k_starts.back() != plan.k_regions * QUAD;
    Real exponent = plan.exponent();
    for (int part = 0; part < PARTS; part++) {
      Vector lse = broadcast(INF), delta = {};
      for (int i = 0; i < QUERIES && part * QUERIES + i < n; i++) {
        int64_t query = part * QUERIES + i;
        Real d = dot(d_out.region_rows(region) + query * v.width, out + query * v.width, v.width);
        for (int t = 0; t < QUAD; t++) {
          lse[i * QUAD + t] = plan.lse.at<Real>(image, head)[gradients.lse_places[first + query]];
          delta[i * QUAD + t] = d;
        }
      }
      for (int64_t e = 0; e < plan.topk; e++) {
        int64_t at = (part * quads.stride() + e) * LANES;
        Vector score = load(weights + at) * exponent - lse;
        if (ragged) score += quads.mask(routes[e]);
        Vector weight = exp2(score);
        store(weights + at, weight);
        store(d_scores + at, weight * (load(d_scores + at) - delta));
      }
    }
  }
};

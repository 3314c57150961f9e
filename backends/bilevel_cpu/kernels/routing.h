// Which key regions each query region attends to: the best by the product of mean query and mean key.
#pragma once
#include "call.h"

// The mean of one region's tokens, all heads side by side (equation 4).
class Means {
 public:
  Means(const Plan& plan, const Map& map, const std::vector<int64_t>& starts, const std::vector<int64_t>& places, Real* means, int64_t width)
      : plan(plan), map(map), starts(starts), places(places), means(means), width(width) {}

  void operator()(int64_t item) {
    int64_t regions = int64_t(starts.size()) - 1, image = item / regions, region = item % regions;
    Real* mean = means + item * width;
    std::fill(mean, mean + width, Real(0));
    for (int64_t t = starts[region]; t < starts[region + 1]; t++)
      for (int64_t m = 0; m < plan.heads; m++) {
        const Stored* row = map.at<Stored>(image, m) + places[t];
        Real* __restrict sum = mean + m * plan.head_dim;
        if (map.channel == 1)
          for (int64_t d = 0; d < plan.head_dim; d++) sum[d] += to_real(row[d]);
        else
          for (int64_t d = 0; d < plan.head_dim; d++) sum[d] += to_real(row[d * map.channel]);
      }
    Real tokens = Real(starts[region + 1] - starts[region]);
    for (int64_t c = 0; c < plan.heads * plan.head_dim; c++) mean[c] /= tokens;
  }

 private:
  const Plan& plan;
  const Map& map;
  const std::vector<int64_t>&starts, &places;
  Real* means;
  int64_t width;
};

struct Routes {
  int64_t* index;  // (N, R, topk), best first
  Real* score;     // the same
};

// The routes of some query regions, one in each lane (equation 5).
class Choice {
 public:
  static constexpr int REGIONS = 2 * LANES;

  Choice(const Plan& plan, const Real* q_means, const Real* k_means, int64_t width, Routes routes)
      : plan(plan), q_means(q_means), k_means(k_means), width(width), routes(routes) {
    columns = memory.take<Real>(REGIONS * width);
    scores = memory.take<Real>(REGIONS * plan.k_regions);
    best = memory.take<Real>(LANES * plan.topk);
    regions = memory.take<Bits>(LANES * plan.topk);
  }

  static int64_t items(const Plan& plan) { return plan.images * ((plan.q_regions + REGIONS - 1) / REGIONS); }

  void operator()(int64_t item) {
    int64_t groups = (plan.q_regions + REGIONS - 1) / REGIONS, image = item / groups, first = item % groups * REGIONS;
    int64_t n = std::min<int64_t>(REGIONS, plan.q_regions - first);
    transpose_rows(columns, REGIONS, q_means + (image * plan.q_regions + first) * width, n, width);
    scores_of<REGIONS>(scores, columns, k_means + image * plan.k_regions * width, plan.k_regions, padded(n), width, width);
    for (int64_t i = 0; i < n; i += LANES) {
      choose(scores + i);
      write(image * plan.q_regions + first + i, std::min<int64_t>(LANES, n - i));
    }
  }

 private:
  const Plan& plan;
  const Real *q_means, *k_means;
  int64_t width;
  Routes routes;
  Scratch memory;
  Real *columns, *scores, *best;
  Bits* regions;

  // Each key region in turn takes its place among the best so far, after those as good.
  void choose(const Real* column) {
    for (int64_t g = 0; g < plan.k_regions; g++) {
      Vector score = load(column + g * REGIONS);
      score = score == score ? score : broadcast(-INF);
      BitVector region = Bits(g) - BitVector{}, before = {};
      for (int64_t e = 0; e < std::min(g + 1, plan.topk); e++) {
        Vector other = load(best + e * LANES);
        BitVector others = *(const BitVector*)(regions + e * LANES);
        if (e == g) before = ~BitVector{};
        else before |= score > other;
        store(best + e * LANES, before ? score : other);
        *(BitVector*)(regions + e * LANES) = before ? region : others;
        score = before ? other : score;
        region = before ? others : region;
      }
    }
  }

  void write(int64_t row, int64_t n) {
    for (int64_t i = 0; i < n; i++)
      for (int64_t e = 0; e < plan.topk; e++) {
        routes.index[(row + i) * plan.topk + e] = regions[e * LANES + i];
        routes.score[(row + i) * plan.topk + e] = best[e * LANES + i];
      }
  }
};

static void find_routes(const Plan& plan, Routes routes, const Team& team) {
  int64_t width = padded(plan.heads * plan.head_dim);
  Scratch memory;
  Real* q_means = memory.take<Real>(plan.images * plan.q_regions * width);
  Real* k_means = memory.take<Real>(plan.images * plan.k_regions * width);
  run(team, plan.images * plan.q_regions, 1, [&] { return Means(plan, plan.q, plan.q_starts, plan.q_places, q_means, width); });
  run(team, plan.images * plan.k_regions, 1, [&] { return Means(plan, plan.k, plan.k_starts, plan.k_places, k_means, width); });
  run(team, Choice::items(plan), 1, [&] { return Choice(plan, q_means, k_means, width, routes); });
}

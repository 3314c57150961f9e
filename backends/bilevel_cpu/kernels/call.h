// What a call is, as Python hands it over, and how threads share its work.
#pragma once
#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>

#include "tiles.h"

struct Call {
  Map q, k, v, out, d_out, d_q, d_k, d_v;
  Map lse;               // Real (N, *spatial, M): log2 of each query's softmax denominator; or none
  const int64_t* index;  // (N, R, topk)
  Grid q_grid, k_grid;
  int64_t images, heads, topk, head_dim, value_dim;
  double scale;
};

// The same with what every item of its work needs to know.
struct Plan : Call {
  int64_t q_regions, k_regions;
  std::vector<int64_t> q_starts, k_starts;
  std::vector<int64_t> q_places, k_places, v_places;

  explicit Plan(const Call& call)
      : Call(call),
        q_regions(q_grid.num_regions()),
        k_regions(k_grid.num_regions()),
        q_starts(region_starts(q_grid)),
        k_starts(region_starts(k_grid)),
        q_places(places(q, q_grid)),
        k_places(places(k, k_grid)),
        v_places(places(v, k_grid)) {}

  const int64_t* routes(int64_t image, int64_t region) const { return index + (image * q_regions + region) * topk; }
  Real exponent() const { return Real(scale * 1.4426950408889634); }  // of 2, for a score of 1
};

inline bool routes_exist(const Call& call) {
  const int64_t *end = call.index + call.images * call.q_grid.num_regions() * call.topk, regions = call.k_grid.num_regions();
  return std::all_of(call.index, end, [&](int64_t g) { return 0 <= g && g < regions; });
}

// As GOMP_parallel of OpenMP's runtimes: runs a function in so many threads.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

struct Team {
  Parallel parallel;  // null: threads of our own
  int64_t threads;
};

// Does every item once, some that follow each other in one thread where there are enough. `make()`
// gives a thread what does an item; throws if there is no memory.
template <class Make>
void run(const Team& team, int64_t items, int64_t together, Make make) {
  int64_t step = items >= 8 * together * team.threads ? together : 1;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  auto work = [&] {
    try {
      auto worker = make();
      for (int64_t i; !failed && (i = next.fetch_add(step)) < items;)
        for (int64_t end = std::min(i + step, items); i < end; i++) worker(i);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
  };
  int64_t threads = std::min(team.threads, items);
  if (threads <= 1) {
    work();
  } else if (team.parallel) {
    team.parallel([](void* all) { (*static_cast<decltype(work)*>(all))(); }, &work, unsigned(threads), 0);
  } else {
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
      while (int64_t(others.size()) < threads - 1) others.emplace_back(work);
    } catch (const std::system_error&) {
      // The system gives no more threads: those there are do the work.
    }
    work();
    for (auto& other : others) other.join();
  }
  if (failed) throw std::bad_alloc();
}

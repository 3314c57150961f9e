// Routed attention and routing (BiFormer, equations 4 to 7), as Python calls them.
#include "quads.h"
#include "routing.h"

enum Outcome { DONE = 0, NO_SUCH_REGION = 1, NO_MEMORY = 2 };

template <class Body>
static int outcome(const Call& call, Body body) {
  if (!routes_exist(call)) return NO_SUCH_REGION;
  try {
    body();
    return DONE;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

static bool in_quads(const Plan& plan) {
  return LANES >= QUAD && plan.q_grid.region_tokens() <= QUAD && plan.k_grid.region_tokens() <= QUAD;
}

extern "C" int bilevel_forward(const Call* call, Parallel parallel, int64_t threads) {
  return outcome(*call, [&] {
    Plan plan(*call);
    Team team{parallel, threads};
    auto out_places = places(plan.out, plan.q_grid);
    auto lse_places = plan.lse.data ? places(plan.lse, plan.q_grid) : std::vector<int64_t>();
    int64_t heads = plan.images * plan.heads;
    if (in_quads(plan)) {
      int64_t parts = std::min(plan.q_regions, (threads + heads - 1) / heads);
      run(team, heads * parts, 1, [&] { return QuadForward(plan, out_places, lse_places, parts); });
    } else {
      run(team, heads * plan.q_regions, plan.heads, [&] { return BlockForward(plan, out_places, lse_places); });
    }
  });
}

extern "C" int bilevel_backward(const Call* call, Parallel parallel, int64_t threads) {
  return outcome(*call, [&] {
    Plan plan(*call);
    Team team{parallel, threads};
    Gradients gradients(plan);
    int64_t heads = plan.images * plan.heads;
    if (in_quads(plan)) {
      run(team, heads, 1, [&] { return QuadBackward(plan, gradients); });
    } else if (heads >= threads) {
      run(team, heads, 1, [&] { return HeadBackward(plan, gradients); });
    } else {
      Askers askers(plan);
      run(team, heads * plan.q_regions, plan.heads, [&] { return QueryBackward(plan, gradients); });
      run(team, heads * plan.k_regions, plan.heads, [&] { return KeyBackward(plan, gradients, askers); });
    }
  });
}

extern "C" int bilevel_routes(const Call* call, int64_t* index, void* score, Parallel parallel, int64_t threads) {
  try {
    find_routes(Plan(*call), {index, static_cast<Real*>(score)}, {parallel, threads});
    return DONE;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }
}

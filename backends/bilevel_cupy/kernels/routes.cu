// What the other kernels read of a grid and of the routes: lists of integers.

constexpr int AXES = 8;

// How the tokens of some axes split into regions.
struct Axes {
  int count;
  int tokens[AXES], regions[AXES];
};

// Where region i of an axis begins, also where the product does not fit 32 bits.
__device__ inline int begin_of(int region, int tokens, int regions) {
  return static_cast<long long>(region) * tokens / regions;
}

// table (regions, places): the tokens of each region, counted in row-major order, and -1 at places
// without a token. A thread finds one.
__global__ void list_tokens(int* table, const Axes axes, const int regions, const int places) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= regions * places) return;
  int region = i / places, place = i % places, token = 0, stride = 1;
  for (int axis = axes.count - 1; axis >= 0; axis--) {
    const int n = axes.tokens[axis], s = axes.regions[axis], size = (n + s - 1) / s;
    const int at = begin_of(region % s, n, s) + place % size;
    if (at >= begin_of(region % s + 1, n, s)) token = -1;
    if (token >= 0) token += at * stride;
    region /= s, place /= size, stride *= n;
  }
  table[i] = token;
}

// Which of the `group` regions from `first` on are routed together with another: bit s for slot s.
// They are key regions and it a query region, or the other way round.
template <bool OF_KEYS>
__device__ inline unsigned members_with(const int* index, int topk, int first, int group, int queries,
                                        int other) {
  unsigned members = 0;
  if (OF_KEYS) {
    for (int i = 0; i < topk; i++) {
      const int region = index[static_cast<long long>(other) * topk + i];
      if (first <= region && region - first < group) members |= 1u << (region - first);
    }
  } else {
    for (int slot = 0; slot < group && first + slot < queries; slot++)
      for (int i = 0; i < topk; i++)
        if (index[static_cast<long long>(first + slot) * topk + i] == other) members |= 1u << slot;
  }
  return members;
}

// counts (N, groups): over how many query regions each group of key regions walks. A warp for each.
__global__ void count_walks(const int* index, int* counts, const int queries, const int topk,
                            const int group, const int groups) {
  const int image = blockIdx.x / groups, number = blockIdx.x % groups;
  const int* of_image = index + static_cast<long long>(image) * queries * topk;
  int count = 0;
  for (int other = threadIdx.x; other < queries; other += 32)
    count += members_with<true>(of_image, topk, number * group, group, queries, other) != 0;
  for (int apart = 16; apart; apart /= 2) count += __shfl_xor_sync(~0u, count, apart);
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

// The walk of each group of regions, in ascending order: `regions` and `members`, as Route has
// them, (N, query regions * k), and spans (N, groups, 2), where it begins and its length. Those of
// key regions come one after the other, by `counts`; groups of query regions have room for all of
// their routes. A warp for each; `others` are the regions walked over.
template <bool OF_KEYS>
__global__ void list_walks(const int* index, const int* counts, int* regions, unsigned* members,
                           int* spans, const int queries, const int topk, const int others,
                           const int group, const int groups) {
  const int image = blockIdx.x / groups, number = blockIdx.x % groups;
  const long long begin_of_image = static_cast<long long>(image) * queries * topk;
  int begin = 0;
  if (OF_KEYS) {
    for (int i = threadIdx.x; i < number; i += 32) begin += counts[image * groups + i];
    for (int apart = 16; apart; apart /= 2) begin += __shfl_xor_sync(~0u, begin, apart);
  } else {
    begin = number * group * topk;
  }
  int count = 0;
  for (int first = 0; first < others; first += 32) {
    const int other = first + threadIdx.x;
    const unsigned found = other < others ? members_with<OF_KEYS>(index + begin_of_image, topk,
                                                                  number * group, group, queries,
                                                                  other)
                                          : 0;
    const unsigned all = __ballot_sync(~0u, found != 0);
    if (found) {
      const int place = begin + count + __popc(all & ((1u << threadIdx.x) - 1));
      regions[begin_of_image + place] = other;
      members[begin_of_image + place] = found;
    }
    count += __popc(all);
  }
  if (threadIdx.x == 0) {
    spans[blockIdx.x * 2] = begin;
    spans[blockIdx.x * 2 + 1] = count;
  }
}

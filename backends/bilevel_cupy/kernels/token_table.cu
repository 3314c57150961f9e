// Which tokens a region has: all that the other kernels know of axes.

constexpr int AXES = 8;

// How the tokens of some axes split into regions.
struct Axes {
  int count;
  int tokens[AXES], regions[AXES];
};

// Where a region of an axis begins, also where the product does not fit 32 bits.
__device__ inline int begin_of(int region, int tokens, int regions) {
  return static_cast<long long>(region) * tokens / regions;
}

// table (regions, region_tokens): the token at each position of each region, counted in row-major
// order; -1 where the region has none. A thread finds one.
__global__ void write_token_table(int* table, const Axes axes, const int regions,
                                  const int region_tokens) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= regions * region_tokens) return;
  int region = i / region_tokens, position = i % region_tokens, token = 0, stride = 1;
  for (int axis = axes.count - 1; axis >= 0; axis--) {
    const int n = axes.tokens[axis], s = axes.regions[axis], size = (n + s - 1) / s;
    const int at = begin_of(region % s, n, s) + position % size;
    if (at >= begin_of(region % s + 1, n, s)) token = -1;
    if (token >= 0) token += at * stride;
    region /= s, position /= size, stride *= n;
  }
  table[i] = token;
}

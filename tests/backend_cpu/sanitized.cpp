// Calls of the kernel on arrays that end where their memory ends, for the sanitizers of addresses,
// of undefined behaviour and of threads: see sanitized.py. It checks that any number of threads
// gives the same bits.
#include <array>
#include <cstdio>
#include <memory>
#include <random>

#include "attention.cpp"

struct Array {
  std::vector<int64_t> shape;
  std::unique_ptr<Stored[]> data;

  explicit Array(std::vector<int64_t> shape) : shape(shape), data(new Stored[size()]()) {}
  int64_t size() const {
    int64_t product = 1;
    for (int64_t n : shape) product *= n;
    return product;
  }
  // Channels may come before the tokens in memory.
  Map map(bool channels_first) const {
    auto [n, z, y, x, m, d] = std::array<int64_t, 6>{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};
    (void)n;
    if (channels_first) return {data.get(), m * d * z * y * x, {y * x, x, 1}, d * z * y * x, z * y * x};
    return {data.get(), z * y * x * m * d, {y * x * m * d, x * m * d, m * d}, d, 1};
  }
};

static bool same(const Array& a, const Array& b) { return !memcmp(a.data.get(), b.data.get(), a.size() * sizeof(Stored)); }

struct Outputs {
  Array out, d_q, d_k, d_v;
  std::vector<Real> lse;
};

static Outputs compute(Call call, const Array& q, const Array& k, const Array& v, const Array& d_out, int64_t threads) {
  auto shape = q.shape;
  shape.back() = call.value_dim;
  Outputs found{Array(shape), Array(q.shape), Array(k.shape), Array(v.shape), std::vector<Real>(q.size() / call.head_dim)};
  call.out = found.out.map(false), call.d_out = d_out.map(true);
  call.d_q = found.d_q.map(false), call.d_k = found.d_k.map(false), call.d_v = found.d_v.map(true);
  int64_t m = call.heads, x = shape[3], y = shape[2], z = shape[1];
  call.lse = {found.lse.data(), z * y * x * m, {y * x * m, x * m, m}, 1, 1};
  if (bilevel_forward(&call, nullptr, threads) || bilevel_backward(&call, nullptr, threads)) std::abort();
  return found;
}

static void one_call(std::mt19937& random) {
  auto number = [&](int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(random); };
  auto grid = [&](bool small) {
    Grid found;
    for (int a = 0; a < AXES; a++) {
      found.regions[a] = number(1, 3);
      found.tokens[a] = found.regions[a] * number(1, small ? 1 + (a > 0) : 6) + (small ? 0 : number(0, found.regions[a] - 1));
    }
    return found;
  };
  bool small = number(0, 1);
  Call call{};
  call.q_grid = grid(small), call.k_grid = grid(small);
  call.images = number(1, 2), call.heads = number(1, 2), call.head_dim = number(1, 40), call.value_dim = number(1, 40);
  call.topk = number(1, call.k_grid.num_regions()), call.scale = 0.3;
  auto array = [&](const Grid& g, int64_t channels) {
    Array found({call.images, g.tokens[0], g.tokens[1], g.tokens[2], call.heads, channels});
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < found.size(); i++) from_real(found.data[i], normal(random));
    return found;
  };
  Array q = array(call.q_grid, call.head_dim), k = array(call.k_grid, call.head_dim);
  Array v = array(call.k_grid, call.value_dim), d_out = array(call.q_grid, call.value_dim);
  bool first = number(0, 1);
  call.q = q.map(first), call.k = k.map(!first), call.v = v.map(first);
  std::vector<int64_t> index(call.images * call.q_grid.num_regions() * call.topk);
  std::vector<Real> score(index.size());
  if (bilevel_routes(&call, index.data(), score.data(), nullptr, 3)) std::abort();
  call.index = index.data();
  Outputs one = compute(call, q, k, v, d_out, 1), many = compute(call, q, k, v, d_out, 6);
  bool all = same(one.out, many.out) && same(one.d_q, many.d_q) && same(one.d_k, many.d_k) && same(one.d_v, many.d_v);
  if (!all || one.lse != many.lse) std::abort();
}

int main(int, char** arguments) {
  std::mt19937 random(7);
  int calls = std::atoi(arguments[1]);
  for (int i = 0; i < calls; i++) one_call(random);
  std::printf("%d calls\n", calls);
}

// Maps of tokens in memory, their regions, and rows of them packed for the tiles.
#pragma once
#include <cstdlib>
#include <new>
#include <vector>

#include "vectors.h"

constexpr int AXES = 3;

// (N, *spatial, M, D), by strides in numbers; axes that are not there come first, of one token.
struct Map {
  void* data;
  int64_t image, axis[AXES], head, channel;

  template <class T>
  T* at(int64_t i, int64_t m) const { return static_cast<T*>(data) + i * image + m * head; }
};

struct Grid {
  int64_t tokens[AXES], regions[AXES];

  int64_t num_tokens() const { return tokens[0] * tokens[1] * tokens[2]; }
  int64_t num_regions() const { return regions[0] * regions[1] * regions[2]; }
  // The most tokens of a region.
  int64_t region_tokens() const {
    int64_t product = 1;
    for (int a = 0; a < AXES; a++) product *= (tokens[a] + regions[a] - 1) / regions[a];
    return product;
  }
};

// Calls for each region, in row-major order, `each(first, size)` with its tokens on the axes.
template <class Each>
void each_region(const Grid& grid, Each each) {
  int64_t first[AXES], size[AXES];
  for (int64_t r = 0; r < grid.num_regions(); r++) {
    int64_t rest = r;
    for (int a = AXES - 1; a >= 0; a--) {
      int64_t n = grid.tokens[a], s = grid.regions[a], i = rest % s;
      rest /= s;
      first[a] = i * n / s;
      size[a] = (i + 1) * n / s - first[a];
    }
    each(first, size);
  }
}

// Where the tokens of each region begin, if all are counted region by region; at last their number.
inline std::vector<int64_t> region_starts(const Grid& grid) {
  std::vector<int64_t> starts{0};
  each_region(grid, [&](const int64_t*, const int64_t* size) {
    starts.push_back(starts.back() + size[0] * size[1] * size[2]);
  });
  return starts;
}

// Where a map has its tokens, counted region by region.
inline std::vector<int64_t> places(const Map& map, const Grid& grid) {
  std::vector<int64_t> found;
  found.reserve(grid.num_tokens());
  each_region(grid, [&](const int64_t* first, const int64_t* size) {
    for (int64_t z = first[0]; z < first[0] + size[0]; z++)
      for (int64_t y = first[1]; y < first[1] + size[1]; y++)
        for (int64_t x = first[2]; x < first[2] + size[2]; x++)
          found.push_back(z * map.axis[0] + y * map.axis[1] + x * map.axis[2]);
  });
  return found;
}

// Memory of one thread, whose pieces start where vectors do.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { for (void* block : blocks) std::free(block); }

  template <class T>
  T* take(int64_t n) {
    size_t bytes = (size_t(n > 0 ? n : 1) * sizeof(T) + 63) / 64 * 64;
    blocks.reserve(blocks.size() + 1);
    void* block = std::aligned_alloc(64, bytes);
    if (!block) throw std::bad_alloc();
    blocks.push_back(block);
    return static_cast<T*>(block);
  }

 private:
  std::vector<void*> blocks;
};

constexpr int64_t padded(int64_t n, int64_t to = LANES) { return (n + to - 1) / to * to; }

// A token's channels to numbers one after the other, times a factor; zeros up to `width`.
INLINE void pack_row(Real* __restrict to, const Stored* __restrict from, int64_t channels, int64_t stride,
                     int64_t width, Real factor = 1) {
  int64_t d = 0;
  if (stride == 1) {
    if constexpr (std::is_same_v<Stored, Real>)
      for (; d + LANES <= channels; d += LANES) store((Real*)(to + d), load((const Real*)(from + d)) * factor);
    for (; d < channels; d++) to[d] = to_real(from[d]) * factor;
  }
  for (; d < channels; d++) to[d] = to_real(from[d * stride]) * factor;
  for (; d < width; d++) to[d] = 0;
}

INLINE void unpack_row(Stored* __restrict to, const Real* __restrict from, int64_t channels, int64_t stride,
                       Real factor = 1) {
  int64_t d = 0;
  if (stride == 1) {
    if constexpr (std::is_same_v<Stored, Real>)
      for (; d + LANES <= channels; d += LANES) store((Real*)(to + d), load((const Real*)(from + d)) * factor);
    for (; d < channels; d++) from_real(to[d], from[d] * factor);
  }
  for (; d < channels; d++) from_real(to[d * stride], from[d] * factor);
}

// A map's rows of some tokens; those of the next head, which are likely to be wanted soon, meanwhile
// come nearer.
INLINE void pack_rows(Real* to, const Map& map, int64_t image, int64_t head, const int64_t* tokens, int64_t n,
                      int64_t channels, int64_t width, Real factor = 1) {
  const Stored* from = map.at<Stored>(image, head);
  for (int64_t i = 0; i < n; i++) {
    const Stored* row = from + tokens[i];
    for (int64_t line = 0; line < channels * int64_t(sizeof(Stored)); line += 64)
      __builtin_prefetch((const char*)(row + map.head) + line);
    pack_row(to + i * width, row, channels, map.channel, width, factor);
  }
}

// Rows (rows, width) to columns (width, ld), zeros beyond the rows, up to whole vectors.
static void transpose_rows(Real* to, int64_t ld, const Real* from, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; i += LANES)
    for (int64_t d = 0; d < width; d += LANES) {
      Vector square[LANES];
      for (int l = 0; l < LANES; l++) square[l] = i + l < rows ? load(from + (i + l) * width + d) : Vector{};
      transpose(square);
      for (int l = 0; l < LANES; l++) store(to + (d + l) * ld + i, square[l]);
    }
}

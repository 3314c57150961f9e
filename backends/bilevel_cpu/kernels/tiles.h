// The two products that all else is made of, a tile at a time in registers.
#pragma once
#include "maps.h"

// Numbers from one row to the next; WIDTH is their number where it is known, else 0.
template <int WIDTH>
struct Stride {
  int64_t given;
  INLINE_METHOD int64_t operator()() const { return WIDTH ? WIDTH : given; }
};

// Calls with a stride that the compiler knows, if it is that of BiFormer's heads, of 32 channels.
template <class Body>
INLINE void with_stride(int64_t width, Body body) {
  if (width == 32)
    body(Stride<32>{width});
  else
    body(Stride<0>{width});
}

// scores[j][q] = sum over d of rows[j][d] * columns[d][q]: lanes are queries.
template <int ROWS, int VECTORS, int LD, class Width>
INLINE void scores_tile(Real* scores, const Real* columns, const Real* rows, int64_t depth, Width width) {
  Vector sum[ROWS][VECTORS] = {};
  for (int64_t d = 0; d < depth; d++) {
    Vector column[VECTORS];
    for (int c = 0; c < VECTORS; c++) column[c] = load(columns + d * LD + c * LANES);
    for (int j = 0; j < ROWS; j++) {
      Vector x = broadcast(rows[j * width() + d]);
      for (int c = 0; c < VECTORS; c++) sum[j][c] += x * column[c];
    }
  }
  for (int j = 0; j < ROWS; j++)
    for (int c = 0; c < VECTORS; c++) store(scores + j * LD + c * LANES, sum[j][c]);
}

template <int VECTORS, int LD, class Width>
INLINE void scores_columns(Real* scores, const Real* columns, const Real* rows, int64_t n, int64_t depth, Width width) {
  constexpr int ROWS = MANY_REGISTERS ? (VECTORS == 4 ? 6 : 8) : 4;
  int64_t j = 0;
  for (; j + ROWS <= n; j += ROWS)
    scores_tile<ROWS, VECTORS, LD>(scores + j * LD, columns, rows + j * width(), depth, width);
  for (; j < n; j++) scores_tile<1, VECTORS, LD>(scores + j * LD, columns, rows + j * width(), depth, width);
}

// For `n` rows and so many lanes, in whole vectors; scores and columns are LD apart.
template <int LD>
static void scores_of(Real* scores, const Real* columns, const Real* rows, int64_t n, int64_t lanes, int64_t depth, int64_t width) {
  constexpr int MOST = MANY_REGISTERS ? 4 : 2;
  with_stride(width, [&](auto stride) {
    int64_t q = 0;
    for (; q + MOST * LANES <= lanes; q += MOST * LANES)
      scores_columns<MOST, LD>(scores + q, columns + q, rows, n, depth, stride);
    for (; MOST > 2 && q + 2 * LANES <= lanes; q += 2 * LANES)
      scores_columns<2, LD>(scores + q, columns + q, rows, n, depth, stride);
    for (; q < lanes; q += LANES) scores_columns<1, LD>(scores + q, columns + q, rows, n, depth, stride);
  });
}

// sums[i][c] += sum over j of factors[i * ROW + j * INNER] * x[j][c]: lanes are channels.
template <int ROWS, int VECTORS, int ROW, int INNER, class Width>
INLINE void sums_tile(Real* sums, const Real* factors, const Real* x, int64_t inner, Width width) {
  Vector sum[ROWS][VECTORS];
  for (int i = 0; i < ROWS; i++)
    for (int c = 0; c < VECTORS; c++) sum[i][c] = load(sums + i * width() + c * LANES);
  for (int64_t j = 0; j < inner; j++) {
    Vector row[VECTORS];
    for (int c = 0; c < VECTORS; c++) row[c] = load(x + j * width() + c * LANES);
    for (int i = 0; i < ROWS; i++) {
      Vector factor = broadcast(factors[i * ROW + j * INNER]);
      for (int c = 0; c < VECTORS; c++) sum[i][c] += factor * row[c];
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int c = 0; c < VECTORS; c++) store(sums + i * width() + c * LANES, sum[i][c]);
}

template <int VECTORS, int ROW, int INNER, class Width>
INLINE void sums_columns(Real* sums, const Real* factors, const Real* x, int64_t rows, int64_t inner, Width width) {
  constexpr int ROWS = MANY_REGISTERS ? 8 : 4;
  int64_t i = 0;
  for (; i + ROWS <= rows; i += ROWS)
    sums_tile<ROWS, VECTORS, ROW, INNER>(sums + i * width(), factors + i * ROW, x, inner, width);
  for (; i < rows; i++) sums_tile<1, VECTORS, ROW, INNER>(sums + i * width(), factors + i * ROW, x, inner, width);
}

// For so many rows, of `width` channels in whole vectors.
template <int ROW, int INNER>
static void sums_of(Real* sums, const Real* factors, const Real* x, int64_t rows, int64_t inner, int64_t width) {
  with_stride(width, [&](auto stride) {
    int64_t c = 0;
    for (; c + 2 * LANES <= width; c += 2 * LANES)
      sums_columns<2, ROW, INNER>(sums + c, factors, x + c, rows, inner, stride);
    for (; c < width; c += LANES) sums_columns<1, ROW, INNER>(sums + c, factors, x + c, rows, inner, stride);
  });
}

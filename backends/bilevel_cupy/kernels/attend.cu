// The forward pass: routed attention that reads keys and values where they are. Online softmax, in
// powers of two.

template <class Number, int BLOCKS, int COLUMNS>
struct Softmax {
  Number top[2], total[2];  // of two rows; `total` of this lane's columns

  __device__ Softmax() {
    for (int r = 0; r < 2; r++) top[r] = -infinity<Number>(), total[r] = 0;
  }

  // Scores to weights; what was computed before decays.
  __device__ void weigh(Number (&scores)[COLUMNS][4], Number (&acc)[BLOCKS][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      Number highest = top[r];
#pragma unroll
      for (int c = 0; c < COLUMNS; c++)
        highest = larger(highest, larger(scores[c][2 * r], scores[c][2 * r + 1]));
      highest = largest_of_row(highest);
      // A query may have no key in this tile.
      const Number shift = highest == -infinity<Number>() ? Number(0) : highest;
      const Number decay = power_of_2(top[r] - shift);
      top[r] = highest;
      total[r] *= decay;
#pragma unroll
      for (int c = 0; c < COLUMNS; c++)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) {
          scores[c][i] = power_of_2(scores[c][i] - shift);
          total[r] += scores[c][i];
        }
#pragma unroll
      for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) acc[b][i] *= decay;
    }
  }
};

// Products to scores: those of pairs, and -inf. A value that was spoilt makes NaN of its scores.
template <class Number, int COLUMNS>
__device__ inline void score(Number (&scores)[COLUMNS][4], const Pairs& pair, Number scale,
                             const Number* spoilt) {
#pragma unroll
  for (int c = 0; c < COLUMNS; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = column_of(c, i);
      const Number found = scores[c][i] * scale + (spoilt ? spoilt[column] : Number(0));
      scores[c][i] = pair(column, i) ? found : -infinity<Number>();
    }
}

// out (N, *spatial, M, Dv) and lse (N, M, tokens), the logarithm to base 2 of the softmax's
// denominator. A block computes a tile of queries and one head.
template <class T, int CHANNELS, int ROWS>
__global__ void __launch_bounds__(128)
    attend(const T* q, const T* k, const T* v, T* out, Sum<T>* lse, const int* q_table,
           const int* k_table, const int* regions, const unsigned* members, const int* spans,
           const Call call) {
  using S = Sum<T>;
  constexpr int BLOCKS = CHANNELS / 8, COLUMNS = ROWS / 8;
  const Tile tile(call, call.queries);
  const int first = threadIdx.x / 32 * 16;
  Memory memory;
  const auto queries = memory.rows<T, CHANNELS>(Tile::lanes());
  int* const tokens = memory.take<int>(Tile::lanes());
  S* const spoilt = memory.take<S>(ROWS);
  int* const flag = memory.take<int>(1);
  const Walk<T, CHANNELS, ROWS> walk(
      memory, route_of_queries(call, tile, regions, members, spans), call.keys, k_table,
      tile.of(k, call.k), call.k, tile.of(v, call.v), call.v);

  if (threadIdx.x == 0) *flag = 0;
  tile.list(tokens, call, call.queries, q_table);
  queries.fetch(tile.of(q, call.q), call.q, tokens, Tile::lanes());

  Pairs pair(tile, call, call.queries);
  const S scale = call.scale * LOG2_E;
  S acc[BLOCKS][4];
  Softmax<S, BLOCKS, COLUMNS> softmax;
#pragma unroll 1
  for (int careful = 0; careful < 2; careful++) {
    fill_zero(acc);
    softmax = {};
    walk.begin();
    for (int step = 0; step < walk.steps; step++) {
      walk.step(step);
      const auto values = walk.second(step);
      if (careful) {
        values.clean(spoilt, ROWS);
        __syncthreads();
      }
      S scores[COLUMNS][4];
      fill_zero(scores);
      Products<T>::add_transposed(scores, queries, first, walk.first(step));
      pair.routed = walk.routed_of(step);
      score(scores, pair, scale, careful ? spoilt : nullptr);
      softmax.weigh(scores, acc);
      Products<T>::add(acc, scores, values);
      walk.look_up(step + 2);
    }
    if (settled(careful, call, flag, acc)) break;
  }

  for (int r = 0; r < 2; r++) {
    const S total = sum_of_row(softmax.total[r]);
    for (int b = 0; b < BLOCKS; b++) acc[b][2 * r] /= total, acc[b][2 * r + 1] /= total;
    const int token = tokens[first + row_of(2 * r)];
    if (token >= 0 && threadIdx.x % 4 == 0)
      lse[tile.row(call, call.queries) + token] = softmax.top[r] + logarithm_to_2(total);
  }
  write_rows<T>(queries, first, acc);
  __syncwarp();
  queries.store(tile.of(out, call.out), call.out, tokens, first);
}

// The gradients of keys and values walk over the query regions that were routed to a key region, so
// that no two blocks add to one number.

// Products of keys and queries, and of values and d_out, to weights and to the gradients of scores. A
// row of d_out that was spoilt makes NaN of its weights.
template <class Number, int COLUMNS>
__device__ inline void differentiate(Number (&weights)[COLUMNS][4], Number (&d_scores)[COLUMNS][4],
                                     const Pairs& pair, Number scale, const Number* logsum,
                                     const Number* of_row, const Number* spoilt) {
#pragma unroll
  for (int c = 0; c < COLUMNS; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = column_of(c, i);
      const bool routed = pair(column, i);
      const Number weight = power_of_2(weights[c][i] * scale - logsum[column]);
      d_scores[c][i] = routed ? weight * (d_scores[c][i] - of_row[column]) : Number(0);
      weights[c][i] = routed ? weight + (spoilt ? spoilt[column] : Number(0)) : Number(0);
    }
}

// Of the tokens that are walked over now: their numbers of two arrays (tokens,).
template <class Number>
__device__ inline void look_up(const int* tokens, int count, const Number* lse, Number* logsum,
                               const Number* delta, Number* of_row) {
  for (int lane = threadIdx.x; lane < count; lane += blockDim.x) {
    logsum[lane] = tokens[lane] >= 0 ? lse[tokens[lane]] : Number(0);
    of_row[lane] = tokens[lane] >= 0 ? delta[tokens[lane]] : Number(0);
  }
}

// d_k like k and d_v like v, or one of them. A block computes a tile of keys and one head.
template <class T, int CHANNELS, int ROWS, bool OF_KEYS, bool OF_VALUES>
__global__ void __launch_bounds__(128, CHANNELS == 128)
    gradient_of_keys(const T* q, const T* k, const T* v, const T* d_out, const Sum<T>* lse,
                     const Sum<T>* delta, T* d_k, T* d_v, const int* q_table, const int* k_table,
                     const int* regions, const unsigned* members, const int* spans,
                     const Call call) {
  using S = Sum<T>;
  constexpr int BLOCKS = CHANNELS / 8, COLUMNS = ROWS / 8;
  const Tile tile(call, call.keys);
  const int first = threadIdx.x / 32 * 16;
  Memory memory;
  const auto keys = memory.rows<T, CHANNELS>(Tile::lanes());
  const auto values = memory.rows<T, CHANNELS>(Tile::lanes());
  int* const tokens = memory.take<int>(Tile::lanes());
  S* const spoilt = memory.take<S>(ROWS);
  S* const logsum = memory.take<S>(ROWS);
  S* const of_row = memory.take<S>(ROWS);
  int* const flag = memory.take<int>(1);
  const Walk<T, CHANNELS, ROWS> walk(
      memory, route_of_keys(call, tile, regions, members, spans), call.queries, q_table,
      tile.of(q, call.q), call.q, tile.of(d_out, call.d_out), call.d_out);

  if (threadIdx.x == 0) *flag = 0;
  tile.list(tokens, call, call.keys, k_table);
  keys.fetch(tile.of(k, call.k), call.k, tokens, Tile::lanes());
  values.fetch(tile.of(v, call.v), call.v, tokens, Tile::lanes());

  Pairs pair(tile, call, call.keys);
  const long long row = tile.row(call, call.queries);
  const S scale = call.scale * LOG2_E;
  S acc_k[BLOCKS][4], acc_v[BLOCKS][4];
#pragma unroll 1
  for (int careful = 0; careful < 2; careful++) {
    fill_zero(acc_k);
    fill_zero(acc_v);
    walk.begin();
    for (int step = 0; step < walk.steps; step++) {
      walk.step(step);
      look_up(walk.tokens_of(step), ROWS, lse + row, logsum, delta + row, of_row);
      __syncthreads();
      S weights[COLUMNS][4], d_scores[COLUMNS][4];
      fill_zero(weights);
      fill_zero(d_scores);
      Products<T>::add_transposed(weights, keys, first, walk.first(step));
      Products<T>::add_transposed(d_scores, values, first, walk.second(step));
      if (careful) {
        __syncthreads();
        walk.first(step).clean(spoilt, ROWS);
        walk.second(step).clean(spoilt, ROWS);  // of which it is told then
        __syncthreads();
      }
      pair.routed = walk.routed_of(step);
      differentiate(weights, d_scores, pair, scale, logsum, of_row, careful ? spoilt : nullptr);
      if (OF_VALUES) Products<T>::add(acc_v, weights, walk.second(step));
      if (OF_KEYS) Products<T>::add(acc_k, d_scores, walk.first(step));
      walk.look_up(step + 2);
    }
    if (settled(careful, call, flag, acc_k, acc_v)) break;
  }

  if (OF_KEYS) {
    multiply(acc_k, S(call.scale));
    write_rows<T>(keys, first, acc_k);
    __syncwarp();
    keys.store(tile.of(d_k, call.d_k), call.d_k, tokens, first);
  }
  if (OF_VALUES) {
    write_rows<T>(values, first, acc_v);
    __syncwarp();
    values.store(tile.of(d_v, call.d_v), call.d_v, tokens, first);
  }
}

// The backward pass: weights are computed again from queries, keys and lse. The gradient of queries
// walks over key regions, as the forward pass does; those of keys and values walk over the query
// regions that were routed to them, so that no two blocks add to one number.

// d_q like q, and delta (N, M, tokens), the sum of out * d_out over the channels, which the other
// kernel needs. A block computes a tile of queries and one head.
template <class T, int CHANNELS, int ROWS>
__global__ void __launch_bounds__(128, CHANNELS == 128)
    gradient_of_queries(const T* q, const T* k, const T* v, const T* out, const T* d_out,
                        const Sum<T>* lse, Sum<T>* delta, T* d_q, const int* q_table,
                        const int* k_table, const int* regions, const unsigned* members,
                        const int* spans, const Call call) {
  using S = Sum<T>;
  constexpr int BLOCKS = CHANNELS / 8, COLUMNS = ROWS / 8;
  const Tile tile(call, call.queries);
  const int first = threadIdx.x / 32 * 16;
  Memory memory;
  const auto queries = memory.rows<T, CHANNELS>(Tile::lanes());
  const auto d_rows = memory.rows<T, CHANNELS>(Tile::lanes());
  int* const tokens = memory.take<int>(Tile::lanes());
  S* const spoilt = memory.take<S>(ROWS);
  int* const flag = memory.take<int>(1);
  const Walk<T, CHANNELS, ROWS> walk(
      memory, route_of_queries(call, tile, regions, members, spans), call.keys, k_table,
      tile.of(k, call.k), call.k, tile.of(v, call.v), call.v);

  if (threadIdx.x == 0) *flag = 0;
  for (int lane = threadIdx.x; lane < Tile::lanes(); lane += blockDim.x)
    tokens[lane] = tile.token(lane, call, call.queries, q_table);
  __syncthreads();
  queries.fetch(tile.of(q, call.q), call.q, tokens, Tile::lanes());
  d_rows.fetch(tile.of(d_out, call.d_out), call.d_out, tokens, Tile::lanes());
  await_copies<0>();
  __syncthreads();

  int slots[2];
  S of_row[2], logsum[2];
  for (int r = 0; r < 2; r++) {
    const int lane = first + row_of(2 * r), token = tokens[lane];
    slots[r] = tile.slot(lane, call, call.queries);
    const long long row = tile.row(call, call.queries) + token;
    S sum = 0;
    for (int channel = threadIdx.x % 4; token >= 0 && channel < call.out.channels; channel += 4)
      sum += widened(tile.of(out, call.out)[token * call.out.token + channel * call.out.channel]) *
             widened(d_rows.row(lane)[channel]);
    of_row[r] = sum_of_row(sum);
    logsum[r] = token >= 0 ? lse[row] : S(0);
    if (token >= 0 && threadIdx.x % 4 == 0) delta[row] = of_row[r];
  }

  const S scale = call.scale * LOG2_E;
  S acc[BLOCKS][4];
  for (bool careful = false;; careful = true) {
    fill_zero(acc);
    walk.begin();
    for (int step = 0; step < walk.steps; step++) {
      walk.step(step);
      S weights[COLUMNS][4], d_weights[COLUMNS][4];
      fill_zero(weights);
      fill_zero(d_weights);
      Products<T>::add_transposed(weights, queries, first, walk.first(step));
      Products<T>::add_transposed(d_weights, d_rows, first, walk.second(step));
      const unsigned* routed = walk.routed_of(step);
#pragma unroll
      for (int c = 0; c < COLUMNS; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const S weight = power_of_2(weights[c][i] * scale - logsum[i / 2]);
          const bool pair = routed[column_of(c, i)] >> slots[i / 2] & 1;
          weights[c][i] = pair ? weight * (d_weights[c][i] - of_row[i / 2]) : S(0);
        }
      if (careful) {
        __syncthreads();
        walk.first(step).clean(spoilt, ROWS);
        __syncthreads();
      }
      Products<T>::add(acc, weights, walk.first(step));
      walk.look_up(step + 2);
    }
    __syncthreads();
    if (careful || call.group == 1) break;
    flag_if_not_finite(flag, acc);
    __syncthreads();
    if (!*flag) break;
  }

  for (int b = 0; b < BLOCKS; b++)
    for (int i = 0; i < 4; i++) acc[b][i] *= S(call.scale);
  write_rows<T>(queries, first, acc);
  __syncwarp();
  queries.store(tile.of(d_q, call.d_q), call.d_q, tokens, first);
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
  for (int lane = threadIdx.x; lane < Tile::lanes(); lane += blockDim.x)
    tokens[lane] = tile.token(lane, call, call.keys, k_table);
  __syncthreads();
  keys.fetch(tile.of(k, call.k), call.k, tokens, Tile::lanes());
  values.fetch(tile.of(v, call.v), call.v, tokens, Tile::lanes());

  const int slots[2] = {tile.slot(first + row_of(0), call, call.keys),
                        tile.slot(first + row_of(2), call, call.keys)};
  const long long row = tile.row(call, call.queries);
  const S scale = call.scale * LOG2_E;
  S acc_k[BLOCKS][4], acc_v[BLOCKS][4];
  for (bool careful = false;; careful = true) {
    fill_zero(acc_k);
    fill_zero(acc_v);
    walk.begin();
    for (int step = 0; step < walk.steps; step++) {
      walk.step(step);
      for (int lane = threadIdx.x; lane < ROWS; lane += blockDim.x) {
        const int token = walk.tokens_of(step)[lane];
        logsum[lane] = token >= 0 ? lse[row + token] : S(0);
        of_row[lane] = token >= 0 ? delta[row + token] : S(0);
      }
      __syncthreads();
      S weights[COLUMNS][4], d_weights[COLUMNS][4];
      fill_zero(weights);
      fill_zero(d_weights);
      Products<T>::add_transposed(weights, keys, first, walk.first(step));
      Products<T>::add_transposed(d_weights, values, first, walk.second(step));
      if (careful) {
        __syncthreads();
        walk.first(step).clean(spoilt, ROWS);
        walk.second(step).clean(spoilt, ROWS);  // of which it is told then
        __syncthreads();
      }
      const unsigned* routed = walk.routed_of(step);
#pragma unroll
      for (int c = 0; c < COLUMNS; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int column = column_of(c, i);
          const bool pair = routed[column] >> slots[i / 2] & 1;
          const S weight = power_of_2(weights[c][i] * scale - logsum[column]);
          d_weights[c][i] = pair ? weight * (d_weights[c][i] - of_row[column]) : S(0);
          weights[c][i] = pair ? weight + (careful ? spoilt[column] : S(0)) : S(0);
        }
      if (OF_VALUES) Products<T>::add(acc_v, weights, walk.second(step));
      if (OF_KEYS) Products<T>::add(acc_k, d_weights, walk.first(step));
      walk.look_up(step + 2);
    }
    __syncthreads();
    if (careful || call.group == 1) break;
    if (OF_KEYS) flag_if_not_finite(flag, acc_k);
    if (OF_VALUES) flag_if_not_finite(flag, acc_v);
    __syncthreads();
    if (!*flag) break;
  }

  if (OF_KEYS) {
    for (int b = 0; b < BLOCKS; b++)
      for (int i = 0; i < 4; i++) acc_k[b][i] *= S(call.scale);
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

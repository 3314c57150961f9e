// The backward pass: weights are computed again from queries, keys and lse. The gradient of queries
// walks over key regions, as the forward pass does.

// Products of queries and keys, and of d_out and values, to the gradients of scores, into the former.
template <class Number, int COLUMNS>
__device__ inline void differentiate(Number (&scores)[COLUMNS][4],
                                     const Number (&d_weights)[COLUMNS][4], const Pairs& pair,
                                     Number scale, const Number (&logsum)[2],
                                     const Number (&of_row)[2]) {
#pragma unroll
  for (int c = 0; c < COLUMNS; c++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const Number weight = power_of_2(scores[c][i] * scale - logsum[i / 2]);
      const Number gradient = weight * (d_weights[c][i] - of_row[i / 2]);
      scores[c][i] = pair(column_of(c, i), i) ? gradient : Number(0);
    }
}

// The sum of out * d_out over the channels of a lane's token, which four threads share.
template <class T, int CHANNELS>
__device__ inline Sum<T> delta_of(const T* out, const Map& map, Rows<T, CHANNELS> d_rows, int lane,
                                  int token) {
  Sum<T> sum = 0;
  for (int channel = threadIdx.x % 4; token >= 0 && channel < map.channels; channel += 4)
    sum += widened(out[token * map.token + channel * map.channel]) *
           widened(d_rows.row(lane)[channel]);
  return sum_of_row(sum);
}

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
  tile.list(tokens, call, call.queries, q_table);
  queries.fetch(tile.of(q, call.q), call.q, tokens, Tile::lanes());
  d_rows.fetch(tile.of(d_out, call.d_out), call.d_out, tokens, Tile::lanes());
  await_copies<0>();
  __syncthreads();

  S of_row[2], logsum[2];
  for (int r = 0; r < 2; r++) {
    const int lane = first + row_of(2 * r), token = tokens[lane];
    const long long row = tile.row(call, call.queries) + token;
    of_row[r] = delta_of(tile.of(out, call.out), call.out, d_rows, lane, token);
    logsum[r] = token >= 0 ? lse[row] : S(0);
    if (token >= 0 && threadIdx.x % 4 == 0) delta[row] = of_row[r];
  }

  Pairs pair(tile, call, call.queries);
  const S scale = call.scale * LOG2_E;
  S acc[BLOCKS][4];
#pragma unroll 1
  for (int careful = 0; careful < 2; careful++) {
    fill_zero(acc);
    walk.begin();
    for (int step = 0; step < walk.steps; step++) {
      walk.step(step);
      S scores[COLUMNS][4], d_weights[COLUMNS][4];
      fill_zero(scores);
      fill_zero(d_weights);
      Products<T>::add_transposed(scores, queries, first, walk.first(step));
      Products<T>::add_transposed(d_weights, d_rows, first, walk.second(step));
      pair.routed = walk.routed_of(step);
      differentiate(scores, d_weights, pair, scale, logsum, of_row);
      if (careful) {
        __syncthreads();
        walk.first(step).clean(spoilt, ROWS);
        __syncthreads();
      }
      Products<T>::add(acc, scores, walk.first(step));
      walk.look_up(step + 2);
    }
    if (settled(careful, call, flag, acc)) break;
  }

  multiply(acc, S(call.scale));
  write_rows<T>(queries, first, acc);
  __syncwarp();
  queries.store(tile.of(d_q, call.d_q), call.d_q, tokens, first);
}

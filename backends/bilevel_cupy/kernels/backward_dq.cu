// The backward pass for queries: tiles of queries are stationary, keys and values are streamed, as
// in the forward pass. Weights p are computed again from q, k and lse.

// Products q k.T and d_out v.T (dp) to the gradients of scores, ds = p (dp - delta), in place of
// the former.
template <class acc_t, int FRAGMENTS>
__device__ inline void compute_ds(acc_t (&scores)[FRAGMENTS][4], const acc_t (&dp)[FRAGMENTS][4],
                                  const RoutedMask& routed, acc_t scale, const acc_t (&lse_i)[2],
                                  const acc_t (&delta_i)[2]) {
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const acc_t p = exp2_of(scores[f][i] * scale - lse_i[i / 2]);
      const acc_t ds = p * (dp[f][i] - delta_i[i / 2]);
      scores[f][i] = routed(column_of(f, i), i) ? ds : acc_t(0);
    }
}

// delta of a row: the sum of out * d_out over the channels of its token, which four lanes share.
template <class T, int CHANNELS>
__device__ inline Accum<T> delta_of(const T* out, const Layout& layout,
                                    Rows<T, CHANNELS> d_out_rows, int row, int token) {
  Accum<T> sum = 0;
  for (int channel = threadIdx.x % 4; token >= 0 && channel < layout.channels; channel += 4)
    sum += to_accum(out[token * layout.token + channel * layout.channel]) *
           to_accum(d_out_rows.row(row)[channel]);
  return row_sum(sum);
}

// d_q like q, and delta (N, M, tokens), which backward_dkdv needs. A thread block computes a tile
// of queries of one head.
template <class T, int CHANNELS, int STREAMED_ROWS>
__global__ void __launch_bounds__(128, CHANNELS == 128)
    backward_dq(const T* q, const T* k, const T* v, const T* out, const T* d_out,
                const Accum<T>* lse, Accum<T>* delta, T* d_q, const int* q_table,
                const int* k_table, const int* kv_indices, const unsigned* group_masks,
                const int* kv_ranges, const Call call) {
  using acc_t = Accum<T>;
  constexpr int DQ_FRAGMENTS = CHANNELS / 8, SCORE_FRAGMENTS = STREAMED_ROWS / 8;
  const Tile tile(call, call.queries);
  const int warp_row = threadIdx.x / 32 * 16;
  SharedMemory memory;
  const auto queries = memory.rows<T, CHANNELS>(Tile::rows());
  const auto d_out_rows = memory.rows<T, CHANNELS>(Tile::rows());
  int* const tokens = memory.take<int>(Tile::rows());
  acc_t* const row_nan = memory.take<acc_t>(STREAMED_ROWS);
  int* const nonfinite = memory.take<int>(1);
  const Streamed<T, CHANNELS, STREAMED_ROWS> streamed(
      memory, kv_blocks(call, tile, kv_indices, group_masks, kv_ranges), call.keys, k_table,
      tile.of(k, call.k), call.k, tile.of(v, call.v), call.v);

  if (threadIdx.x == 0) *nonfinite = 0;
  tile.list_tokens(tokens, call, call.queries, q_table);
  queries.fetch(tile.of(q, call.q), call.q, tokens, Tile::rows());
  d_out_rows.fetch(tile.of(d_out, call.d_out), call.d_out, tokens, Tile::rows());
  await_copies<0>();
  __syncthreads();

  acc_t delta_i[2], lse_i[2];
  for (int r = 0; r < 2; r++) {
    const int row = warp_row + row_of(2 * r), token = tokens[row];
    const long long at = tile.lse_offset(call, call.queries) + token;
    delta_i[r] = delta_of(tile.of(out, call.out), call.out, d_out_rows, row, token);
    lse_i[r] = token >= 0 ? lse[at] : acc_t(0);
    if (token >= 0 && threadIdx.x % 4 == 0) delta[at] = delta_i[r];
  }

  RoutedMask routed(tile, call, call.queries);
  const acc_t scale = call.scale * LOG2_E;
  acc_t acc[DQ_FRAGMENTS][4];
#pragma unroll 1
  for (int guarded = 0; guarded < 2; guarded++) {
    fill_zero(acc);
    streamed.begin();
    for (int step = 0; step < streamed.steps; step++) {
      streamed.advance(step);
      acc_t scores[SCORE_FRAGMENTS][4], dp[SCORE_FRAGMENTS][4];
      fill_zero(scores);
      fill_zero(dp);
      Products<T>::add_transposed(scores, queries, warp_row, streamed.first(step));
      Products<T>::add_transposed(dp, d_out_rows, warp_row, streamed.second(step));
      routed.group_masks = streamed.group_masks_of(step);
      compute_ds(scores, dp, routed, scale, lse_i, delta_i);
      if (guarded) {
        __syncthreads();
        streamed.first(step).zero_nonfinite(row_nan, STREAMED_ROWS);
        __syncthreads();
      }
      Products<T>::add(acc, scores, streamed.first(step));
      streamed.look_up(step + 2);
    }
    if (stand(guarded, call, nonfinite, acc)) break;
  }

  multiply(acc, acc_t(call.scale));
  write_rows<T>(queries, warp_row, acc);
  __syncwarp();
  queries.store(tile.of(d_q, call.d_q), call.d_q, tokens, warp_row);
}

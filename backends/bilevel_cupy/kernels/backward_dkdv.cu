// The backward pass for keys and values: tiles of them are stationary, and the queries and d_out of
// the regions that were routed to them are streamed, so each sum belongs to one thread block.

// Products k q.T and v d_out.T (dp) to weights p and the gradients of scores, ds = p (dp - delta).
// The weights of a query whose d_out was not finite are NaN.
template <class acc_t, int FRAGMENTS>
__device__ inline void compute_p_and_ds(acc_t (&p)[FRAGMENTS][4], acc_t (&ds)[FRAGMENTS][4],
                                        const RoutedMask& routed, acc_t scale, const acc_t* lse,
                                        const acc_t* delta, const acc_t* row_nan) {
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = column_of(f, i);
      const bool together = routed(column, i);
      const acc_t weight = exp2_of(p[f][i] * scale - lse[column]);
      ds[f][i] = together ? weight * (ds[f][i] - delta[column]) : acc_t(0);
      p[f][i] = together ? weight + (row_nan ? row_nan[column] : acc_t(0)) : acc_t(0);
    }
}

// lse and delta of the streamed rows, from those of all tokens.
template <class acc_t>
__device__ inline void look_up(const int* tokens, int count, const acc_t* lse, acc_t* row_lse,
                               const acc_t* delta, acc_t* row_delta) {
  for (int row = threadIdx.x; row < count; row += blockDim.x) {
    row_lse[row] = tokens[row] >= 0 ? lse[tokens[row]] : acc_t(0);
    row_delta[row] = tokens[row] >= 0 ? delta[tokens[row]] : acc_t(0);
  }
}

// d_k like k and d_v like v, or one of them. A thread block computes a tile of keys of one head.
template <class T, int CHANNELS, int STREAMED_ROWS, bool WITH_DK, bool WITH_DV>
__global__ void __launch_bounds__(128, CHANNELS == 128)
    backward_dkdv(const T* q, const T* k, const T* v, const T* d_out, const Accum<T>* lse,
                  const Accum<T>* delta, T* d_k, T* d_v, const int* q_table, const int* k_table,
                  const int* q_indices, const unsigned* group_masks, const int* q_ranges,
                  const Call call) {
  using acc_t = Accum<T>;
  constexpr int DK_FRAGMENTS = CHANNELS / 8, SCORE_FRAGMENTS = STREAMED_ROWS / 8;
  const Tile tile(call, call.keys);
  const int warp_row = threadIdx.x / 32 * 16;
  SharedMemory memory;
  const auto keys = memory.rows<T, CHANNELS>(Tile::rows());
  const auto values = memory.rows<T, CHANNELS>(Tile::rows());
  int* const tokens = memory.take<int>(Tile::rows());
  acc_t* const row_nan = memory.take<acc_t>(STREAMED_ROWS);
  acc_t* const row_lse = memory.take<acc_t>(STREAMED_ROWS);
  acc_t* const row_delta = memory.take<acc_t>(STREAMED_ROWS);
  int* const nonfinite = memory.take<int>(1);
  const Streamed<T, CHANNELS, STREAMED_ROWS> streamed(
      memory, q_blocks(call, tile, q_indices, group_masks, q_ranges), call.queries, q_table,
      tile.of(q, call.q), call.q, tile.of(d_out, call.d_out), call.d_out);

  if (threadIdx.x == 0) *nonfinite = 0;
  tile.list_tokens(tokens, call, call.keys, k_table);
  keys.fetch(tile.of(k, call.k), call.k, tokens, Tile::rows());
  values.fetch(tile.of(v, call.v), call.v, tokens, Tile::rows());

  RoutedMask routed(tile, call, call.keys);
  const long long lse_offset = tile.lse_offset(call, call.queries);
  const acc_t scale = call.scale * LOG2_E;
  acc_t acc_dk[DK_FRAGMENTS][4], acc_dv[DK_FRAGMENTS][4];
#pragma unroll 1
  for (int guarded = 0; guarded < 2; guarded++) {
    fill_zero(acc_dk);
    fill_zero(acc_dv);
    streamed.begin();
    for (int step = 0; step < streamed.steps; step++) {
      streamed.advance(step);
      look_up(streamed.tokens_of(step), STREAMED_ROWS, lse + lse_offset, row_lse,
              delta + lse_offset, row_delta);
      __syncthreads();
      acc_t p[SCORE_FRAGMENTS][4], ds[SCORE_FRAGMENTS][4];
      fill_zero(p);
      fill_zero(ds);
      Products<T>::add_transposed(p, keys, warp_row, streamed.first(step));
      Products<T>::add_transposed(ds, values, warp_row, streamed.second(step));
      if (guarded) {
        __syncthreads();
        streamed.first(step).zero_nonfinite(row_nan, STREAMED_ROWS);
        streamed.second(step).zero_nonfinite(row_nan, STREAMED_ROWS);  // row_nan is of d_out then
        __syncthreads();
      }
      routed.group_masks = streamed.group_masks_of(step);
      compute_p_and_ds(p, ds, routed, scale, row_lse, row_delta, guarded ? row_nan : nullptr);
      if (WITH_DV) Products<T>::add(acc_dv, p, streamed.second(step));
      if (WITH_DK) Products<T>::add(acc_dk, ds, streamed.first(step));
      streamed.look_up(step + 2);
    }
    if (stand(guarded, call, nonfinite, acc_dk, acc_dv)) break;
  }

  if (WITH_DK) {
    multiply(acc_dk, acc_t(call.scale));
    write_rows<T>(keys, warp_row, acc_dk);
    __syncwarp();
    keys.store(tile.of(d_k, call.d_k), call.d_k, tokens, warp_row);
  }
  if (WITH_DV) {
    write_rows<T>(values, warp_row, acc_dv);
    __syncwarp();
    values.store(tile.of(d_v, call.d_v), call.d_v, tokens, warp_row);
  }
}

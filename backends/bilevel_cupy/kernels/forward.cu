// The forward pass: tiles of queries are stationary, keys and values are streamed. The softmax is
// computed online, in powers of two.

template <class acc_t, int OUT_FRAGMENTS, int SCORE_FRAGMENTS>
struct OnlineSoftmax {
  acc_t m_i[2], l_i[2];  // of this lane's two rows, l_i of its own columns alone

  __device__ OnlineSoftmax() {
    for (int r = 0; r < 2; r++) m_i[r] = -infinity<acc_t>(), l_i[r] = 0;
  }

  // Scores to weights p; what was summed before is rescaled by alpha.
  __device__ void update(acc_t (&scores)[SCORE_FRAGMENTS][4], acc_t (&acc)[OUT_FRAGMENTS][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      acc_t m_new = m_i[r];
#pragma unroll
      for (int f = 0; f < SCORE_FRAGMENTS; f++)
        m_new = max_of(m_new, max_of(scores[f][2 * r], scores[f][2 * r + 1]));
      m_new = row_max(m_new);
      // A query may have had no key yet.
      const acc_t shift = m_new == -infinity<acc_t>() ? acc_t(0) : m_new;
      const acc_t alpha = exp2_of(m_i[r] - shift);
      m_i[r] = m_new;
      l_i[r] *= alpha;
#pragma unroll
      for (int f = 0; f < SCORE_FRAGMENTS; f++)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) {
          scores[f][i] = exp2_of(scores[f][i] - shift);
          l_i[r] += scores[f][i];
        }
#pragma unroll
      for (int f = 0; f < OUT_FRAGMENTS; f++)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; i++) acc[f][i] *= alpha;
    }
  }
};

// Products q k.T to scores: scaled, -inf where not routed, and NaN where a value was not finite.
template <class acc_t, int FRAGMENTS>
__device__ inline void scale_and_mask(acc_t (&scores)[FRAGMENTS][4], const RoutedMask& routed,
                                      acc_t scale, const acc_t* row_nan) {
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int column = column_of(f, i);
      const acc_t score = scores[f][i] * scale + (row_nan ? row_nan[column] : acc_t(0));
      scores[f][i] = routed(column, i) ? score : -infinity<acc_t>();
    }
}

// out (N, *spatial, M, Dv) and lse (N, M, tokens), the logarithm to base 2 of the softmax's
// denominator. A thread block computes a tile of queries of one head.
template <class T, int CHANNELS, int STREAMED_ROWS>
__global__ void __launch_bounds__(128)
    forward(const T* q, const T* k, const T* v, T* out, Accum<T>* lse, const int* q_table,
            const int* k_table, const int* kv_indices, const unsigned* group_masks,
            const int* kv_ranges, const Call call) {
  using acc_t = Accum<T>;
  constexpr int OUT_FRAGMENTS = CHANNELS / 8, SCORE_FRAGMENTS = STREAMED_ROWS / 8;
  const Tile tile(call, call.queries);
  const int warp_row = threadIdx.x / 32 * 16;
  SharedMemory memory;
  const auto queries = memory.rows<T, CHANNELS>(Tile::rows());
  int* const tokens = memory.take<int>(Tile::rows());
  acc_t* const row_nan = memory.take<acc_t>(STREAMED_ROWS);
  int* const nonfinite = memory.take<int>(1);
  const Streamed<T, CHANNELS, STREAMED_ROWS> streamed(
      memory, kv_blocks(call, tile, kv_indices, group_masks, kv_ranges), call.keys, k_table,
      tile.of(k, call.k), call.k, tile.of(v, call.v), call.v);

  if (threadIdx.x == 0) *nonfinite = 0;
  tile.list_tokens(tokens, call, call.queries, q_table);
  queries.fetch(tile.of(q, call.q), call.q, tokens, Tile::rows());

  RoutedMask routed(tile, call, call.queries);
  const acc_t scale = call.scale * LOG2_E;
  acc_t acc[OUT_FRAGMENTS][4];
  OnlineSoftmax<acc_t, OUT_FRAGMENTS, SCORE_FRAGMENTS> softmax;
#pragma unroll 1
  for (int guarded = 0; guarded < 2; guarded++) {
    fill_zero(acc);
    softmax = {};
    streamed.begin();
    for (int step = 0; step < streamed.steps; step++) {
      streamed.advance(step);
      const auto values = streamed.second(step);
      if (guarded) {
        values.zero_nonfinite(row_nan, STREAMED_ROWS);
        __syncthreads();
      }
      acc_t scores[SCORE_FRAGMENTS][4];
      fill_zero(scores);
      Products<T>::add_transposed(scores, queries, warp_row, streamed.first(step));
      routed.group_masks = streamed.group_masks_of(step);
      scale_and_mask(scores, routed, scale, guarded ? row_nan : nullptr);
      softmax.update(scores, acc);
      Products<T>::add(acc, scores, values);
      streamed.look_up(step + 2);
    }
    if (stand(guarded, call, nonfinite, acc)) break;
  }

  for (int r = 0; r < 2; r++) {
    const acc_t l_i = row_sum(softmax.l_i[r]);
    for (int f = 0; f < OUT_FRAGMENTS; f++) acc[f][2 * r] /= l_i, acc[f][2 * r + 1] /= l_i;
    const int token = tokens[warp_row + row_of(2 * r)];
    if (token >= 0 && threadIdx.x % 4 == 0)
      lse[tile.lse_offset(call, call.queries) + token] = softmax.m_i[r] + log2_of(l_i);
  }
  write_rows<T>(queries, warp_row, acc);
  __syncwarp();
  queries.store(tile.of(out, call.out), call.out, tokens, warp_row);
}

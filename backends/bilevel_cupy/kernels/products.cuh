// Products of matrices by a warp, in fragments: results of 16 rows and 8 columns, four elements in
// each lane. Lane l has rows l / 4 (elements 0 and 1) and l / 4 + 8 (2 and 3) and columns
// 2 * (l % 4) (0 and 2) and the next (1 and 3). A result has some fragments side by side. By tensor
// cores for numbers of 16 bits, else by plain sums.

__device__ inline int row_of(int element) { return threadIdx.x % 32 / 4 + element / 2 * 8; }
__device__ inline int column_of(int fragment, int element) {
  return fragment * 8 + threadIdx.x % 4 * 2 + element % 2;
}

template <class acc_t, int FRAGMENTS>
__device__ inline void fill_zero(acc_t (&c)[FRAGMENTS][4]) {
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int i = 0; i < 4; i++) c[f][i] = 0;
}

__device__ inline unsigned packed(float x, float y, __half) {
  const __half2 both = __floats2half2_rn(x, y);
  return *reinterpret_cast<const unsigned*>(&both);
}

__device__ inline unsigned packed(float x, float y, __nv_bfloat16) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const unsigned*>(&both);
}

template <class T, int COUNT>
struct alignas(COUNT * sizeof(T)) Vector {
  T x[COUNT];
};

template <int COUNT, class T>
__device__ inline Vector<T, COUNT> vector_at(const T* at) {
  return *reinterpret_cast<const Vector<T, COUNT>*>(at);
}

template <class T>
struct Products {
  // c += a b.T; a has 16 rows from `warp_row` on, b 8 for each fragment.
  template <int FRAGMENTS, int CHANNELS>
  __device__ static void add_transposed(T (&c)[FRAGMENTS][4], Rows<T, CHANNELS> a, int warp_row,
                                        Rows<T, CHANNELS> b) {
    constexpr int COUNT = Rows<T, CHANNELS>::VECTOR;
#pragma unroll 1
    for (int d = 0; d < CHANNELS; d += COUNT) {
      const auto upper = vector_at<COUNT>(a.row(warp_row + row_of(0)) + d);
      const auto lower = vector_at<COUNT>(a.row(warp_row + row_of(2)) + d);
#pragma unroll
      for (int i = 0; i < 2 * FRAGMENTS; i++) {
        const auto right = vector_at<COUNT>(b.row(column_of(i / 2, i % 2)) + d);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
          c[i / 2][i % 2] += upper.x[j] * right.x[j];
          c[i / 2][i % 2 + 2] += lower.x[j] * right.x[j];
        }
      }
    }
  }

  // c += a b; b has 8 rows for each fragment of a.
  template <int FRAGMENTS, int A_FRAGMENTS, int CHANNELS>
  __device__ static void add(T (&c)[FRAGMENTS][4], const T (&a)[A_FRAGMENTS][4],
                             Rows<T, CHANNELS> b) {
    const int quad = threadIdx.x % 32 / 4 * 4;
#pragma unroll
    for (int column = 0; column < A_FRAGMENTS * 8; column++) {
      const int owner = quad + column % 8 / 2;
      const T upper = __shfl_sync(~0u, a[column / 8][column % 2], owner);
      const T lower = __shfl_sync(~0u, a[column / 8][column % 2 + 2], owner);
#pragma unroll
      for (int f = 0; f < FRAGMENTS; f++) {
        const auto right = vector_at<2>(b.row(column) + column_of(f, 0));
#pragma unroll
        for (int j = 0; j < 2; j++) {
          c[f][j] += upper * right.x[j];
          c[f][j + 2] += lower * right.x[j];
        }
      }
    }
  }
};

template <class T>
struct TensorCores {
  template <int FRAGMENTS, int CHANNELS>
  __device__ static void add_transposed(float (&c)[FRAGMENTS][4], Rows<T, CHANNELS> a,
                                        int warp_row, Rows<T, CHANNELS> b) {
    static_assert(FRAGMENTS % 2 == 0, "fragments are loaded in pairs");
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int d = 0; d < CHANNELS; d += 16) {
      unsigned left[4];
      load_matrices(left, a.row(warp_row + lane % 16) + d + lane / 16 * 8);
#pragma unroll
      for (int f = 0; f < FRAGMENTS; f += 2) {
        unsigned right[4];
        load_matrices(right, b.row(f * 8 + lane / 16 * 8 + lane % 8) + d + lane / 8 % 2 * 8);
        multiply_add(c[f], left, {right[0], right[1]}, T());
        multiply_add(c[f + 1], left, {right[2], right[3]}, T());
      }
    }
  }

  template <int FRAGMENTS, int A_FRAGMENTS, int CHANNELS>
  __device__ static void add(float (&c)[FRAGMENTS][4], const float (&a)[A_FRAGMENTS][4],
                             Rows<T, CHANNELS> b) {
    static_assert(FRAGMENTS % 2 == 0 && A_FRAGMENTS % 2 == 0, "fragments are multiplied in pairs");
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int pair = 0; pair < A_FRAGMENTS; pair += 2) {
      const float(&x)[4] = a[pair], (&y)[4] = a[pair + 1];
      const unsigned left[4] = {packed(x[0], x[1], T()), packed(x[2], x[3], T()),
                                packed(y[0], y[1], T()), packed(y[2], y[3], T())};
#pragma unroll
      for (int f = 0; f < FRAGMENTS; f += 2) {
        unsigned right[4];
        load_matrices_transposed(right, b.row(pair * 8 + lane % 16) + f * 8 + lane / 16 * 8);
        multiply_add(c[f], left, {right[0], right[1]}, T());
        multiply_add(c[f + 1], left, {right[2], right[3]}, T());
      }
    }
  }
};

template <>
struct Products<__half> : TensorCores<__half> {};
template <>
struct Products<__nv_bfloat16> : TensorCores<__nv_bfloat16> {};

// Over the elements of a row, which four lanes hold.
template <class acc_t>
__device__ inline acc_t row_sum(acc_t x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

template <class acc_t>
__device__ inline acc_t row_max(acc_t x) {
  x = max_of(x, __shfl_xor_sync(~0u, x, 1));
  return max_of(x, __shfl_xor_sync(~0u, x, 2));
}

// A result, rounded, into 16 rows from `warp_row` on.
template <class T, int FRAGMENTS, int CHANNELS>
__device__ inline void write_rows(Rows<T, CHANNELS> to, int warp_row,
                                  const Accum<T> (&c)[FRAGMENTS][4]) {
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int i = 0; i < 4; i++) round_to(to.row(warp_row + row_of(i))[column_of(f, i)], c[f][i]);
}

template <class acc_t, int FRAGMENTS>
__device__ inline void multiply(acc_t (&c)[FRAGMENTS][4], acc_t factor) {
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int i = 0; i < 4; i++) c[f][i] *= factor;
}

// Set `nonfinite` if any element of a result is infinite or NaN.
template <class acc_t, int FRAGMENTS>
__device__ inline void look_for_nonfinite(int* nonfinite, const acc_t (&c)[FRAGMENTS][4]) {
  acc_t sum = 0;
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int i = 0; i < 4; i++) sum += c[f][i] - c[f][i];
  if (!finite(sum)) *nonfinite = 1;
}

// Whether results stand: where regions share a tile, what is not finite may have met weights of
// zero, and all is computed once more, guarded (README.md). `nonfinite` is zero before; the block's
// threads are in step after.
template <class... Results>
__device__ inline bool stand(bool guarded, const Call& call, int* nonfinite,
                             const Results&... results) {
  __syncthreads();
  if (guarded || call.group == 1) return true;
  (look_for_nonfinite(nonfinite, results), ...);
  __syncthreads();
  return !*nonfinite;
}

// Products of matrices by a warp. A result has 16 rows and is held in blocks of 8 columns: of block
// b, lane l has rows l / 4 (numbers 0 and 1) and l / 4 + 8 (2 and 3) and columns b * 8 + 2 * (l % 4)
// (0 and 2) and the next (1 and 3). By tensor cores for numbers of 16 bits, else by plain sums.

__device__ inline int row_of(int number) { return threadIdx.x % 32 / 4 + number / 2 * 8; }
__device__ inline int column_of(int block, int number) {
  return block * 8 + threadIdx.x % 4 * 2 + number % 2;
}

template <class Number, int BLOCKS>
__device__ inline void fill_zero(Number (&c)[BLOCKS][4]) {
#pragma unroll
  for (int b = 0; b < BLOCKS; b++)
#pragma unroll
    for (int i = 0; i < 4; i++) c[b][i] = 0;
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
  // c += a b.T; a has 16 rows from `first` on, b 8 for each block.
  template <int BLOCKS, int CHANNELS>
  __device__ static void add_transposed(T (&c)[BLOCKS][4], Rows<T, CHANNELS> a, int first,
                                        Rows<T, CHANNELS> b) {
    constexpr int COUNT = Rows<T, CHANNELS>::VECTOR;
#pragma unroll 1
    for (int d = 0; d < CHANNELS; d += COUNT) {
      const auto upper = vector_at<COUNT>(a.row(first + row_of(0)) + d);
      const auto lower = vector_at<COUNT>(a.row(first + row_of(2)) + d);
#pragma unroll
      for (int i = 0; i < 2 * BLOCKS; i++) {
        const auto right = vector_at<COUNT>(b.row(column_of(i / 2, i % 2)) + d);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
          c[i / 2][i % 2] += upper.x[j] * right.x[j];
          c[i / 2][i % 2 + 2] += lower.x[j] * right.x[j];
        }
      }
    }
  }

  // c += w b; b has a row for each column of w.
  template <int BLOCKS, int COLUMNS, int CHANNELS>
  __device__ static void add(T (&c)[BLOCKS][4], const T (&w)[COLUMNS][4], Rows<T, CHANNELS> b) {
    const int quad = threadIdx.x % 32 / 4 * 4;
#pragma unroll
    for (int column = 0; column < COLUMNS * 8; column++) {
      const int owner = quad + column % 8 / 2;
      const T upper = __shfl_sync(~0u, w[column / 8][column % 2], owner);
      const T lower = __shfl_sync(~0u, w[column / 8][column % 2 + 2], owner);
#pragma unroll
      for (int block = 0; block < BLOCKS; block++) {
        const auto right = vector_at<2>(b.row(column) + column_of(block, 0));
#pragma unroll
        for (int j = 0; j < 2; j++) {
          c[block][j] += upper * right.x[j];
          c[block][j + 2] += lower * right.x[j];
        }
      }
    }
  }
};

template <class T>
struct TensorCores {
  template <int BLOCKS, int CHANNELS>
  __device__ static void add_transposed(float (&c)[BLOCKS][4], Rows<T, CHANNELS> a, int first,
                                        Rows<T, CHANNELS> b) {
    static_assert(BLOCKS % 2 == 0, "two blocks are loaded at once");
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int d = 0; d < CHANNELS; d += 16) {
      unsigned left[4];
      load_matrices(left, a.row(first + lane % 16) + d + lane / 16 * 8);
#pragma unroll
      for (int block = 0; block < BLOCKS; block += 2) {
        unsigned right[4];
        load_matrices(right, b.row(block * 8 + lane / 16 * 8 + lane % 8) + d + lane / 8 % 2 * 8);
        multiply_add(c[block], left, {right[0], right[1]}, T());
        multiply_add(c[block + 1], left, {right[2], right[3]}, T());
      }
    }
  }

  template <int BLOCKS, int COLUMNS, int CHANNELS>
  __device__ static void add(float (&c)[BLOCKS][4], const float (&w)[COLUMNS][4],
                             Rows<T, CHANNELS> b) {
    static_assert(BLOCKS % 2 == 0 && COLUMNS % 2 == 0, "two blocks are multiplied at once");
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int column = 0; column < COLUMNS; column += 2) {
      const float(&x)[4] = w[column], (&y)[4] = w[column + 1];
      const unsigned left[4] = {packed(x[0], x[1], T()), packed(x[2], x[3], T()),
                                packed(y[0], y[1], T()), packed(y[2], y[3], T())};
#pragma unroll
      for (int block = 0; block < BLOCKS; block += 2) {
        unsigned right[4];
        load_matrices_transposed(right,
                                 b.row(column * 8 + lane % 16) + block * 8 + lane / 16 * 8);
        multiply_add(c[block], left, {right[0], right[1]}, T());
        multiply_add(c[block + 1], left, {right[2], right[3]}, T());
      }
    }
  }
};

template <>
struct Products<__half> : TensorCores<__half> {};
template <>
struct Products<__nv_bfloat16> : TensorCores<__nv_bfloat16> {};

// Of a row's numbers, which four lanes hold.
template <class Number>
__device__ inline Number sum_of_row(Number x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

template <class Number>
__device__ inline Number largest_of_row(Number x) {
  x = larger(x, __shfl_xor_sync(~0u, x, 1));
  return larger(x, __shfl_xor_sync(~0u, x, 2));
}

// A result, rounded, into 16 rows from `first` on.
template <class T, int BLOCKS, int CHANNELS>
__device__ inline void write_rows(Rows<T, CHANNELS> to, int first, const Sum<T> (&c)[BLOCKS][4]) {
#pragma unroll
  for (int b = 0; b < BLOCKS; b++)
#pragma unroll
    for (int i = 0; i < 4; i++) round_to(to.row(first + row_of(i))[column_of(b, i)], c[b][i]);
}

// Set a flag if any number of a result is infinite or NaN.
template <class Number, int BLOCKS>
__device__ inline void flag_if_not_finite(int* flag, const Number (&c)[BLOCKS][4]) {
  Number sum = 0;
#pragma unroll
  for (int b = 0; b < BLOCKS; b++)
#pragma unroll
    for (int i = 0; i < 4; i++) sum += c[b][i] - c[b][i];
  if (!finite(sum)) *flag = 1;
}

// Whether results may stay: in a group, numbers that are not finite may have met weights of zero,
// and all is computed once more with care. `flag` is zero before; a block's threads are in step
// after.
template <class... Results>
__device__ inline bool settled(bool careful, const Call& call, int* flag, const Results&... results) {
  __syncthreads();
  if (careful || call.group == 1) return true;
  (flag_if_not_finite(flag, results), ...);
  __syncthreads();
  return !*flag;
}

template <class Number, int BLOCKS>
__device__ inline void multiply(Number (&c)[BLOCKS][4], Number factor) {
#pragma unroll
  for (int b = 0; b < BLOCKS; b++)
#pragma unroll
    for (int i = 0; i < 4; i++) c[b][i] *= factor;
}

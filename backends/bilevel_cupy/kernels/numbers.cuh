// Types of numbers: T is that of arrays, acc_t that of scores, sums and logarithms, which is float,
// or double for double.

template <class T>
struct Traits {
  using Accum = float;
};
template <>
struct Traits<double> {
  using Accum = double;
};

template <class T>
using Accum = typename Traits<T>::Accum;

__device__ inline float to_accum(__half x) { return __half2float(x); }
__device__ inline float to_accum(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_accum(float x) { return x; }
__device__ inline double to_accum(double x) { return x; }

__device__ inline void round_to(__half& to, float x) { to = __float2half_rn(x); }
__device__ inline void round_to(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }
__device__ inline void round_to(float& to, float x) { to = x; }
__device__ inline void round_to(double& to, double x) { to = x; }

__device__ inline float exp2_of(float x) { return exp2f(x); }
__device__ inline double exp2_of(double x) { return exp2(x); }
__device__ inline float log2_of(float x) { return log2f(x); }
__device__ inline double log2_of(double x) { return log2(x); }
__device__ inline float max_of(float x, float y) { return fmaxf(x, y); }
__device__ inline double max_of(double x, double y) { return fmax(x, y); }

// Neither infinite nor NaN.
template <class acc_t>
__device__ inline bool finite(acc_t x) {
  return x - x == acc_t(0);
}

template <class acc_t>
__device__ inline acc_t infinity() {
  return acc_t(1) / acc_t(0);
}

template <class acc_t>
__device__ inline acc_t not_a_number() {
  return infinity<acc_t>() - infinity<acc_t>();
}

constexpr double LOG2_E = 1.4426950408889634;

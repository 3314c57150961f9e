// The numbers of arrays, and those that are computed with: sums are float32, or float64 for float64.

template <class T>
struct Number {
  using Sum = float;
};
template <>
struct Number<double> {
  using Sum = double;
};

template <class T>
using Sum = typename Number<T>::Sum;

__device__ inline float widened(__half x) { return __half2float(x); }
__device__ inline float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widened(float x) { return x; }
__device__ inline double widened(double x) { return x; }

__device__ inline void round_to(__half& to, float x) { to = __float2half_rn(x); }
__device__ inline void round_to(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }
__device__ inline void round_to(float& to, float x) { to = x; }
__device__ inline void round_to(double& to, double x) { to = x; }

__device__ inline float power_of_2(float x) { return exp2f(x); }
__device__ inline double power_of_2(double x) { return exp2(x); }
__device__ inline float logarithm_to_2(float x) { return log2f(x); }
__device__ inline double logarithm_to_2(double x) { return log2(x); }
__device__ inline float larger(float x, float y) { return fmaxf(x, y); }
__device__ inline double larger(double x, double y) { return fmax(x, y); }

// Neither infinite nor NaN.
template <class Number>
__device__ inline bool finite(Number x) {
  return x - x == Number(0);
}

template <class Number>
__device__ inline Number infinity() {
  return Number(1) / Number(0);
}

template <class Number>
__device__ inline Number not_a_number() {
  return infinity<Number>() - infinity<Number>();
}

constexpr double LOG2_E = 1.4426950408889634;

// Numbers and vectors: one dtype for each compilation, vectors of whatever width the CPU has.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>
#include <utility>
#if defined(__AVX__)
#include <immintrin.h>
#endif

#define INLINE_METHOD inline __attribute__((always_inline))
#define INLINE static INLINE_METHOD

// Halves are stored alone: all computation is in Real.
struct Half { uint16_t bits; };
struct Brain { uint16_t bits; };
using Stored = STORED;
using Real = std::conditional_t<std::is_same_v<Stored, double>, double, float>;
using Bits = std::conditional_t<std::is_same_v<Real, double>, int64_t, int32_t>;

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
constexpr bool MANY_REGISTERS = true;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
constexpr bool MANY_REGISTERS = false;
#else
constexpr int VECTOR_BYTES = 16;
constexpr bool MANY_REGISTERS = false;
#endif
constexpr int LANES = VECTOR_BYTES / sizeof(Real);

typedef Real Vector __attribute__((vector_size(VECTOR_BYTES), aligned(alignof(Real)), may_alias));
typedef Bits BitVector __attribute__((vector_size(VECTOR_BYTES), aligned(alignof(Real)), may_alias));

constexpr Real INF = std::numeric_limits<Real>::infinity();

INLINE Vector load(const Real* x) { return *(const Vector*)x; }
INLINE void store(Real* x, Vector v) { *(Vector*)x = v; }
INLINE Vector broadcast(Real x) { return x - Vector{}; }
// Four numbers, again and again.
INLINE Vector load_four(const Real* x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 8) return (Vector)_mm512_broadcast_f64x4(_mm256_loadu_pd((const double*)x));
  return (Vector)_mm512_broadcast_f32x4(_mm_loadu_ps((const float*)x));
#elif defined(__AVX__)
  if constexpr (sizeof(Real) == 8) return load(x);
  return (Vector)_mm256_broadcast_ps((const __m128*)x);
#else
  return load(x);
#endif
}
INLINE Vector max(Vector a, Vector b) { return a > b ? a : b; }  // b, where either is NaN

// 2 ** x is a polynomial of x within half a unit: for double Taylor's series, for float fitted to a
// relative error of 2e-9 before rounding.
template <class T> constexpr T POLYNOMIAL[] = {
    T(1.53375768e-4), T(1.33998604e-3), T(9.61851953e-3), T(5.550329e-2), T(2.40226466e-1), T(6.93147206e-1), T(1)};
template <> constexpr double POLYNOMIAL<double>[] = {
    1.3691488853904124e-12, 2.5678435993488196e-11, 4.4455382718708101e-10, 7.0549116208011209e-09,
    1.0178086009239696e-07, 1.3215486790144305e-06, 1.5252733804059838e-05, 1.5403530393381606e-04,
    1.3333558146428441e-03, 9.6181291076284769e-03, 5.5504108664821576e-02, 2.4022650695910069e-01,
    6.9314718055994529e-01, 1};

// 2 ** x to about the last bit; NaN stays NaN, and what is below the least exponent is 0.
INLINE Vector exp2(Vector x) {
  constexpr int mantissa = sizeof(Real) == 8 ? 52 : 23;
  constexpr Real bias = sizeof(Real) == 8 ? 1023 : 127;
  // To add this rounds to an integer, in whose low bits stands the exponent that is wanted.
  constexpr Real rounder = Real(3) * (int64_t(1) << (mantissa - 1)) + bias;
  x = x < -bias ? broadcast(-bias) : x;
  Vector rounded = x + rounder;
  Vector f = x - (rounded - rounder), y = broadcast(POLYNOMIAL<Real>[0]);
  for (int i = 1; i < int(std::size(POLYNOMIAL<Real>)); i++) y = y * f + POLYNOMIAL<Real>[i];
  return y * (Vector)((BitVector)rounded << mantissa);
}

INLINE Real to_real(float x) { return x; }
INLINE Real to_real(double x) { return Real(x); }
INLINE float from_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
INLINE uint32_t to_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
INLINE Real to_real(Brain x) { return from_bits(uint32_t(x.bits) << 16); }
INLINE Real to_real(Half x) {
  uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = uint32_t(x.bits & 0x7fff) << 13;
  // 2 ** 112 makes up for the smaller bias, of subnormal numbers too.
  float y = from_bits(magnitude) * 0x1p112f;
  uint32_t infinite = magnitude >= 0x0f800000u ? 0x7f800000u : 0;
  return from_bits(to_bits(y) | infinite | sign);
}

INLINE void from_real(float& to, Real x) { to = float(x); }
INLINE void from_real(double& to, Real x) { to = x; }
INLINE void from_real(Brain& to, Real x) {
  uint32_t bits = to_bits(float(x));
  uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;  // to nearest, ties to even
  to.bits = uint16_t(x == x ? rounded : 0x7fc0);
}
INLINE void from_real(Half& to, Real x) {
  uint32_t bits = to_bits(float(x)), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  // Normal numbers are rounded by adding half a unit; smaller ones by adding a number so large
  // that their last bit is the unit; from 65520 on all are infinite.
  uint32_t normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  uint32_t small = to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000;
  uint32_t half = magnitude < 0x38800000 ? small : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;
  to.bits = uint16_t(sign | (magnitude > 0x7f800000 ? 0x7e00 : half));
}

using All = std::make_integer_sequence<int, LANES>;

// The low, or else the high, halves of two vectors, their lanes by turns.
template <bool HIGH, int... I>
INLINE Vector interleaved(Vector a, Vector b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * LANES + HIGH * LANES / 2)...);
#else
  return __builtin_shuffle(a, b, BitVector{(I / 2 + I % 2 * LANES + HIGH * LANES / 2)...});
#endif
}

// Each lane's number from the lane whose number differs in these bits.
template <int BITS, int... I>
INLINE Vector swapped(Vector v, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(v, v, (I ^ BITS)...);
#else
  return __builtin_shuffle(v, BitVector{(I ^ BITS)...});
#endif
}

// Some lanes, beginning with FIRST, each TIMES times.
template <int FIRST, int TIMES, int... I>
INLINE Vector repeated(Vector v, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(v, v, (FIRST + I / TIMES)...);
#else
  return __builtin_shuffle(v, BitVector{(FIRST + I / TIMES)...});
#endif
}

// A square of vectors, its rows to columns.
INLINE void transpose(Vector (&square)[LANES]) {
  for (int step = 1; step < LANES; step *= 2) {
    Vector before[LANES];
    for (int i = 0; i < LANES; i++) before[i] = square[i];
    for (int i = 0; i < LANES / 2; i++) {
      square[2 * i] = interleaved<false>(before[i], before[i + LANES / 2], All{});
      square[2 * i + 1] = interleaved<true>(before[i], before[i + LANES / 2], All{});
    }
  }
}

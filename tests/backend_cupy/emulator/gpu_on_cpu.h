// CUDA C++ on a CPU: what CUDA has and C++ has not.
//
// This comes before the text of a kernel, which is what NVRTC compiles. Here are CUDA's functions,
// those that the text gives to NVRTC as PTX, and what Python must know to call a kernel.
#pragma once

#include <cstring>
#include <math.h>
#include <type_traits>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "blocks.h"

#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static_assert(false, "shared memory is what shared_memory() returns");

namespace gpu {

// An operand is what one lane brings to a call; `perform` is what the call does with those of all.
template <class Operand>
void together(const char* call, unsigned mask, Operand& mine) {
    if (mask != 0xffffffff) fail(call, "has a mask that is not of all lanes");
    meet(call, &mine, [](void** all, unsigned lanes) {
        Operand::perform(reinterpret_cast<Operand**>(all), lanes);
    });
}

struct Nothing {
    static void perform(Nothing**, unsigned) {}
};

template <class T>
struct Shuffle {
    T value;
    unsigned from;
    T received;

    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);

    static void perform(Shuffle** all, unsigned lanes) {
        for (unsigned lane = 0; lane < lanes; lane++) {
            unsigned from = all[lane]->from;
            if (from >= lanes) fail("a shuffle", "is from a lane that the warp does not have");
            all[lane]->received = all[from]->value;
        }
    }
};

template <class T>
T shuffle(const char* call, unsigned mask, T value, unsigned from) {
    Shuffle<T> mine{value, from, value};
    together(call, mask, mine);
    return mine.received;
}

struct Vote {
    bool mine;
    unsigned all_lanes;

    static void perform(Vote** all, unsigned lanes) {
        unsigned votes = 0;
        for (unsigned lane = 0; lane < lanes; lane++) votes |= unsigned(all[lane]->mine) << lane;
        for (unsigned lane = 0; lane < lanes; lane++) all[lane]->all_lanes = votes;
    }
};

template <class To, class From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// A product of 16 x 16 numbers and 16 x 8, spread over the lanes as mma.sync.m16n8k16 has them.
template <class T>
struct Product {
    float (&c)[4];
    const unsigned (&a)[4];
    const unsigned (&b)[2];

    static float number(unsigned pair, unsigned half) {
        return float(bits_as<T>(static_cast<unsigned short>(pair >> (16 * half))));
    }

    static void perform(Product** all, unsigned lanes) {
        if (lanes < warp_lanes) fail("multiply_add", "needs a warp of 32 threads");
        float a[16][16], b[16][8], c[16][8] = {};
        for (unsigned lane = 0; lane < lanes; lane++)
            for (unsigned half = 0; half < 2; half++) {
                unsigned group = lane / 4, pair = lane % 4 * 2 + half;
                for (unsigned i = 0; i < 4; i++)
                    a[group + i % 2 * 8][pair + i / 2 * 8] = number(all[lane]->a[i], half);
                for (unsigned i = 0; i < 2; i++)
                    b[pair + i * 8][group] = number(all[lane]->b[i], half);
            }
        for (unsigned m = 0; m < 16; m++)
            for (unsigned k = 0; k < 16; k++)
                for (unsigned n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
        for (unsigned lane = 0; lane < lanes; lane++)
            for (unsigned i = 0; i < 4; i++)
                all[lane]->c[i] += c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
};

// Four matrices of 8 x 8 numbers, of 2 bytes; a lane gets two numbers of each.
template <bool transposed>
struct Matrices {
    const unsigned char* row;  // of matrix lane / 8, its row lane % 8
    unsigned (&pairs)[4];

    static void perform(Matrices** all, unsigned lanes) {
        if (lanes < warp_lanes) fail("load_matrices", "needs a warp of 32 threads");
        for (unsigned lane = 0; lane < lanes; lane++)
            for (unsigned i = 0; i < 4; i++) {
                unsigned short numbers[2];
                for (unsigned half = 0; half < 2; half++) {
                    unsigned row = lane / 4, column = lane % 4 * 2 + half;
                    if (transposed) std::swap(row, column);
                    std::memcpy(&numbers[half], all[i * 8 + row]->row + 2 * column, 2);
                }
                std::memcpy(&all[lane]->pairs[i], numbers, sizeof numbers);
            }
    }
};

template <bool transposed>
void load(const char* call, unsigned (&pairs)[4], const void* row) {
    require_shared(call, row);
    Matrices<transposed> mine{static_cast<const unsigned char*>(row), pairs};
    together(call, 0xffffffff, mine);
}

// What a kernel takes; Python has the same structure.
struct Parameter {
    const char* kind;
    size_t bytes;  // of what a pointer points to; 0 for void
};

template <class P>
constexpr Parameter parameter() {
    static_assert(std::is_trivially_copyable_v<P>);
    using To = std::remove_pointer_t<P>;
    if constexpr (std::is_pointer_v<P>) {
        const char* kind = std::is_const_v<To> ? "input" : "output";
        if constexpr (std::is_void_v<To>) return {kind, 0};
        else return {kind, sizeof(To)};
    }
    if (std::is_floating_point_v<P>) return {"float", sizeof(P)};
    return {std::is_integral_v<P> ? "integer" : "struct", sizeof(P)};
}

template <auto kernel>
struct Kernel;

template <class... P, void (*kernel)(P...)>
struct Kernel<kernel> {
    // Up to one without a kind.
    static constexpr Parameter parameters[] = {parameter<P>()..., {nullptr, 0}};

    static const char* launch(const Launch& how, void** arguments) {
        return run(how, [](void** a) { call(a, std::index_sequence_for<P...>()); }, arguments);
    }

    template <size_t... i>
    static void call(void** arguments, std::index_sequence<i...>) {
        kernel(*static_cast<P*>(arguments[i])...);
    }
};

}  // namespace gpu

inline void __syncthreads() { gpu::await_block(); }

inline void __syncwarp(unsigned mask = 0xffffffff) {
    gpu::Nothing nothing;
    gpu::together("__syncwarp", mask, nothing);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return gpu::shuffle("__shfl_sync", mask, value, lane % gpu::warp_lanes);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return gpu::shuffle("__shfl_xor_sync", mask, value, gpu::lane() ^ lanes);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    gpu::Vote vote{predicate != 0, 0};
    gpu::together("__ballot_sync", mask, vote);
    return vote.all_lanes;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

inline float __int_as_float(int x) { return gpu::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return gpu::bits_as<float>(x); }
inline int __float_as_int(float x) { return gpu::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return gpu::bits_as<unsigned>(x); }

template <class A, class B>
auto max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

template <class A, class B>
auto min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}

inline unsigned char* shared_memory() { return gpu::shared(); }

template <class T>
void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], T) {
    static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
    gpu::Product<T> mine{c, a, b};
    gpu::together("multiply_add", 0xffffffff, mine);
}

inline void load_matrices(unsigned (&r)[4], const void* row) {
    gpu::load<false>("load_matrices", r, row);
}

inline void load_matrices_transposed(unsigned (&r)[4], const void* row) {
    gpu::load<true>("load_matrices_transposed", r, row);
}

inline void copy_async(void* to, const void* from, bool valid) { gpu::begin_copy(to, from, valid); }
inline void commit_copies() { gpu::commit_copies(); }

template <int pending>
void await_copies() {
    gpu::await_copies_but(pending);
}

// CUDA C++ on a CPU: what CUDA has and C++ has not.
//
// This comes before the text of a kernel, which is what NVRTC compiles. Here are CUDA's functions,
// those that the text gives to NVRTC as PTX, and what Python must know to call a kernel.
#pragma once

#include <math.h>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "blocks.h"

#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static_assert(false, "shared memory is what shared_memory() returns");

namespace gpu {

inline void require_all_lanes(unsigned mask) {
    if (mask != 0xffffffff) fail("the mask of lanes is not full");
}

template <class T>
struct Shuffle {
    T value;
    unsigned from;
    T received;
};

template <class T>
T shuffle(const char* call, unsigned mask, T value, unsigned from) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    require_all_lanes(mask);
    Shuffle<T> mine{value, from, value};
    together<Shuffle<T>>(call, mine, [](Shuffle<T>** all, unsigned lanes) {
        for (unsigned lane = 0; lane < lanes; lane++) {
            unsigned from = all[lane]->from;
            if (from >= lanes) fail("it shuffles from a lane that its warp does not have");
            all[lane]->received = all[from]->value;
        }
    });
    return mine.received;
}

struct Vote {
    bool mine;
    unsigned all;
};

// The operands of one lane of a product of tiles, as mma.sync.m16n8k16 spreads them.
struct Tiles {
    float (*c)[4];
    const unsigned (*a)[4];
    const unsigned (*b)[2];
};

template <class T>
float number_in(unsigned pair, unsigned half) {
    T number;
    unsigned short bits = pair >> (16 * half);
    std::memcpy(&number, &bits, sizeof bits);
    return float(number);
}

template <class T>
void multiply_tiles(Tiles** all, unsigned lanes) {
    if (lanes < warp_lanes) fail("multiply_add needs a warp of 32 threads");
    float a[16][16], b[16][8], c[16][8] = {};
    for (unsigned lane = 0; lane < lanes; lane++)
        for (unsigned half = 0; half < 2; half++) {
            unsigned group = lane / 4, column = lane % 4 * 2 + half;
            for (unsigned i = 0; i < 4; i++)
                a[group + i % 2 * 8][column + i / 2 * 8] = number_in<T>((*all[lane]->a)[i], half);
            for (unsigned i = 0; i < 2; i++)
                b[column + i * 8][group] = number_in<T>((*all[lane]->b)[i], half);
        }
    for (unsigned m = 0; m < 16; m++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
    for (unsigned lane = 0; lane < lanes; lane++)
        for (unsigned i = 0; i < 4; i++)
            (*all[lane]->c)[i] += c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

inline void require_aligned(const char* call, const void* address) {
    if (reinterpret_cast<size_t>(address) % 16)
        fail(std::string(call) + " of an address that is not a multiple of 16");
}

// 16 bytes of shared memory, which `call` is about to touch.
inline void require_shared(const char* call, const void* address) {
    require_aligned(call, address);
    auto at = static_cast<const unsigned char*>(address);
    if (at < shared || at + 16 > shared + how.shared_bytes)
        fail(std::string(call) + " outside of the block's shared memory");
}

struct Rows {
    const unsigned char* row;  // of matrix lane / 8, its row lane % 8
    unsigned (*pairs)[4];
};

// Four matrices of 8 x 8 numbers of 2 bytes; of each a lane gets the two of `first` and `second`.
template <bool transposed>
void load_rows(const char* call, unsigned (&pairs)[4], const void* row) {
    require_shared(call, row);
    Rows mine{static_cast<const unsigned char*>(row), &pairs};
    together<Rows>(call, mine, [](Rows** all, unsigned lanes) {
        if (lanes < warp_lanes) fail("matrices are loaded by a warp of 32 threads");
        for (unsigned lane = 0; lane < lanes; lane++)
            for (unsigned i = 0; i < 4; i++) {
                unsigned short halves[2];
                for (unsigned half = 0; half < 2; half++) {
                    unsigned along = lane / 4, across = lane % 4 * 2 + half;
                    unsigned r = transposed ? across : along, column = transposed ? along : across;
                    std::memcpy(&halves[half], all[i * 8 + r]->row + 2 * column, 2);
                }
                std::memcpy(&(*all[lane]->pairs)[i], halves, sizeof halves);
            }
    });
}

inline void land(Copy& copy) {
    if (!copy.landed) std::memcpy(copy.to, copy.bytes, sizeof copy.bytes);
    copy.landed = true;
}

// Copies may land at any time until they are awaited: last where threads run forward, at once
// where they run backward, by chance where they are shuffled.
inline void begin_copy(void* to, const void* from, bool real) {
    const char* call = "copy_async";
    require_shared(call, to);
    Copy copy{to, {}, running->groups, false};
    if (real) {
        require_aligned(call, from);
        std::memcpy(copy.bytes, from, sizeof copy.bytes);
    }
    if (shuffles() ? chance() % 2 : how.order == 1) land(copy);
    running->copies.push_back(copy);
}

inline void await_copies_but(unsigned pending) {
    auto& copies = running->copies;
    auto awaited = [&](const Copy& copy) { return copy.group + pending < running->groups; };
    auto end = std::find_if_not(copies.begin(), copies.end(), awaited);
    std::for_each(copies.begin(), end, land);
    copies.erase(copies.begin(), end);
}

// A parameter of a kernel: what it is, and of how many bytes (that it points to; 0 for void).
template <class P>
std::string described() {
    if constexpr (std::is_pointer_v<P>) {
        using To = std::remove_pointer_t<P>;
        std::string what = std::is_const_v<To> ? "input" : "output";
        if constexpr (std::is_void_v<To>) return what + " 0";
        else return what + " " + std::to_string(sizeof(To));
    }
    static_assert(std::is_pointer_v<P> || std::is_trivially_copyable_v<P>);
    std::string bytes = std::to_string(sizeof(P));
    if (std::is_floating_point_v<P>) return "float " + bytes;
    return (std::is_integral_v<P> ? "integer " : "struct ") + bytes;
}

template <auto kernel>
struct Kernel;

template <class... P, void (*kernel)(P...)>
struct Kernel<kernel> {
    static const char* parameters() {
        static std::string all = ((described<P>() + ";") + ... + "");
        return all.c_str();
    }

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
    gpu::require_all_lanes(mask);
    gpu::together<unsigned>("__syncwarp", mask, [](unsigned**, unsigned) {});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return gpu::shuffle("__shfl_sync", mask, value, lane % gpu::warp_lanes);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return gpu::shuffle("__shfl_xor_sync", mask, value, gpu::running->lane ^ lanes);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    gpu::require_all_lanes(mask);
    gpu::Vote vote{predicate != 0, 0};
    gpu::together<gpu::Vote>("__ballot_sync", vote, [](gpu::Vote** all, unsigned lanes) {
        unsigned votes = 0;
        for (unsigned lane = 0; lane < lanes; lane++) votes |= unsigned(all[lane]->mine) << lane;
        for (unsigned lane = 0; lane < lanes; lane++) all[lane]->all = votes;
    });
    return vote.all;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float __int_as_float(int x) { return same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }

template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}

inline unsigned char* shared_memory() { return gpu::shared; }

template <class T>
void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], T) {
    gpu::Tiles mine{&c, &a, &b};
    gpu::together("multiply_add", mine, gpu::multiply_tiles<T>);
}

inline void load_matrices(unsigned (&r)[4], const void* row) {
    gpu::load_rows<false>("load_matrices", r, row);
}

inline void load_matrices_transposed(unsigned (&r)[4], const void* row) {
    gpu::load_rows<true>("load_matrices_transposed", r, row);
}

inline void copy_async(void* to, const void* from, bool real) { gpu::begin_copy(to, from, real); }

inline void commit_copies() { gpu::running->groups++; }

template <int pending>
void await_copies() {
    gpu::await_copies_but(pending);
}

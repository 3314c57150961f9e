// What a kernel on a CPU asks of the blocks and threads that it runs in; `blocks.cpp` has them.
#pragma once

#include <cstddef>

#include <vector_types.h>

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace gpu {

constexpr unsigned warp_lanes = 32;

// How to run a kernel; Python has the same structure.
struct Launch {
    unsigned grid[3];
    unsigned block[3];
    unsigned shared_bytes;
    unsigned order;  // of blocks, warps and lanes: 0 forward, 1 backward, others seed a shuffle
};

// Run a kernel: null, or what went wrong.
const char* run(const Launch& launch, void (*call_kernel)(void**), void** arguments);

// Give up the launch, for what a thread has asked of `call`.
[[noreturn]] void fail(const char* call, const char* why);

// The lane of the thread that runs, in its warp.
unsigned lane();

// The block's shared memory.
unsigned char* shared();

// 16 bytes of it, or else the launch fails.
void require_shared(const char* call, const void* address);

// What the lanes of a warp do together: the last to come performs it on what each has brought.
void meet(const char* call, void* mine, void (*perform)(void** all, unsigned lanes));

// Wait for all threads of the block.
void await_block();

// Copy 16 bytes, or zeros where `valid` is false, at some time before they are awaited.
void begin_copy(void* to, const void* from, bool valid);
void commit_copies();
void await_copies_but(unsigned groups);

}  // namespace gpu

// Blocks of threads on one processor: a fiber for each thread, one block after another.
//
// A thread runs until it must wait, for its warp or for its block. What it waits for may never
// come, or it may ask for what a GPU leaves undefined: the launch ends, and says why.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <vector_types.h>

#include "fibers.h"

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace gpu {

constexpr unsigned warp_lanes = 32;

// How to run a kernel; Python has the same structure.
struct Launch {
    unsigned grid[3];
    unsigned block[3];
    unsigned shared_bytes;
    unsigned order;  // of blocks, warps and lanes: 0 forward, 1 backward, others seed a shuffle
};

struct Copy {
    void* to;
    unsigned char bytes[16];
    unsigned group;
    bool landed;
};

enum class State { ready, in_warp, in_block, over };

struct Thread {
    fibers::Fiber fiber;
    uint3 index;
    unsigned warp, lane;
    State state;
    const char* call;          // what it waits in
    std::vector<Copy> copies;  // those begun and not awaited
    unsigned groups;           // of copies, that it has committed
};

struct Warp {
    unsigned first, lanes;  // a block's last warp may have fewer than 32
    unsigned waiting;
    void* operands[warp_lanes];
    void* perform;
};

static Launch how;
static void (*call_kernel)(void** arguments);
static void** kernel_arguments;
static std::string error;

static std::vector<Thread> threads;
static std::vector<Warp> warps;
static Thread* running;
static unsigned waiting;  // threads in __syncthreads
static unsigned char* shared;

static std::minstd_rand chance;
static std::vector<unsigned> block_order, warp_order, lane_order;

inline bool shuffles() { return how.order > 1; }

// 0, 1, ... in the order of the launch.
inline void put_in_order(std::vector<unsigned>& numbers, size_t count) {
    numbers.resize(count);
    std::iota(numbers.begin(), numbers.end(), 0);
    if (how.order == 1) std::reverse(numbers.begin(), numbers.end());
    if (shuffles()) std::shuffle(numbers.begin(), numbers.end(), chance);
}

inline void set_error(const std::string& what) {
    auto number = [](unsigned n) { return std::to_string(n); };
    error = "block (" + number(blockIdx.x) + ", " + number(blockIdx.y) + ", " + number(blockIdx.z);
    error += "): " + what;
}

// Give up the launch, from within a thread. The fibers are left as they are.
[[noreturn]] inline void fail(const std::string& what) {
    set_error("thread " + std::to_string(running - threads.data()) + ": " + what);
    running->fiber.leave();
    __builtin_unreachable();
}

// Where the threads are that will not meet.
inline std::string divergence(unsigned first, unsigned count) {
    std::map<std::string, unsigned> places;
    for (unsigned i = first; i < first + count; i++) {
        const Thread& thread = threads[i];
        places[thread.state == State::over ? "at their end" : thread.call]++;
    }
    std::string what;
    for (const auto& [place, count] : places)
        what += (what.empty() ? "" : ", ") + std::to_string(count) + " " + place;
    return "divergence, these threads never meet: " + what;
}

inline void wait_in(const char* call, State state) {
    running->call = call;
    running->state = state;
}

// What all lanes of a warp do together: the last to come performs it on what each has brought.
template <class Operand>
void together(const char* call, Operand& mine, void (*perform)(Operand** all, unsigned lanes)) {
    Warp& warp = warps[running->warp];
    wait_in(call, State::in_warp);
    warp.operands[running->lane] = &mine;
    if (++warp.waiting < warp.lanes) return running->fiber.leave();
    for (unsigned i = warp.first; i < warp.first + warp.lanes; i++) {
        if (std::strcmp(threads[i].call, call)) fail(divergence(warp.first, warp.lanes));
        threads[i].state = State::ready;
    }
    warp.waiting = 0;
    perform(reinterpret_cast<Operand**>(warp.operands), warp.lanes);
}

inline void await_block() {
    wait_in("__syncthreads", State::in_block);
    if (++waiting < threads.size()) return running->fiber.leave();
    for (Thread& thread : threads) thread.state = State::ready;
    waiting = 0;
}

// The whole life of a thread.
inline void live() {
    running->fiber.arrive();
    call_kernel(kernel_arguments);
    if (!running->copies.empty()) fail("it ends with copies that it has not awaited");
    running->state = State::over;
    running->fiber.end();
}

// Let each lane of a warp run until it waits. Whether any could.
inline bool advance(const Warp& warp) {
    bool any = false;
    if (shuffles()) std::shuffle(lane_order.begin(), lane_order.end(), chance);
    for (unsigned lane : lane_order) {
        if (lane >= warp.lanes) continue;
        Thread& thread = threads[warp.first + lane];
        if (thread.state != State::ready) continue;
        any = true;
        running = &thread;
        threadIdx = thread.index;
        thread.fiber.enter();
        if (!error.empty()) return false;
    }
    return any;
}

inline void start_threads() {
    unsigned x = blockDim.x, y = blockDim.y;
    for (unsigned i = 0; i < threads.size(); i++) {
        Thread& thread = threads[i];
        thread.index = {i % x, i / x % y, i / (x * y)};
        thread.warp = i / warp_lanes;
        thread.lane = i % warp_lanes;
        thread.state = State::ready;
        thread.copies.clear();
        thread.groups = 0;
        thread.fiber.start(live);
    }
    for (Warp& warp : warps) warp.waiting = 0;
    waiting = 0;
}

// In order, a warp runs as far as it can before the next; shuffled, warps take short turns.
inline void run_block() {
    start_threads();
    for (bool any = true; any && error.empty();) {
        any = false;
        if (shuffles()) std::shuffle(warp_order.begin(), warp_order.end(), chance);
        for (unsigned warp : warp_order)
            while (advance(warps[warp])) {
                any = true;
                if (shuffles()) break;
            }
    }
    auto over = [](const Thread& thread) { return thread.state == State::over; };
    if (error.empty() && !std::all_of(threads.begin(), threads.end(), over))
        set_error(divergence(0, threads.size()));
}

inline void prepare(const Launch& launch) {
    how = launch;
    gridDim = {how.grid[0], how.grid[1], how.grid[2]};
    blockDim = {how.block[0], how.block[1], how.block[2]};
    chance.seed(how.order);
    size_t count = size_t(blockDim.x) * blockDim.y * blockDim.z;
    threads.resize(count);
    warps.resize((count + warp_lanes - 1) / warp_lanes);
    for (unsigned i = 0; i < warps.size(); i++) {
        warps[i].first = i * warp_lanes;
        warps[i].lanes = std::min<unsigned>(warp_lanes, count - i * warp_lanes);
    }
    put_in_order(block_order, size_t(gridDim.x) * gridDim.y * gridDim.z);
    put_in_order(warp_order, warps.size());
    put_in_order(lane_order, warp_lanes);
    error.clear();
}

// Run a kernel; what went wrong, or null.
inline const char* run(const Launch& launch, void (*call)(void**), void** arguments) {
    prepare(launch);
    call_kernel = call;
    kernel_arguments = arguments;
    for (unsigned i : block_order) {
        blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / (gridDim.x * gridDim.y)};
        // Of this very size, for AddressSanitizer; and NaN until it is written.
        void* memory = nullptr;
        if (posix_memalign(&memory, 128, how.shared_bytes)) return "out of memory";
        shared = static_cast<unsigned char*>(std::memset(memory, 0xff, how.shared_bytes));
        run_block();
        std::free(memory);
        if (!error.empty()) return error.c_str();
    }
    return nullptr;
}

}  // namespace gpu

// Blocks of threads on one processor: a fiber for each thread, one block after another.
//
// A thread runs until it must wait, for its warp or for its block. What it waits for may never
// come, or it may ask for what a GPU leaves undefined: then the launch ends, and says why.
#include "blocks.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "fibers.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace gpu {
namespace {

struct Copy {
    void* to;
    unsigned char bytes[16];
    unsigned group;
    bool landed;
};

enum class State { ready, in_warp, in_block, over };

struct Thread {
    fibers::Fiber* fiber;
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
};

Launch how;
void (*kernel)(void** arguments);
void** kernel_arguments;
std::string error;

std::vector<Thread> threads;
std::vector<fibers::Fiber> fibers_of_all;  // of the largest block so far
std::vector<Warp> warps;
Thread* running;
unsigned waiting;  // threads in __syncthreads
unsigned char* shared_bytes;

std::minstd_rand chance;
std::vector<unsigned> block_order, warp_order, lane_order;

bool backward() { return how.order == 1; }
bool shuffled() { return how.order > 1; }

void put_in_order(std::vector<unsigned>& numbers, size_t count) {
    numbers.resize(count);
    std::iota(numbers.begin(), numbers.end(), 0);
    if (backward()) std::reverse(numbers.begin(), numbers.end());
    if (shuffled()) std::shuffle(numbers.begin(), numbers.end(), chance);
}

std::string describe(const char* what, const uint3& at) {
    auto number = [](unsigned n) { return std::to_string(n); };
    return std::string(what) + " (" + number(at.x) + ", " + number(at.y) + ", " + number(at.z) + ")";
}

// Where the threads are that will not meet.
std::string divergence(unsigned first, unsigned count) {
    std::map<std::string, unsigned> counts;
    for (unsigned i = first; i < first + count; i++)
        counts[threads[i].state == State::over ? "at their end" : threads[i].call]++;
    std::string what;
    for (const auto& [call, count] : counts)
        what += (what.empty() ? "" : ", ") + std::to_string(count) + " " + call;
    return describe("block", blockIdx) + ": divergence, these threads never meet: " + what;
}

// Leave the thread that runs, for good; all fibers stay as they are.
[[noreturn]] void give_up(const std::string& why) {
    error = why;
    running->fiber->leave();
    std::abort();
}

void wait_in(const char* call, State state) {
    running->call = call;
    running->state = state;
}

void land(Copy& copy) {
    if (!copy.landed) std::memcpy(copy.to, copy.bytes, sizeof copy.bytes);
    copy.landed = true;
}

// The whole life of a thread.
void live() {
    running->fiber->arrive();
    kernel(kernel_arguments);
    if (!running->copies.empty()) fail("copy_async", "is not awaited");
    running->state = State::over;
    running->fiber->end();
}

// Let each lane of a warp run until it waits. Whether any could.
bool advance(const Warp& warp) {
    bool any = false;
    if (shuffled()) std::shuffle(lane_order.begin(), lane_order.end(), chance);
    for (unsigned lane : lane_order) {
        if (lane >= warp.lanes) continue;
        Thread& thread = threads[warp.first + lane];
        if (thread.state != State::ready) continue;
        any = true;
        running = &thread;
        threadIdx = thread.index;
        thread.fiber->enter();
        if (!error.empty()) return false;
    }
    return any;
}

void start_threads() {
    unsigned x = blockDim.x, y = blockDim.y;
    for (unsigned i = 0; i < threads.size(); i++) {
        Thread& thread = threads[i];
        thread.fiber = &fibers_of_all[i];
        thread.index = {i % x, i / x % y, i / (x * y)};
        thread.warp = i / warp_lanes;
        thread.lane = i % warp_lanes;
        thread.state = State::ready;
        thread.copies.clear();
        thread.groups = 0;
        thread.fiber->start(live);
    }
    for (Warp& warp : warps) warp.waiting = 0;
    waiting = 0;
}

// In order, a warp runs as far as it can before the next; shuffled, it pauses where it waits for
// its lanes, by chance.
void run_block() {
    start_threads();
    for (bool any = true; any && error.empty();) {
        any = false;
        if (shuffled()) std::shuffle(warp_order.begin(), warp_order.end(), chance);
        for (unsigned i : warp_order)
            while (error.empty() && advance(warps[i])) {
                any = true;
                if (shuffled() && chance() % 4 == 0) break;
            }
    }
    auto over = [](const Thread& thread) { return thread.state == State::over; };
    if (error.empty() && !std::all_of(threads.begin(), threads.end(), over))
        error = divergence(0, threads.size());
}

#ifdef __SANITIZE_ADDRESS__
constexpr size_t margin = 0;  // it sees the end of memory itself
#else
constexpr size_t margin = 256;
#endif

bool written_beyond(const unsigned char* end) {
    return std::any_of(end, end + margin, [](unsigned char byte) { return byte != 0xff; });
}

void prepare(const Launch& launch) {
    how = launch;
    gridDim = {how.grid[0], how.grid[1], how.grid[2]};
    blockDim = {how.block[0], how.block[1], how.block[2]};
    chance.seed(how.order);
    size_t count = size_t(blockDim.x) * blockDim.y * blockDim.z;
    threads.resize(count);
    fibers_of_all.resize(std::max(fibers_of_all.size(), count));
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

}  // namespace

const char* run(const Launch& launch, void (*call_kernel)(void**), void** arguments) {
    prepare(launch);
    kernel = call_kernel;
    kernel_arguments = arguments;
    for (unsigned i : block_order) {
        blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / (gridDim.x * gridDim.y)};
        // NaN until it is written.
        void* memory = nullptr;
        size_t bytes = how.shared_bytes + margin;
        if (posix_memalign(&memory, 128, bytes)) return "out of memory";
        shared_bytes = static_cast<unsigned char*>(std::memset(memory, 0xff, bytes));
        run_block();
        if (error.empty() && written_beyond(shared_bytes + how.shared_bytes))
            error = describe("block", blockIdx) + ": wrote beyond its shared memory";
        std::free(memory);
        if (!error.empty()) return error.c_str();
    }
    return nullptr;
}

void fail(const char* call, const char* why) {
    std::string where = describe("block", blockIdx) + ", " + describe("thread", running->index);
    give_up(where + ": " + call + " " + why);
}

unsigned lane() { return running->lane; }

unsigned char* shared() { return shared_bytes; }

void require_aligned(const char* call, const void* address) {
    if (reinterpret_cast<size_t>(address) % 16) fail(call, "has an address that is not of 16 bytes");
}

void require_shared(const char* call, const void* address) {
    require_aligned(call, address);
    auto at = static_cast<const unsigned char*>(address);
    if (at < shared_bytes || at + 16 > shared_bytes + how.shared_bytes)
        fail(call, "has an address outside of the block's shared memory");
}

void meet(const char* call, void* mine, void (*perform)(void** all, unsigned lanes)) {
    Warp& warp = warps[running->warp];
    wait_in(call, State::in_warp);
    warp.operands[running->lane] = mine;
    if (++warp.waiting < warp.lanes) return running->fiber->leave();
    for (unsigned i = warp.first; i < warp.first + warp.lanes; i++) {
        bool same = threads[i].call == call || !std::strcmp(threads[i].call, call);
        if (!same) give_up(divergence(warp.first, warp.lanes));
        threads[i].state = State::ready;
    }
    warp.waiting = 0;
    perform(warp.operands, warp.lanes);
}

void await_block() {
    wait_in("__syncthreads", State::in_block);
    if (++waiting < threads.size()) return running->fiber->leave();
    for (Thread& thread : threads) thread.state = State::ready;
    waiting = 0;
}

// A copy may land at any time. Forward, it lands when it is awaited, so that what reads it earlier
// reads what was there before; backward it lands at once, over what may still be read.
void begin_copy(void* to, const void* from, bool valid) {
    require_shared("copy_async", to);
    Copy copy{to, {}, running->groups, false};
    if (valid) {
        require_aligned("copy_async", from);
        std::memcpy(copy.bytes, from, sizeof copy.bytes);
    }
    if (backward() || (shuffled() && chance() % 2)) land(copy);
    running->copies.push_back(copy);
}

void commit_copies() { running->groups++; }

void await_copies_but(unsigned groups) {
    auto& copies = running->copies;
    auto pending = [&](const Copy& copy) { return copy.group + groups >= running->groups; };
    auto end = std::find_if(copies.begin(), copies.end(), pending);
    std::for_each(copies.begin(), end, land);
    copies.erase(copies.begin(), end);
}

}  // namespace gpu

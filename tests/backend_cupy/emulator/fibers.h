// Fibers: functions that hand the processor to one another, each with a stack of its own.
//
// One scheduler enters fibers; a fiber leaves for the scheduler, which may enter it again. On x86-64
// a few instructions switch, elsewhere ucontext does, which makes a system call each time.
#pragma once

#include <cstddef>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) && !defined(GPU_ON_CPU_UCONTEXT)
// What a call must preserve is pushed on the stack that is left, and popped from the one entered.
extern "C" void gpu_on_cpu_switch(void** left, void* entered);
asm(R"(
    .text
    .type gpu_on_cpu_switch, @function
gpu_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size gpu_on_cpu_switch, . - gpu_on_cpu_switch
)");

namespace fibers {

using Context = void*;

inline void switch_context(Context& left, Context& entered) {
    gpu_on_cpu_switch(&left, entered);
}

inline void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + bytes);
    top[-1] = nullptr;                          // where nothing called from
    top[-2] = reinterpret_cast<void*>(entry);   // what the first switch returns to
    context = top - 8;                          // below lie six registers, of any value
}

}  // namespace fibers
#else
#include <ucontext.h>

namespace fibers {

using Context = ucontext_t;

inline void switch_context(Context& left, Context& entered) {
    swapcontext(&left, &entered);
}

inline void make_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}

}  // namespace fibers
#endif

namespace fibers {

constexpr size_t stack_bytes = 256 << 10;

// AddressSanitizer must know which stack is in use.
struct StackInUse {
    const void* stack = nullptr;
    size_t bytes = 0;
    void* frames = nullptr;  // the sanitizer's own

    void leave_for([[maybe_unused]] const StackInUse& other, [[maybe_unused]] bool for_good = false) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(for_good ? nullptr : &frames, other.stack, other.bytes);
#endif
    }

    void arrive_from([[maybe_unused]] StackInUse& other) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_finish_switch_fiber(frames, &other.stack, &other.bytes);
#endif
    }
};

static Context scheduler;
static StackInUse scheduler_stack;

class Fiber {
  public:
    // Have the next `enter` begin `entry`, which must call `arrive` first and must not return.
    void start(void (*entry)()) {
        if (!stack) allocate();
#ifdef __SANITIZE_ADDRESS__
        // What was abandoned there has left its frames behind.
        if (!ended) __asan_unpoison_memory_region(stack, stack_bytes);
#endif
        ended = false;
        in_use = {stack, stack_bytes};
        make_context(context, stack, stack_bytes, entry);
    }

    void enter() {
        scheduler_stack.leave_for(in_use);
        switch_context(scheduler, context);
        StackInUse unused;
        scheduler_stack.arrive_from(unused);
    }

    void arrive() { in_use.arrive_from(scheduler_stack); }

    void leave() {
        in_use.leave_for(scheduler_stack);
        switch_context(context, scheduler);
        arrive();
    }

    [[noreturn]] void end() {
        ended = true;
        in_use.leave_for(scheduler_stack, true);
        switch_context(context, scheduler);
        __builtin_unreachable();
    }

  private:
    Context context;
    StackInUse in_use;
    char* stack = nullptr;
    bool ended = true;

    // Stacks grow downward, to a page that may not be touched. They are kept for the next block.
    void allocate() {
        size_t page = sysconf(_SC_PAGESIZE);
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* at = mmap(nullptr, page + stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (at == MAP_FAILED) __builtin_trap();
        mprotect(at, page, PROT_NONE);
        stack = static_cast<char*>(at) + page;
    }
};

}  // namespace fibers

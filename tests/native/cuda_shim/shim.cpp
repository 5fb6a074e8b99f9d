#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {
namespace {

constexpr size_t stack_size = 256 * 1024;
constexpr unsigned lanes = 32;

// Switching stacks. Saved is where a context was left: its stack pointer, or an entry of ucontext where no assembly is
// at hand.
#if defined(__x86_64__)
typedef void* Saved;

// noipa: the caller must not assume that registers survive.
__attribute__((naked, noipa)) void switch_stack(Saved*, Saved) {
    asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}

Saved first_context(char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + stack_size) - 1;
    *top = nullptr;  // entry's return address, at an odd multiple of 8 as after a call; entry never returns
    *--top = reinterpret_cast<void*>(entry);
    return top - 6;  // the registers that switch_stack pops
}
#else
typedef std::shared_ptr<ucontext_t> Saved;

void switch_stack(Saved* from, Saved to) {
    if (!*from) *from = std::make_shared<ucontext_t>();
    swapcontext(from->get(), to.get());
}

Saved first_context(char* stack, void (*entry)()) {
    Saved context = std::make_shared<ucontext_t>();
    getcontext(context.get());
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = stack_size;
    makecontext(context.get(), entry, 0);
    return context;
}
#endif

// The lanes of one warp that have come to a collective.
struct Meeting {
    unsigned mask = 0, arrived = 0;
    Collective kind = Collective::sync;
    uint64_t round = 0;
    uint64_t brought[2][lanes] = {};
};

struct Fiber {
    std::unique_ptr<char[]> stack;
    Saved saved = {};
    bool done = false;
    const char* waits = nullptr;
};

struct Block {
    const char* kernel = "";
    unsigned threads = 0, current = 0, at_barrier = 0, left = 0;
    uint64_t barrier_round = 0, progress = 0;
    const std::function<void()>* thread = nullptr;
    std::vector<Meeting> warps;
    std::string error;
};

Block block;
std::vector<Fiber> fibers;
Saved scheduler = {};
cudaError_t last_error = cudaSuccess;
int current_device = 0;

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;

void to_fiber(Fiber& fiber) {
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), stack_size);
    switch_stack(&scheduler, fiber.saved);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

void to_scheduler(Fiber& fiber) {
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fake, scheduler_stack, scheduler_size);
    switch_stack(&fiber.saved, scheduler);
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_size);
}
#else
void to_fiber(Fiber& fiber) { switch_stack(&scheduler, fiber.saved); }
void to_scheduler(Fiber& fiber) { switch_stack(&fiber.saved, scheduler); }
#endif

void fiber_entry() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
    (*block.thread)();
    Fiber& fiber = fibers[block.current];
    fiber.done = true;
    ++block.left;
    ++block.progress;
    to_scheduler(fiber);
}

void wait(const char* where) {
    fibers[block.current].waits = where;
    to_scheduler(fibers[block.current]);
}

const char* name_of(Collective kind) {
    switch (kind) {
    case Collective::ballot: return "__ballot_sync";
    case Collective::shuffle: return "__shfl_sync";
    case Collective::shuffle_xor: return "__shfl_xor_sync";
    case Collective::match: return "__match_any_sync";
    case Collective::sync: break;
    }
    return "__syncwarp";
}

[[noreturn]] void fail(const std::string& what) {
    throw std::logic_error("kernel " + std::string(block.kernel) + ", block " + std::to_string(blockIdx.x) + ": " +
                           what);
}

void fail_stuck() {
    for (unsigned k = 0; k < block.threads; ++k)
        if (!fibers[k].done)
            fail("thread " + std::to_string(k) + " waits at " + fibers[k].waits + " for threads that do not come (" +
                 std::to_string(block.left) + " of " + std::to_string(block.threads) + " have returned)");
}

void run_block(bool descending) {
    block.warps.assign((block.threads + lanes - 1) / lanes, Meeting());
    block.at_barrier = block.left = 0;
    for (unsigned k = 0; k < block.threads; ++k) {
        Fiber& fiber = fibers[k];
        if (!fiber.stack) fiber.stack.reset(new char[stack_size]);
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(fiber.stack.get(), stack_size);
#endif
        fiber.saved = first_context(fiber.stack.get(), fiber_entry);
        fiber.done = false;
    }
    while (block.left < block.threads) {
        const uint64_t before = block.progress;
        for (unsigned k = 0; k < block.threads; ++k) {
            block.current = descending ? block.threads - 1 - k : k;
            if (fibers[block.current].done) continue;
            threadIdx = {block.current, 0, 0};
            to_fiber(fibers[block.current]);
            if (!block.error.empty()) fail(block.error);
        }
        if (block.progress == before) fail_stuck();
    }
}

}  // namespace

unsigned lane() { return block.current % lanes; }

const uint64_t* meet(unsigned mask, Collective kind, uint64_t value) {
    Meeting& meeting = block.warps[block.current / lanes];
    const unsigned bit = 1u << lane();
    if (!(mask & bit)) block.error = std::string(name_of(kind)) + ": the caller is not in its mask";
    if (meeting.arrived && (meeting.mask != mask || meeting.kind != kind))
        block.error = std::string(name_of(kind)) + " meets " + name_of(meeting.kind) + " within a warp";
    if (!block.error.empty()) wait("a failed collective");
    meeting.mask = mask;
    meeting.kind = kind;
    meeting.arrived |= bit;
    const uint64_t round = meeting.round;
    uint64_t* brought = meeting.brought[round % 2];
    if (meeting.arrived == bit) std::memset(brought, 0, sizeof(meeting.brought[0]));
    brought[lane()] = value;
    ++block.progress;
    if (meeting.arrived == mask) {
        meeting.arrived = 0;
        ++meeting.round;
    }
    while (meeting.round == round) wait(name_of(kind));
    return brought;
}

void meet_block() {
    const uint64_t round = block.barrier_round;
    ++block.progress;
    if (++block.at_barrier == block.threads) {
        block.at_barrier = 0;
        ++block.barrier_round;
    }
    while (block.barrier_round == round) wait("__syncthreads");
}

void run(const char* kernel, unsigned blocks, unsigned threads, const std::function<void()>& thread) {
    // What a device refuses: empty grids and blocks of more than 1024 threads.
    if (blocks == 0 || threads == 0 || threads > 1024) {
        last_error = cudaErrorInvalidConfiguration;
        return;
    }
    static bool descending = false;
    descending = !descending;
    block.kernel = kernel;
    block.threads = threads;
    block.thread = &thread;
    block.error.clear();
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    if (fibers.size() < threads) fibers.resize(threads);
    for (unsigned k = 0; k < blocks; ++k) {
        blockIdx = {descending ? blocks - 1 - k : k, 0, 0};
        run_block(descending);
    }
}

}  // namespace shim

cudaError_t cudaGetLastError() {
    const cudaError_t error = shim::last_error;
    shim::last_error = cudaSuccess;
    return error;
}

cudaError_t cudaGetDevice(int* device) {
    *device = shim::current_device;
    return cudaSuccess;
}

// Two devices, so that the second one can be asked for.
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device > 1) return cudaErrorInvalidDevice;
    shim::current_device = device;
    return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    }
    return "unknown error";
}

// CUDA C on the host: what the kernels of cuda_source.py use, so that a C++ compiler takes them as they are.
//
// Blocks run one after another. The threads of a block run one after another too, each on a stack of its own, and
// __syncthreads() goes on to the next one: when every thread has come to a barrier, the first goes on behind it. The
// threads may run in either order, so that a missing barrier shows as a result that depends on it.

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <vector>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

using std::exp;
using std::log;
using std::max;
using std::min;
using std::sqrt;

struct Index { unsigned x, y, z; };
static Index blockIdx, threadIdx, blockDim, gridDim;

struct Thread {
    ucontext_t beginning;
    jmp_buf place;  // where it waits at a barrier
    std::vector<char> stack;
    bool begun, done;
};

static std::vector<Thread> threads;
static jmp_buf scheduler;
static void (*kernel)(void**);
static void** arguments;

static void __syncthreads() {
    if (!_setjmp(threads[threadIdx.x].place)) _longjmp(scheduler, 1);
}

static void run_thread() {
    kernel(arguments);
    threads[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

// Runs the present thread to its next barrier, or to its end. Jumps, since swapcontext costs two system calls.
static void go_on(Thread& thread) {
    if (_setjmp(scheduler)) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.beginning);
}

static void prepare(Thread& thread) {
    thread.stack.resize(1 << 16);
    thread.begun = thread.done = false;
    getcontext(&thread.beginning);
    thread.beginning.uc_stack.ss_sp = thread.stack.data();
    thread.beginning.uc_stack.ss_size = thread.stack.size();
    makecontext(&thread.beginning, run_thread, 0);
}

// Runs one block; false if some threads ended while others waited at a barrier.
static bool run_block(bool barriers, bool backwards) {
    const int count = blockDim.x;
    if (barriers && (int)threads.size() < count) threads.resize(count);
    for (int t = 0; barriers && t < count; ++t) prepare(threads[t]);
    for (int ended = 0; ended == 0;) {
        for (int k = 0; k < count; ++k) {
            threadIdx.x = backwards ? count - 1 - k : k;
            if (!barriers) { kernel(arguments); ++ended; continue; }
            go_on(threads[threadIdx.x]);
            ended += threads[threadIdx.x].done;
        }
        if (ended && ended < count) return false;
    }
    return true;
}

static int run_grid(const unsigned* grid, unsigned block, bool barriers, bool backwards) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    threadIdx = {0, 0, 0};
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0]; ++x) {
                blockIdx = {x, y, z};
                if (!run_block(barriers, backwards)) return 1;
            }
    return 0;
}

// The scheduler, the memory and the runtime behind cuda_host.hxx.
//
// For ThreadSanitizer compile this file without -fsanitize=thread and with -DCUDA_HOST_TSAN: the scheduler looks at all
// threads, and none of that is an access of a kernel's.
#include "cuda_host.hxx"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sys/mman.h>

#if !defined(__x86_64__) && !defined(CUDA_HOST_UCONTEXT)
#define CUDA_HOST_UCONTEXT
#endif
#ifdef CUDA_HOST_UCONTEXT
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#define CUDA_HOST_ASAN
#endif
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define CUDA_HOST_ASAN
#endif
#if __has_feature(memory_sanitizer)
#define CUDA_HOST_MSAN
#endif
#endif
#ifdef CUDA_HOST_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUDA_HOST_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef CUDA_HOST_MSAN
#include <sanitizer/msan_interface.h>
#endif

#ifndef CUDA_HOST_UCONTEXT
// Saves the registers that a callee keeps, and continues where `load` was saved.
extern "C" __attribute__((visibility("hidden"))) void cuda_host_switch(void **save, void *load);
asm(R"(
.text
.globl cuda_host_switch
.hidden cuda_host_switch
.type cuda_host_switch,@function
cuda_host_switch:
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
.size cuda_host_switch,.-cuda_host_switch
)");
#endif

namespace cuda_host {

__thread const Thread *self = nullptr;
__thread Place place{};

namespace {

constexpr std::size_t page = 4096, stack_bytes = 256 * 1024;
// Each library that is loaded keeps so many stacks at most from launch to launch: a process has 65,530 mappings.
constexpr std::size_t stacks_kept = 64;
constexpr std::size_t shared_default = 48 * 1024, shared_most = 227 * 1024;
constexpr unsigned warp_size = 32, most_threads = 1024;

#ifdef CUDA_HOST_TSAN
// Two threads on one stack would seem to race there, and two blocks whose threads share a fiber would seem ordered:
// a launch of few threads has fibers of its own for each.
constexpr bool own_stacks = true;
constexpr std::size_t few_threads = 512;
#else
constexpr bool own_stacks = false;
constexpr std::size_t few_threads = 0;
#endif

// A stack, below which no access is allowed. It runs threads that never wait one after the other, and stays with one
// that waits. The one without memory is that of the launch itself.
struct Fiber {
#ifdef CUDA_HOST_UCONTEXT
   ucontext_t context{};
#else
   void *top = nullptr;
#endif
   void *fake_stack = nullptr; // AddressSanitizer's
   const void *bottom = nullptr;
   std::size_t size = 0;
   unsigned char *memory = nullptr;

   Fiber() = default;
   Fiber(const Fiber &) = delete;
   Fiber &operator=(const Fiber &) = delete;
   ~Fiber()
   {
      if (!memory)
         return;
#ifdef CUDA_HOST_ASAN
      __asan_unpoison_memory_region(memory, page + stack_bytes);
#endif
      munmap(memory, page + stack_bytes);
   }

   void allocate(void (*entry)())
   {
      void *got = mmap(nullptr, page + stack_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (got == MAP_FAILED || mprotect(static_cast<char *>(got) + page, stack_bytes, PROT_READ | PROT_WRITE) != 0)
         throw std::bad_alloc();
      memory = static_cast<unsigned char *>(got);
      bottom = memory + page;
      size = stack_bytes;
#ifdef CUDA_HOST_UCONTEXT
      getcontext(&context);
      context.uc_stack.ss_sp = memory + page;
      context.uc_stack.ss_size = stack_bytes;
      makecontext(&context, entry, 0);
#else
      void **at = reinterpret_cast<void **>(memory + page + stack_bytes) - 2; // entry finds 8 modulo 16, as called
      *at = reinterpret_cast<void *>(entry);
      for (int k = 0; k < 6; ++k)
         *--at = nullptr;
      top = at;
#endif
   }
};

struct Worker : Thread {
   unsigned warp = 0;
   int line = 0;           // where it waits; 0 where it does not
   Fiber *fiber = nullptr; // what it waits on
   std::unique_ptr<Fiber> own;
   void *tsan = nullptr;
   std::vector<Copy> copies;        // of cp.async, in order of issue
   std::vector<std::size_t> groups; // where each committed group ends
   std::size_t next_copy = 0, next_group = 0;

   void forget_copies()
   {
      copies.clear();
      groups.clear();
      next_copy = next_group = 0;
   }
};

// Threads that wait for each other. phase: which of two turns, so that one who is late in this is not early in the next.
struct Meeting {
   std::vector<Worker *> waiting;
   unsigned phase = 0;
   char sync[2] = {0, 0}; // ThreadSanitizer's
};

struct Warp : Meeting {
   unsigned size = 0;
   alignas(16) unsigned char slots[2][warp_size][slot_bytes];
};

struct Shared {
   std::size_t offset, bytes;
   unsigned char *data;
   std::unique_ptr<void, decltype(&std::free)> memory;
};

void acquire([[maybe_unused]] void *at)
{
#ifdef CUDA_HOST_TSAN
   __tsan_acquire(at);
#endif
}
void release([[maybe_unused]] void *at)
{
#ifdef CUDA_HOST_TSAN
   __tsan_release(at);
#endif
}
void undefined([[maybe_unused]] void *at, [[maybe_unused]] std::size_t bytes)
{
#ifdef CUDA_HOST_MSAN
   __msan_poison(at, bytes);
#endif
}

// Memory whose content is NaN, or undefined under MemorySanitizer.
void *garbage(std::size_t alignment, std::size_t bytes)
{
   void *memory = nullptr;
   if (posix_memalign(&memory, alignment, bytes) != 0)
      return nullptr;
   std::memset(memory, 0xff, bytes);
   undefined(memory, bytes);
   return memory;
}

struct KernelFault : std::runtime_error { // of this file, that MemorySanitizer sees it being made
   using std::runtime_error::runtime_error;
};

// Runs the launches of one thread of the host.
struct Scheduler {
   Fiber home;
   Fiber *current = &home;
   std::vector<std::unique_ptr<Fiber>> fibers;
   std::vector<Fiber *> idle;
   std::vector<std::unique_ptr<Worker>> workers;
   std::vector<std::unique_ptr<Warp>> warps;
   std::vector<Worker *> order, ready; // each from the last to the first
   std::size_t fresh = 0;              // so many at the start of `order` have not begun
   Meeting block;
   std::vector<Shared> memory, past; // of this block; of those before, under ThreadSanitizer
   std::size_t threads = 0, done = 0;
   const Launch *launch = nullptr;
   std::uint32_t seed = 0, random = 1;
   char failure[1000] = ""; // what is wrong with the launch; no std::string, which MemorySanitizer misjudges
   void *home_tsan = nullptr;
   char begun = 0, finished = 0; // ThreadSanitizer's

   Scheduler() = default;
   Scheduler(const Scheduler &) = delete;
   Scheduler &operator=(const Scheduler &) = delete;
   ~Scheduler() { drop(); }

   std::size_t below(std::size_t n)
   {
      random ^= random << 13;
      random ^= random >> 17;
      random ^= random << 5;
      return static_cast<std::size_t>(random * static_cast<std::uint64_t>(n) >> 32);
   }

   // The next thread to run, and whether it begins; null where there is none.
   Worker *pick(bool &begins)
   {
      if (!fresh && ready.empty())
         return nullptr;
      begins = fresh && (ready.empty() || !seed || below(2));
      std::vector<Worker *> &from = begins ? order : ready;
      const std::size_t last = (begins ? fresh : ready.size()) - 1;
      if (seed)
         std::swap(from[last], from[below(last + 1)]);
      Worker *picked = from[last];
      if (begins)
         --fresh;
      else
         ready.pop_back();
      return picked;
   }

   void become([[maybe_unused]] const Thread *thread)
   {
#ifdef CUDA_HOST_TSAN
      void *fiber = thread ? static_cast<const Worker *>(thread)->tsan : home_tsan;
      __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
#endif
   }

   void go(Fiber *to)
   {
      Fiber *from = current;
      current = to;
#ifdef CUDA_HOST_ASAN
      __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->size);
#endif
#ifdef CUDA_HOST_UCONTEXT
      swapcontext(&from->context, &to->context);
#else
      cuda_host_switch(&from->top, to->top);
#endif
      arrive(from->fake_stack);
   }

   void arrive([[maybe_unused]] void *fake_stack)
   {
#ifdef CUDA_HOST_ASAN
      const void *bottom = nullptr;
      std::size_t size = 0;
      __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
      if (!home.size) { // the first switch of all
         home.bottom = bottom;
         home.size = size;
      }
#endif
   }

   void start(Worker *worker, void (*entry)())
   {
      if (own_stacks) {
         if (!worker->own) {
            worker->own = std::make_unique<Fiber>();
            worker->own->allocate(entry);
         }
         go(worker->own.get());
         return;
      }
      if (idle.empty()) {
         fibers.push_back(std::make_unique<Fiber>());
         fibers.back()->allocate(entry);
         idle.push_back(fibers.back().get());
      }
      Fiber *fiber = idle.back();
      idle.pop_back();
      go(fiber);
   }

   void drop();
   [[noreturn]] void fail(const char *what, int line);
   void describe(const char *what, int line);
   void wait(Meeting &meeting, int line);
   bool meet(Meeting &meeting, std::size_t size, int line);
   void threads_of_a_fiber();
   void run(const Launch &given);
   Worker *worker() const { return const_cast<Worker *>(static_cast<const Worker *>(self)); }
};

__thread Scheduler *scheduler = nullptr;

// What the scheduler does is no thread's access.
struct Inside {
#ifdef CUDA_HOST_TSAN
   Inside() { scheduler->become(nullptr); }
   ~Inside() { scheduler->become(self); }
#else
   Inside() {}
#endif
   Inside(const Inside &) = delete;
   Inside &operator=(const Inside &) = delete;
};

void entry() { scheduler->threads_of_a_fiber(); }

// Runs threads to their ends, for as long as the one that comes next has not begun either: that costs no switch.
void Scheduler::threads_of_a_fiber()
{
   arrive(nullptr);
   become(self);
   for (;;) {
      acquire(&begun);
      launch->body(launch->arguments);
      release(&finished); // not to the threads of other blocks: those race with these
      Inside inside;
      Worker *ended = worker();
      if (!ended->copies.empty() || !ended->groups.empty())
         ended->forget_copies();
      ++done;
      bool begins = false;
      Worker *next = pick(begins);
      if (!next && done != threads)
         fail("not every thread reaches the barrier or shuffle", 0);
      self = next;
      if (next && begins && !own_stacks)
         continue;
      if (!own_stacks)
         idle.push_back(current);
      if (!next)
         go(&home);
      else if (begins)
         start(next, entry);
      else
         go(next->fiber);
   }
}

void Scheduler::wait(Meeting &meeting, int line)
{
   Inside inside;
   Worker *here = worker();
   here->line = line;
   here->fiber = current;
   meeting.waiting.push_back(here);
   bool begins = false;
   Worker *next = pick(begins);
   if (!next)
      fail("not every thread reaches the barrier or shuffle", 0);
   self = next;
   if (begins)
      start(next, entry);
   else
      go(next->fiber);
}

// Waits until `size` threads are here; whether this is the last of them.
bool Scheduler::meet(Meeting &meeting, std::size_t size, int line)
{
   std::vector<Worker *> &waiting = meeting.waiting;
   if (!waiting.empty() && waiting.front()->line != line)
      fail("threads wait at different lines", line);
   if (waiting.size() + 1 != size) {
      wait(meeting, line);
      return false;
   }
   Inside inside;
   ++meeting.phase;
   for (std::size_t k = waiting.size(); k-- > 0;) {
      waiting[k]->line = 0;
      ready.push_back(waiting[k]);
   }
   waiting.clear();
   return true;
}

// Leaves the launch: its other threads never end.
void Scheduler::fail(const char *what, int line)
{
   become(nullptr);
   describe(what, line);
   self = nullptr;
   go(&home);
   __builtin_unreachable();
}

// Sets `failure`: what is wrong, where, and at which lines threads wait.
void Scheduler::describe(const char *what, int line)
{
   std::size_t size = 0;
   const auto add = [&](const char *format, auto... values) {
      const int added = std::snprintf(failure + size, sizeof failure - size, format, values...);
      size = std::min(size + static_cast<std::size_t>(std::max(added, 0)), sizeof failure - 1);
   };
   add("kernel %s, block (%u,%u,%u)", launch->name, place.block.x, place.block.y, place.block.z);
   if (line)
      add(", thread (%u,%u,%u), line %d", self->index.x, self->index.y, self->index.z, line);
   add(": %s", what);
   std::vector<std::pair<int, std::size_t>> lines;
   for (std::size_t k = order.size(); k-- > 0;) {
      const int waits = order[k]->line;
      const auto known = std::find_if(lines.begin(), lines.end(), [=](const auto &l) { return l.first == waits; });
      if (known != lines.end())
         ++known->second;
      else if (waits)
         lines.push_back({waits, 1});
   }
   for (const auto &[waits, count] : lines)
      add("; %zu of %zu wait at line %d", count, threads, waits);
}

// Forgets threads that will never end.
void Scheduler::drop()
{
   self = nullptr;
#ifdef CUDA_HOST_TSAN
   for (const auto &w : workers) {
      __tsan_switch_to_fiber(w->tsan, __tsan_switch_to_fiber_no_sync);
      release(&finished);
   }
   become(nullptr);
   acquire(&finished);
   for (const auto &w : workers)
      __tsan_destroy_fiber(w->tsan);
#endif
   idle.clear();
   fibers.clear();
   workers.clear();
   warps.clear();
   order.clear();
   ready.clear();
   memory.clear();
   past.clear();
   block.waiting.clear();
}

void Scheduler::run(const Launch &given)
{
   const dim3 grid = given.blocks.size, size = given.threads.size;
   const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
   threads = std::size_t{size.x} * size.y * size.z;
   launch = &given;
   const char *drawn = std::getenv("SOFIE_CUDA_SEED");
   seed = drawn ? static_cast<std::uint32_t>(std::strtoul(drawn, nullptr, 10)) : 0u;
   random = seed * 2654435761u | 1u;
   const bool apart = threads * blocks <= few_threads;
   while (workers.size() < (apart ? blocks : 1) * threads)
      workers.push_back(std::make_unique<Worker>());
   while (warps.size() < (threads + warp_size - 1) / warp_size)
      warps.push_back(std::make_unique<Warp>());
   std::vector<std::size_t> sequence(seed ? blocks : 0);
   for (std::size_t k = 0; k < sequence.size(); ++k) {
      const std::size_t other = below(k + 1);
      sequence[k] = sequence[other];
      sequence[other] = k;
   }
#ifdef CUDA_HOST_TSAN
   home_tsan = __tsan_get_current_fiber();
   for (const auto &w : workers)
      if (!w->tsan)
         w->tsan = __tsan_create_fiber(0);
#endif
   place.block_size = {size.x, size.y, size.z};
   place.grid_size = {grid.x, grid.y, grid.z};
   for (std::size_t w = 0; w < warps.size(); ++w)
      warps[w]->size =
          static_cast<unsigned>(std::min<std::size_t>(warp_size, threads - std::min(threads, w * warp_size)));
   for (std::size_t k = 0; k < blocks; ++k) {
      const std::size_t at = seed ? sequence[k] : k;
      place.block = {
          static_cast<unsigned>(at % grid.x),
          static_cast<unsigned>(at / grid.x % grid.y),
          static_cast<unsigned>(at / grid.x / grid.y)};
      if (k == 0 || apart) {
         order.resize(threads);
         for (unsigned t = 0; t < threads; ++t) {
            Worker &w = *workers[(apart ? k * threads : 0) + t];
            w.index = {t % size.x, t / size.x % size.y, t / size.x / size.y};
            w.lane = t % warp_size;
            w.warp = t / warp_size;
            w.lanes = warps[w.warp]->size;
            order[threads - 1 - t] = &w;
         }
      }
      fresh = threads;
      done = 0;
      release(&begun);
      bool begins = false;
      Worker *first = pick(begins);
      self = first;
      start(first, entry);
      if (*failure) {
         drop();
         const KernelFault error(failure);
         *failure = 0;
#ifdef CUDA_HOST_MSAN
         __msan_unpoison_string(error.what());
#endif
         throw error;
      }
      if (own_stacks)
         for (Shared &s : memory)
            past.push_back(std::move(s));
      memory.clear();
   }
   become(nullptr);
   acquire(&finished);
   past.clear();
   if (!own_stacks && fibers.size() > stacks_kept) {
      idle.clear();
      fibers.clear();
   }
}

void run(const Launch &launch)
{
   thread_local std::unique_ptr<Scheduler> of_this_thread;
   if (!of_this_thread) {
      of_this_thread = std::make_unique<Scheduler>();
      scheduler = of_this_thread.get();
   }
   scheduler->run(launch);
}

} // namespace

void fail(const char *what, int line) { scheduler->fail(what, line); }

void barrier(int line)
{
   Scheduler &s = *scheduler;
   char *sync = &s.block.sync[s.block.phase % 2];
   release(sync);
   s.meet(s.block, s.threads, line);
   acquire(sync);
}

void warp_barrier(int line)
{
   Scheduler &s = *scheduler;
   Warp &warp = *s.warps[s.worker()->warp];
   char *sync = &warp.sync[warp.phase % 2];
   release(sync);
   s.meet(warp, warp.size, line);
   acquire(sync);
}

const unsigned char *exchange(const void *mine, std::size_t bytes, int line)
{
   Scheduler &s = *scheduler;
   Warp &warp = *s.warps[s.worker()->warp];
   unsigned char (*slots)[slot_bytes] = warp.slots[warp.phase % 2];
   for (std::size_t k = 0; k < bytes / 4; ++k) // by words: memcpy would be an access that ThreadSanitizer sees
      reinterpret_cast<volatile Word *>(slots[self->lane])[k] = static_cast<const Word *>(mine)[k];
   s.meet(warp, warp.size, line);
   return slots[0];
}

void *shared(std::size_t offset, std::size_t bytes, std::size_t alignment, int line)
{
   Scheduler &s = *scheduler;
   for (const Shared &known : s.memory)
      if (known.offset == offset && known.bytes == bytes) {
         acquire(&s.memory);
         return known.data;
      }
   if (offset + bytes > s.launch->shared_bytes)
      fail("more shared memory is used than the launch asks for", line);
   if (offset % alignment)
      fail("an array in shared memory is not aligned to its elements", line);
   {
      Inside inside;
      constexpr std::size_t line_bytes = 128;
      const std::size_t before = offset % line_bytes;
      auto *made = static_cast<unsigned char *>(garbage(line_bytes, before + bytes));
      if (!made)
         throw std::bad_alloc();
#ifdef CUDA_HOST_ASAN
      __asan_poison_memory_region(made, before);
#endif
      s.memory.push_back({offset, bytes, made + before, {made, &std::free}});
      release(&s.memory);
   }
   acquire(&s.memory);
   return s.memory.back().data;
}

void issue(const Copy &copy)
{
   Inside inside;
   undefined(copy.to, copy.words * sizeof(Word));
   scheduler->worker()->copies.push_back(copy);
}

void instructions::cp_async_commit()
{
   Inside inside;
   Worker &w = *scheduler->worker();
   w.groups.push_back(w.copies.size());
}

bool next_copy(unsigned groups_left, Copy &copy)
{
   Worker &w = *scheduler->worker();
   while (w.groups.size() - w.next_group > groups_left) {
      if (w.next_copy < w.groups[w.next_group]) {
         copy = w.copies[w.next_copy++];
         return true;
      }
      ++w.next_group;
   }
   if (w.next_copy == w.copies.size() && w.next_group == w.groups.size())
      w.forget_copies();
   return false;
}

namespace {

float half_to_float(unsigned half)
{
   const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3ffu;
   if (exponent == 31)
      return __uint_as_float(sign | 0x7f800000u | fraction << 13);
   if (exponent)
      return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
   return std::ldexp(static_cast<float>(fraction), -24) * (sign ? -1.0f : 1.0f);
}

unsigned float_to_half(float x)
{
   const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
   if (size > 0x7f800000u)
      return 0x7fffu;
   if (size >= 0x477ff000u) // rounds beyond 65504
      return sign | 0x7c00u;
   if (size >= 0x38800000u) // not subnormal
      return sign | (((size + 0xfffu + (size >> 13 & 1u)) >> 13) - (112u << 10));
   return sign | static_cast<unsigned>(std::nearbyint(std::ldexp(__uint_as_float(size), 24)));
}

unsigned float_to_bf16(float x)
{
   const unsigned bits = __float_as_uint(x);
   return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

struct Operands {
   unsigned a[4], b[2];
};

// Two neighbours along k of an operand's register, or one where an element fills it.
void decode(Element element, unsigned bits, float *to)
{
   if (element == Element::tf32) {
      to[0] = __uint_as_float(bits & ~0x1fffu);
   } else if (element == Element::bf16) {
      to[0] = __uint_as_float(bits << 16);
      to[1] = __uint_as_float(bits & 0xffff0000u);
   } else {
      to[0] = half_to_float(bits & 0xffffu);
      to[1] = half_to_float(bits >> 16);
   }
}

} // namespace

// m16n8k16, of tf32 m16n8k8: lane l has the results of rows l / 4 and l / 4 + 8 in columns l % 4 * 2 and the next. The
// product of two elements is exact in float.
void mma(Element element, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line)
{
   const Operands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
   const unsigned char *slots = exchange(&mine, sizeof mine, line);
   if (self->lanes != warp_size)
      fail("mma: its warp is not full", line);
   const unsigned packed = element == Element::tf32 ? 1 : 2, lane = self->lane;
   float rows[2][16], columns[2][16];
   for (unsigned q = 0; q < 4; ++q)
      for (unsigned i = 0; i < 2; ++i) {
         const auto row = slot<Operands>(slots, lane / 4 * 4 + q);
         const auto column = slot<Operands>(slots, (lane % 4 * 2 + i) * 4 + q);
         for (unsigned half = 0; half < 2; ++half) {
            const unsigned k = (half * 4 + q) * packed;
            decode(element, row.a[half * 2 + i], &rows[i][k]);
            decode(element, column.b[half], &columns[i][k]);
         }
      }
   for (unsigned i = 0; i < 4; ++i)
      for (unsigned k = 0; k < 8 * packed; ++k)
         d[i] += rows[i / 2][k] * columns[i % 2][k];
}

// m16n8k32 of bytes: lanes have the results as above, and four terms in each word.
void mma(const Signs &signs, int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line)
{
   const Operands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
   const unsigned char *slots = exchange(&mine, sizeof mine, line);
   if (self->lanes != warp_size)
      fail("mma: its warp is not full", line);
   const auto byte = [](unsigned word, unsigned k, bool sign) {
      const unsigned bits = word >> 8 * k & 0xffu;
      return sign ? static_cast<int>(bits ^ 0x80u) - 0x80 : static_cast<int>(bits);
   };
   const unsigned lane = self->lane;
   for (unsigned i = 0; i < 4; ++i)
      for (unsigned q = 0; q < 4; ++q) {
         const auto row = slot<Operands>(slots, lane / 4 * 4 + q);
         const auto column = slot<Operands>(slots, (lane % 4 * 2 + i % 2) * 4 + q);
         for (unsigned half = 0; half < 2; ++half)
            for (unsigned k = 0; k < 4; ++k) {
               const int product = byte(row.a[half * 2 + i / 2], k, signs.a) * byte(column.b[half], k, signs.b);
               d[i] = static_cast<int>(static_cast<unsigned>(d[i]) + static_cast<unsigned>(product));
            }
      }
}

unsigned instructions::to_tf32(float x)
{
   const unsigned bits = __float_as_uint(x);
   return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu; // nearest, ties away from zero
}

unsigned instructions::pack_bf16(float low, float high) { return float_to_bf16(low) | float_to_bf16(high) << 16; }

unsigned instructions::pack_fp16(float low, float high) { return float_to_half(low) | float_to_half(high) << 16; }

// What a stream has been asked to do while it was captured.
struct Graph {
   std::vector<std::function<void()>> nodes;
};

struct GraphExec {
   std::vector<std::function<void()>> nodes;
};

struct Stream {
   std::unique_ptr<Graph> capture;
   bool valid = true;
};

namespace {

thread_local cudaError_t last = cudaSuccess;
thread_local std::vector<Stream *> captures; // begun by this thread

// What all threads of the host share.
struct Device {
   std::mutex mutex;
   std::vector<std::pair<unsigned char *, std::size_t>> allocations;
   std::vector<std::pair<const void *, int>> shared_limits;

   bool owns(const void *at)
   {
      const std::lock_guard<std::mutex> lock(mutex);
      for (const auto &[start, bytes] : allocations)
         if (std::less_equal<const void *>()(start, at) && std::less<const void *>()(at, start + bytes))
            return true;
      return false;
   }

   std::size_t shared_limit(const void *kernel)
   {
      const std::lock_guard<std::mutex> lock(mutex);
      for (const auto &[known, bytes] : shared_limits)
         if (known == kernel)
            return std::max(shared_default, static_cast<std::size_t>(bytes));
      return shared_default;
   }
};

Device &device()
{
   static Device the;
   return the;
}

cudaError_t report(cudaError_t status)
{
   if (status != cudaSuccess)
      last = status;
   return status;
}

// An act that may wait for other streams is refused while this thread captures one, and ends that capture.
bool capture_forbids()
{
   for (Stream *stream : captures)
      stream->valid = false;
   return !captures.empty();
}

void enqueue(std::function<void()> act, Stream *stream)
{
   if (stream && stream->capture)
      stream->capture->nodes.push_back(std::move(act));
   else
      act();
}

// A copy that takes memory of the device for the host's is refused, as the driver does.
bool sides_differ(const void *to, const void *from, cudaMemcpyKind kind)
{
   const bool to_host = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost;
   const bool from_host = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost;
   return (to_host && device().owns(to)) || (from_host && device().owns(from));
}

bool fits(const Launch &launch)
{
   const dim3 grid = launch.blocks.size, size = launch.threads.size;
   return launch.blocks.fits && launch.threads.fits && grid.x && grid.y && grid.z && size.x && size.y && size.z &&
          grid.x <= 2147483647u && grid.y <= 65535u && grid.z <= 65535u && size.x <= most_threads &&
          size.y <= most_threads && size.z <= 64u && std::size_t{size.x} * size.y * size.z <= most_threads;
}

} // namespace

cudaError_t set_shared_limit(const void *kernel, int bytes)
{
   if (bytes < 0 || static_cast<std::size_t>(bytes) > shared_most)
      return report(cudaErrorInvalidValue);
   const std::lock_guard<std::mutex> lock(device().mutex);
   for (auto &[known, limit] : device().shared_limits)
      if (known == kernel) {
         limit = bytes;
         return cudaSuccess;
      }
   device().shared_limits.push_back({kernel, bytes});
   return cudaSuccess;
}

void enqueue(const Launch &launch, Stream *stream)
{
   if (!fits(launch)) {
      report(cudaErrorInvalidConfiguration);
   } else if (launch.shared_bytes > shared_default && launch.shared_bytes > device().shared_limit(launch.kernel)) {
      report(cudaErrorInvalidValue);
   } else if (!stream || !stream->capture) {
      run(launch);
   } else {
      struct alignas(16) Unit {
         unsigned char bytes[16];
      };
      std::vector<Unit> arguments((launch.argument_bytes + sizeof(Unit) - 1) / sizeof(Unit));
      std::memcpy(arguments.data(), launch.arguments, launch.argument_bytes);
      stream->capture->nodes.push_back([launch, arguments] {
         Launch again = launch;
         again.arguments = arguments.data();
         run(again);
      });
   }
}

} // namespace cuda_host

using namespace cuda_host;

const char *cudaGetErrorString(cudaError_t status)
{
   switch (status) {
   case cudaSuccess:
      return "no error";
   case cudaErrorInvalidValue:
      return "invalid argument";
   case cudaErrorMemoryAllocation:
      return "out of memory";
   case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
   case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
   case cudaErrorIllegalState:
      return "the operation cannot be performed in the present state";
   case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
   case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
   case cudaErrorStreamCaptureWrongThread:
      return "attempt to terminate a thread-local capture sequence from another thread";
   }
   return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return std::exchange(last, cudaSuccess); }

cudaError_t cudaPeekAtLastError() { return last; }

cudaError_t cudaMalloc(void **memory, std::size_t bytes)
{
   if (capture_forbids())
      return report(cudaErrorStreamCaptureUnsupported);
   *memory = nullptr;
   if (bytes == 0)
      return cudaSuccess;
   *memory = garbage(256, bytes);
   if (!*memory)
      return report(cudaErrorMemoryAllocation);
   const std::lock_guard<std::mutex> lock(device().mutex);
   device().allocations.push_back({static_cast<unsigned char *>(*memory), bytes});
   return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
   if (capture_forbids())
      return report(cudaErrorStreamCaptureUnsupported);
   if (!memory)
      return cudaSuccess;
   const std::lock_guard<std::mutex> lock(device().mutex);
   auto &allocations = device().allocations;
   for (std::size_t k = 0; k < allocations.size(); ++k)
      if (allocations[k].first == memory) {
         allocations[k] = allocations.back();
         allocations.pop_back();
         std::free(memory);
         return cudaSuccess;
      }
   return report(cudaErrorInvalidValue);
}

cudaError_t cudaMemcpy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind)
{
   if (capture_forbids())
      return report(cudaErrorStreamCaptureUnsupported);
   return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
   if (sides_differ(to, from, kind))
      return report(cudaErrorInvalidValue);
   enqueue(
       [=] {
          if (bytes)
             std::memcpy(to, from, bytes);
       },
       stream);
   return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *at, int value, std::size_t bytes, cudaStream_t stream)
{
   enqueue(
       [=] {
          if (bytes)
             std::memset(at, value, bytes);
       },
       stream);
   return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
   if (flags != cudaStreamNonBlocking)
      return report(cudaErrorInvalidValue);
   *stream = new Stream;
   return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
   if (!stream)
      return report(cudaErrorInvalidResourceHandle);
   for (std::size_t k = 0; k < captures.size(); ++k)
      if (captures[k] == stream)
         captures.erase(captures.begin() + static_cast<std::ptrdiff_t>(k));
   delete stream;
   return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
   return capture_forbids() ? report(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
   *status = cudaStreamCaptureStatusNone;
   if (stream && stream->capture)
      *status = stream->valid ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusInvalidated;
   return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
   if (!stream)
      return report(cudaErrorStreamCaptureUnsupported);
   if (stream->capture)
      return report(cudaErrorIllegalState);
   stream->capture = std::make_unique<Graph>();
   stream->valid = true;
   captures.push_back(stream);
   return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
   *graph = nullptr;
   if (!stream || !stream->capture)
      return report(cudaErrorIllegalState);
   for (std::size_t k = 0; k < captures.size(); ++k)
      if (captures[k] == stream) {
         captures.erase(captures.begin() + static_cast<std::ptrdiff_t>(k));
         const std::unique_ptr<Graph> made = std::move(stream->capture);
         if (!stream->valid)
            return report(cudaErrorStreamCaptureInvalidated);
         *graph = new Graph(std::move(*made));
         return cudaSuccess;
      }
   return report(cudaErrorStreamCaptureWrongThread);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
   if (!graph)
      return report(cudaErrorInvalidValue);
   *exec = new GraphExec{graph->nodes};
   return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
   if (!exec)
      return report(cudaErrorInvalidValue);
   for (const auto &node : exec->nodes)
      enqueue(node, stream);
   return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
   delete graph;
   return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
   delete exec;
   return cudaSuccess;
}

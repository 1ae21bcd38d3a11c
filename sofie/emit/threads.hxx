// The threads of a session: they run the parts of its large kernels together with the thread that calls it.
//
// Whoever is free takes the next part, and the caller waits for parts that are being run, never for a thread that has
// none: one that the system lets wait delays nothing. Idle threads spin for some microseconds, then sleep.

namespace detail {
class Threads {
public:
   // count: the caller is one of them. Throws std::system_error where the system gives none.
   explicit Threads(int count)
   {
      try {
         for (int k = 1; k < count; ++k)
            workers_.emplace_back([this] { work(); });
      } catch (...) {
         end();
         throw;
      }
   }

   ~Threads() { end(); }

   Threads(const Threads &) = delete;
   Threads &operator=(const Threads &) = delete;

   // part(0), part(1), .. part(parts - 1), each by one of the threads; all are done when it returns.
   template <class Part> void run(std::uint32_t parts, const Part &part) noexcept
   {
      what_ = &part;
      call_ = [](const void *what, index k) { (*static_cast<const Part *>(what))(k); };
      done_.store(0, std::memory_order_relaxed);
      const std::uint64_t runs = (left_.load(std::memory_order_relaxed) >> 32) + 1;
      left_.store(runs << 32 | parts);
      if (asleep_.load() > 0) {
         { // a thread that is falling asleep either sees the parts or hears the call
            const std::lock_guard<std::mutex> lock(mutex_);
         }
         wake_.notify_all();
      }
      while (take()) {
      }
      for (int turn = 0; done_.load(std::memory_order_acquire) != parts; ++turn)
         wait(turn);
   }

private:
   static constexpr int spins = 2000;
   static constexpr std::uint64_t parts_mask = 0xffffffffu;

   // Runs a part if one is left. Its number is taken together with that of the run, so nobody takes one of a run that
   // is over, and no run is over before all that was taken is done.
   bool take() noexcept
   {
      std::uint64_t left = left_.load(std::memory_order_acquire);
      while ((left & parts_mask) != 0) {
         if (left_.compare_exchange_weak(left, left - 1, std::memory_order_acquire)) {
            call_(what_, static_cast<index>(left & parts_mask) - 1);
            done_.fetch_add(1, std::memory_order_release);
            return true;
         }
      }
      return false;
   }

   void work() noexcept
   {
      do {
         for (int turn = 0; turn < spins; ++turn) {
            if (take())
               turn = 0;
            else
               wait(0);
         }
      } while (sleep());
   }

   // False once there will be no more parts.
   bool sleep() noexcept
   {
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, [this] { return over_ || (left_.load() & parts_mask) != 0; });
      asleep_.fetch_sub(1);
      return !over_;
   }

   static void wait(int turn) noexcept
   {
      if (turn >= spins)
         std::this_thread::yield();
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      __asm__ volatile("yield");
#endif
   }

   void end() noexcept
   {
      {
         const std::lock_guard<std::mutex> lock(mutex_);
         over_ = true;
      }
      wake_.notify_all();
      for (auto &worker : workers_)
         worker.join();
   }

   std::atomic<std::uint64_t> left_{0}; // the number of the run, and in the low half how many parts nobody has taken
   std::atomic<std::uint32_t> done_{0};
   std::atomic<int> asleep_{0};
   void (*call_)(const void *, index) = nullptr;
   const void *what_ = nullptr;
   std::mutex mutex_;
   std::condition_variable wake_;
   bool over_ = false;
   std::vector<std::thread> workers_;
};
} // namespace detail

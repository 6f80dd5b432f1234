#include "thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace edgead {
namespace {

// A kernel's next job mostly follows at once, and sleeping and waking cost a job's time: who has nothing to do looks for this
// long before it sleeps.
constexpr std::chrono::microseconds kAttention{30};

template <class Condition>
void look_for(const Condition& holds) {
  const auto end = std::chrono::steady_clock::now() + kAttention;
  while (!holds() && std::chrono::steady_clock::now() < end) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }
}

struct Job {
  void (*body)(void*, int64_t, int) = nullptr;
  void* context = nullptr;
  int64_t tasks = 0;
  int workers = 0;  // the caller included
  int cpu = -1;     // where the caller runs
};

class Pool {
 public:
  // Serves one job at a time.
  std::mutex busy;

  void run(Job job) {
    job.cpu = sched_getcpu();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      threads_.reserve(static_cast<size_t>(job.workers));  // push_back must not throw while a thread is at hand
      while (static_cast<int>(threads_.size()) < job.workers - 1) {
        std::thread thread(&Pool::work, this, static_cast<int>(threads_.size()) + 1, generation_.load());
        threads_.push_back({thread.native_handle(), -1});
        thread.detach();
      }
      job_ = job;
      next_.store(0, std::memory_order_relaxed);
      error_ = nullptr;
      open_ = true;
      generation_.fetch_add(1);
    }
    keep_away(job);
    wake_.notify_all();
    drain(job, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    open_ = false;  // who has not woken by now is not waited for
    if (active_.load() != 0) {
      lock.unlock();
      look_for([this] { return active_.load() == 0; });
      lock.lock();
      done_.wait(lock, [this] { return active_.load() == 0; });
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Thread {
    pthread_t handle;
    int kept_from;  // the CPU it may not run on, or -1
  };

  // On a machine with no idle CPU the system wakes a thread where its waker runs. There it would wait for the caller, which
  // does all the work meanwhile: it is sent to any other CPU that the caller may use.
  void keep_away(const Job& job) {
    cpu_set_t others;
    bool known = false;
    for (int i = 0; i < job.workers - 1; ++i) {
      Thread& thread = threads_[i];
      if (job.cpu < 0 || thread.kept_from == job.cpu) continue;
      if (!known && sched_getaffinity(0, sizeof others, &others) != 0) return;
      known = true;
      CPU_CLR(job.cpu, &others);
      if (CPU_COUNT(&others) == 0) return;
      pthread_setaffinity_np(thread.handle, sizeof others, &others);  // refused: it runs where it may
      thread.kept_from = job.cpu;
    }
  }

  void drain(const Job& job, int worker) {
    try {
      for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < job.tasks;)
        job.body(job.context, task, worker);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int worker, uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      seen = generation_.load();
      const Job job = job_;
      if (!open_ || worker >= job.workers) continue;
      active_.fetch_add(1);
      lock.unlock();
      drain(job, worker);
      lock.lock();
      if (active_.fetch_sub(1) == 1) done_.notify_one();
      lock.unlock();
      // Not where the caller runs: it would be kept from its next job.
      if (sched_getcpu() != job.cpu) look_for([&] { return generation_.load() != seen; });
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job job_;
  std::vector<Thread> threads_;
  std::atomic<int64_t> next_{0};
  std::exception_ptr error_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};  // workers inside the job, the caller not counted
  bool open_ = false;           // the job may still be joined
};

// Never destroyed: its threads sleep in it until the process ends. A forked child has none of them and starts afresh.
std::atomic<Pool*> g_pool{nullptr};

Pool& pool() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { g_pool.store(new Pool); }); });
  Pool* current = g_pool.load();
  if (current == nullptr) {
    Pool* created = new Pool;
    if (g_pool.compare_exchange_strong(current, created)) return *created;
    delete created;
  }
  return *current;
}

int usable_cpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  const unsigned count = std::thread::hardware_concurrency();
  return count ? static_cast<int>(count) : 1;
}

struct Scratch {
  void* data[kScratchSlots] = {};
  size_t size[kScratchSlots] = {};
  ~Scratch() {
    for (void* block : data) std::free(block);
  }
};
thread_local Scratch t_scratch;

}  // namespace

int resolve_threads(int threads, int64_t tasks) {
  if (threads <= 0) threads = usable_cpus();
  return static_cast<int64_t>(threads) < tasks ? threads : static_cast<int>(tasks);
}

void parallel_for(int64_t tasks, int threads, void (*body)(void*, int64_t, int), void* context) {
  const int workers = resolve_threads(threads, tasks);
  if (workers > 1) {
    Pool& shared = pool();
    std::unique_lock<std::mutex> lock(shared.busy, std::try_to_lock);
    if (lock.owns_lock()) {
      shared.run({body, context, tasks, workers});
      return;
    }
  }
  for (int64_t task = 0; task < tasks; ++task) body(context, task, 0);
}

void* scratch(int slot, size_t bytes) {
  Scratch& own = t_scratch;
  if (own.size[slot] < bytes) {
    std::free(own.data[slot]);
    own.size[slot] = 0;
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    own.data[slot] = std::aligned_alloc(64, rounded);
    if (own.data[slot] == nullptr) throw std::bad_alloc();
    own.size[slot] = rounded;
  }
  return own.data[slot];
}

size_t scratch_bytes() {
  size_t total = 0;
  for (size_t size : t_scratch.size) total += size;
  return total;
}

}  // namespace edgead

// Threads: compiled.load puts this before the source of kernels that use it.

#include <atomic>
#include <thread>
#include <vector>

namespace {

// Runs work(0), …, work(threads - 1), each on a thread of its own, the first on this one.
template <class Work>
void on_threads(int64_t threads, const Work& work) {
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back(work, t);
    work(0);
    for (std::thread& other : others) other.join();
}

// Where threads wait until all of them are there, once.
class Meeting {
public:
    explicit Meeting(int64_t threads) : awaited_(threads) {}
    void wait() {
        for (--awaited_; awaited_ > 0;) std::this_thread::yield();
    }

private:
    std::atomic<int64_t> awaited_;
};

}  // namespace

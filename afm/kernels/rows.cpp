// Rows of the embedding table and of the linear weights: gradients of what was looked up, summed
// per row (afm/look_ups.py), and the step of lazy Adam along them (afm/lazy_adam.py).
//
// Letters: N look-ups, U distinct rows among them, R rows of the tables, K embedding.
//
// Rows are parted among the threads by their numbers, so that each has about as many look-ups. A
// thread sorts its own: look-ups of one row are neighbours then, and the tables are walked upwards.
// It adds a row's gradients up in the order of the look-ups: no atomics are needed, and the number of
// threads does not change the result.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr int kDigit = 11;     // most bits of a row per sweep of the sort; its counts fit in cache
constexpr int64_t kAhead = 8;  // rows fetched in advance: of large tables, none is in a cache
constexpr uint32_t kSample = 1024;  // look-ups that tell where to part the rows

int bits_of(uint64_t n) { return n ? 64 - __builtin_clzll(n) : 0; }

template <class Work>
void on_threads(int64_t threads, const Work& work) {
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back(work, t);
    work(0);
    for (std::thread& other : others) other.join();
}

// Which of the rows are wanted: one of several shares of them.
struct Share {
    int64_t number, of;
};

// Where each thread's rows begin, and the last one's end.
std::vector<int64_t> parted(int64_t N, Share share, int64_t threads, const int64_t* rows) {
    std::vector<int64_t> sample;
    for (uint32_t i = 0; N > 0 && i < kSample; ++i)  // from all over: steps might keep to one field
        sample.push_back(rows[static_cast<uint64_t>(i * 2654435769u) * N >> 32]);
    std::sort(sample.begin(), sample.end());
    std::vector<int64_t> borders;
    const int64_t all = share.of * threads, first = share.number * threads;
    for (int64_t part = first; part <= first + threads; ++part)
        borders.push_back(part == 0        ? 0
                          : part == all    ? std::numeric_limits<int64_t>::max()
                          : sample.empty() ? 0
                                           : sample[sample.size() * part / all]);
    return borders;
}

// Look-ups of the rows from first to before end, by row, and by number within each.
class LookUps {
public:
    LookUps() = default;
    LookUps(int64_t N, const int64_t* rows, int64_t first, int64_t end)
        : first_(first), bits_(bits_of(N)), keys_(new uint64_t[N]) {
        uint64_t all = 0;
        for (int64_t n = 0; n < N; ++n)
            if (first <= rows[n] && rows[n] < end) {
                const auto row = static_cast<uint64_t>(rows[n] - first);
                all |= row;
                keys_[size_++] = row << bits_ | n;
            }
        sort(bits_of(all));
        for (int64_t n = 0; n < size_; ++n) distinct_ += n == 0 || row(n) != row(n - 1);
    }
    int64_t size() const { return size_; }
    int64_t distinct() const { return distinct_; }
    int64_t row(int64_t n) const { return first_ + (keys_[n] >> bits_); }
    int64_t number(int64_t n) const { return keys_[n] & ((uint64_t{1} << bits_) - 1); }

private:
    int64_t first_ = 0, size_ = 0, distinct_ = 0;
    int bits_ = 0;                      // of a number, below those of the row less first_
    std::unique_ptr<uint64_t[]> keys_;  // unlike a vector, it is not filled with zeros first

    // By the lowest bits of the rows: a radix sort. Numbers rise already.
    void sort(int bits) {
        std::unique_ptr<uint64_t[]> next(new uint64_t[size_]);
        const int sweeps = std::max(1, (bits + kDigit - 1) / kDigit);
        const int digit = (bits + sweeps - 1) / sweeps;
        for (int shift = bits_; shift < bits_ + bits; shift += digit) {
            const auto value = [&](uint64_t key) { return key >> shift & ((1 << digit) - 1); };
            int64_t places[(1 << kDigit) + 1] = {};
            for (int64_t n = 0; n < size_; ++n) ++places[value(keys_[n]) + 1];
            for (int d = 0; d < 1 << digit; ++d) places[d + 1] += places[d];
            for (int64_t n = 0; n < size_; ++n) next[places[value(keys_[n])]++] = keys_[n];
            keys_.swap(next);
        }
    }
};

// Gradients (N, K) and (N), whose rows lie some floats apart.
struct Gradients {
    const float* embedding;
    int64_t embedding_stride;
    const float* linear;
    int64_t linear_stride;
};

// Fetches floats, at least one, for soon. Inlined, since gcc drops calls that do no more.
[[gnu::always_inline]] inline void fetch(const float* from, int64_t floats) {
    for (int64_t k = 0; k < floats; k += 16) __builtin_prefetch(from + k, 1);  // a cache line each
    __builtin_prefetch(from + floats - 1, 1);
}

// Calls use(u, row, sum, later) for the u-th distinct row and its summed gradient (K + 1), that of
// the linear weight being the last; later is a row that comes soon, if only this one. Returns U.
// Rows are those of a share of the work; look-ups of rows below 0 count for none.
template <class Use>
int64_t for_each_row(int64_t N, int64_t K, Share share, int64_t threads, const int64_t* rows,
                     const Gradients& grads, const Use& use) {
    const std::vector<int64_t> borders = parted(N, share, threads, rows);
    std::vector<LookUps> parts(threads);
    on_threads(threads, [&](int64_t t) { parts[t] = {N, rows, borders[t], borders[t + 1]}; });
    std::vector<int64_t> firsts{0};  // u of each part's first row
    for (const LookUps& part : parts) firsts.push_back(firsts.back() + part.distinct());

    on_threads(threads, [&](int64_t t) {
        const LookUps& part = parts[t];
        std::vector<float> sum(K + 1);
        int64_t u = firsts[t];
        for (int64_t n = 0; n < part.size();) {
            const int64_t row = part.row(n);
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (; n < part.size() && part.row(n) == row; ++n) {
                const int64_t number = part.number(n);
                const int64_t later = part.number(std::min(n + kAhead, part.size() - 1));
                fetch(grads.embedding + later * grads.embedding_stride, K);
                const float* grad = grads.embedding + number * grads.embedding_stride;
                for (int64_t k = 0; k < K; ++k) sum[k] += grad[k];
                sum[K] += grads.linear[number * grads.linear_stride];
            }
            use(u++, row, sum.data(), part.row(std::min(n + kAhead, part.size() - 1)));
        }
    });
    return firsts.back();
}

}  // namespace

// Writes the distinct rows (N, of which U are used), rising, and their summed gradients (N, K + 1),
// and returns U.
extern "C" int64_t sum_rows(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                            const float* embedding, int64_t embedding_stride, const float* linear,
                            int64_t linear_stride, int64_t share, int64_t shares,
                            int64_t* distinct, float* sums) {
    const Gradients grads{embedding, embedding_stride, linear, linear_stride};
    return for_each_row(N, K, {share, shares}, threads, rows, grads,
                        [&](int64_t u, int64_t row, const float* sum, int64_t) {
                            distinct[u] = row;
                            std::copy_n(sum, K + 1, sums + u * (K + 1));
                        });
}

// Steps with the summed gradients. Tables are V (R, K), w (R) and their moments (R, 2, K + 1).
extern "C" void lazy_adam(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                          const float* embedding, int64_t embedding_stride, const float* linear,
                          int64_t linear_stride, int64_t share, int64_t shares, float* V, float* w,
                          float* moments, float rate, float beta1, float beta2, float epsilon) {
    const Gradients grads{embedding, embedding_stride, linear, linear_stride};
    const auto update = [&](int64_t, int64_t row, float* __restrict step, int64_t later) {
        fetch(V + later * K, K);
        fetch(w + later, 1);
        fetch(moments + later * 2 * (K + 1), 2 * (K + 1));
        float* __restrict m = moments + row * 2 * (K + 1);
        float* __restrict v = m + K + 1;
        for (int64_t k = 0; k <= K; ++k) {
            m[k] += (1 - beta1) * (step[k] - m[k]);
            v[k] += (1 - beta2) * (step[k] * step[k] - v[k]);
            step[k] = rate * m[k] / (std::sqrt(v[k]) + epsilon);
        }
        for (int64_t k = 0; k < K; ++k) V[row * K + k] -= step[k];
        w[row] -= step[K];
    };
    for_each_row(N, K, {share, shares}, threads, rows, grads, update);
}

// Rows of the embedding table and of the linear weights: gradients of what was looked up, summed
// per row (afm/look_ups.py), and the step of lazy Adam along them (afm/lazy_adam.py); and that of
// Adam of weights that are not in tables (afm/dense.py). Goes after vectors.h and threads.h.
//
// Letters: N look-ups, U distinct rows among them, R rows of the tables, K embedding.
//
// Rows are parted among the threads by their numbers, so that each has about as many look-ups. A
// thread sorts its own: look-ups of one row are neighbours then, and the tables are walked upwards.
// It adds a row's gradients up in the order of the look-ups: no atomics are needed, and the number of
// threads does not change the result.

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

namespace {

constexpr int kDigit = 11;      // most bits of a row per sweep of the sort; its counts fit in cache
constexpr int64_t kAhead = 48;  // rows fetched in advance: of large tables, none is in a cache
constexpr uint32_t kSample = 1024;  // look-ups that tell where to part the rows

int bits_of(uint64_t n) { return n ? 64 - __builtin_clzll(n) : 0; }

// Look-ups, whose gradients (N, K) and (N) lie some floats apart.
struct LookedUp {
    int64_t N;
    const int64_t* rows;  // (N); below 0 those that count for none
    const float* x;       // (N), or null: 0 for others that count for none
    const float* embedding;
    int64_t embedding_stride;
    const float* linear;
    int64_t linear_stride;

    bool counts(int64_t n) const { return rows[n] >= 0 && (!x || x[n] != 0); }
};

// Which of the rows are wanted: one of several shares of them.
struct Share {
    int64_t number, of;
};

// Where each thread's rows begin, and the last one's end.
std::vector<int64_t> parted(const LookedUp& from, Share share, int64_t threads) {
    std::vector<int64_t> sample;
    for (uint32_t i = 0; from.N > 0 && i < kSample; ++i) {
        // From all over: steps might keep to one field.
        const int64_t n = static_cast<uint64_t>(i * 2654435769u) * from.N >> 32;
        if (from.counts(n)) sample.push_back(from.rows[n]);
    }
    std::vector<int64_t> borders;
    const int64_t all = share.of * threads, first = share.number * threads;
    auto rest = sample.begin();  // what is before it is no larger, as borders rise
    for (int64_t part = first; part <= first + threads; ++part) {
        const auto border = sample.begin() + sample.size() * part / all;
        if (border != sample.end()) std::nth_element(rest, border, sample.end());
        borders.push_back(part == 0        ? 0
                          : part == all    ? std::numeric_limits<int64_t>::max()
                          : sample.empty() ? 0
                                           : *border);
        rest = border;
    }
    return borders;
}

// Look-ups of the rows from first to before end, by row, and by number within each.
class Sorted {
public:
    Sorted() = default;
    Sorted(const LookedUp& from, int64_t first, int64_t end)
        : first_(first), bits_(bits_of(from.N)), keys_(new uint64_t[from.N]) {
        uint64_t all = 0;
        for (int64_t n = 0; n < from.N; ++n)
            if (first <= from.rows[n] && from.rows[n] < end && from.counts(n)) {
                const auto row = static_cast<uint64_t>(from.rows[n] - first);
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

// Fetches floats, at least one, for soon, into the second cache: into the first, not nearly as many
// could be on their way. Inlined, since gcc drops calls that do no more.
[[gnu::always_inline]] inline void fetch(const float* from, int64_t floats) {
    for (int64_t k = 0; k < floats; k += 16) __builtin_prefetch(from + k, 0, 2);  // a cache line each
    __builtin_prefetch(from + floats - 1, 0, 2);
}

// The summed gradient of a row: of its embedding, and of its linear weight. A few vectors if the
// compiler knows kSize, which is K, a multiple of the lanes; numbers if it is 0.
template <int64_t kSize>
struct Sum {
    static constexpr int64_t kVectors = kSize / kLanes;
    Vec embedding[kVectors];
    float linear;

    explicit Sum(int64_t) {}
    void clear() {
        std::fill_n(embedding, kVectors, Vec{});
        linear = 0;
    }
    void add(const float* grad, float of_linear) {
        for (int64_t c = 0; c < kVectors; ++c) embedding[c] += load(grad + c * kLanes);
        linear += of_linear;
    }
    template <class Do>
    void for_each(const Do& work) const {
        for (int64_t c = 0; c < kVectors; ++c) work(c * kLanes, embedding[c]);
    }
};

template <>
struct Sum<0> {
    std::vector<float> embedding;
    float linear = 0;

    explicit Sum(int64_t K) : embedding(K) {}
    void clear() {
        std::fill(embedding.begin(), embedding.end(), 0.0f);
        linear = 0;
    }
    void add(const float* grad, float of_linear) {
        for (size_t k = 0; k < embedding.size(); ++k) embedding[k] += grad[k];
        linear += of_linear;
    }
    template <class Do>
    void for_each(const Do& work) const {
        for (size_t k = 0; k < embedding.size(); ++k) work(k, embedding[k]);
    }
};

// Calls use(u, row, sum, later) for each distinct row and its sum, with u from first on; later is a
// row that comes soon, if only this one.
template <int64_t kSize, class Use>
void for_each_row(int64_t K, const LookedUp& from, const Sorted& part, int64_t first,
                  const Use& use) {
    Sum<kSize> sum(K);
    for (int64_t n = 0; n < part.size(); ++first) {
        const int64_t row = part.row(n);
        sum.clear();
        for (; n < part.size() && part.row(n) == row; ++n) {
            const int64_t number = part.number(n);
            const int64_t later = part.number(std::min(n + kAhead, part.size() - 1));
            fetch(from.embedding + later * from.embedding_stride, kSize ? kSize : K);
            sum.add(from.embedding + number * from.embedding_stride,
                    from.linear[number * from.linear_stride]);
        }
        use(first, row, sum, part.row(std::min(n + kAhead, part.size() - 1)));
    }
}

struct Adam {
    float beta1, beta2, epsilon;
};

inline float root(float x) { return std::sqrt(x); }
inline Vec root(Vec x) {
    for (int lane = 0; lane < kLanes; ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
}

// The step along gradients, numbers or a vector of them, whose moments are moved.
template <class Numbers>
inline Numbers step(Numbers gradient, float rate, const Adam& adam, float* first, float* second) {
    Numbers m, v;
    std::memcpy(&m, first, sizeof m);
    std::memcpy(&v, second, sizeof v);
    m += (1 - adam.beta1) * (gradient - m);
    v += (1 - adam.beta2) * (gradient * gradient - v);
    std::memcpy(first, &m, sizeof m);
    std::memcpy(second, &v, sizeof v);
    return rate * m / (root(v) + adam.epsilon);
}

// What lazy Adam changes, and how far.
struct LazyAdam {
    float *V, *w, *moments;  // (R, K), (R), (R, 2, K + 1)
    float of_embedding, of_linear;
    Adam adam;

    // Steps along the summed gradients of some rows.
    void step_rows(int64_t K, const LookedUp& from, const Sorted& part) const {
        for_size(K, [&](auto known) {
            const int64_t size = known() ? known() : K;
            const auto update = [&](int64_t, int64_t row, const auto& sum, int64_t later) {
                fetch(V + later * size, size);
                fetch(w + later, 1);
                fetch(moments + later * 2 * (size + 1), 2 * (size + 1));
                float* m = moments + row * 2 * (size + 1);
                float *v = m + size + 1, *to = V + row * size;
                sum.for_each([&](int64_t k, auto gradient) {
                    auto x = gradient;
                    std::memcpy(&x, to + k, sizeof x);
                    x -= step(gradient, of_embedding, adam, m + k, v + k);
                    std::memcpy(to + k, &x, sizeof x);
                });
                w[row] -= step(sum.linear, of_linear, adam, m + size, v + size);
            };
            for_each_row<known()>(K, from, part, 0, update);
        });
    }
};

void step_tables(int64_t K, int64_t threads, const LookedUp& from, Share share,
                 const LazyAdam& adam) {
    const std::vector<int64_t> borders = parted(from, share, threads);
    on_threads(threads, [&](int64_t t) {
        adam.step_rows(K, from, Sorted(from, borders[t], borders[t + 1]));
    });
}

// What Adam changes of the weights that are not in tables (N), and how far.
struct DenseAdam {
    int64_t N;
    const float* gradients;
    float *weights, *first, *second;
    float rate;
    Adam adam;

    void step_all() const {
        for (int64_t n = 0; n < N; ++n)
            weights[n] -= step(gradients[n], rate, adam, first + n, second + n);
    }
};

// How weights step along gradients.
struct Optimizer {
    LazyAdam tables;
    DenseAdam others;
};

}  // namespace

// Writes the distinct rows (N, of which U are used), rising, and their summed gradients (N, K + 1),
// and returns U.
extern "C" int64_t sum_rows(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                            const float* embedding, int64_t embedding_stride, const float* linear,
                            int64_t linear_stride, int64_t share, int64_t shares,
                            int64_t* distinct, float* sums) {
    const LookedUp from{N, rows, nullptr, embedding, embedding_stride, linear, linear_stride};
    const std::vector<int64_t> borders = parted(from, {share, shares}, threads);
    std::vector<Sorted> parts(threads);
    on_threads(threads, [&](int64_t t) { parts[t] = {from, borders[t], borders[t + 1]}; });
    std::vector<int64_t> firsts{0};  // u of each part's first row
    for (const Sorted& part : parts) firsts.push_back(firsts.back() + part.distinct());
    on_threads(threads, [&](int64_t t) {
        for_size(K, [&](auto size) {
            const auto keep = [&](int64_t u, int64_t row, const auto& sum, int64_t) {
                float* to = sums + u * (K + 1);
                sum.for_each([&](int64_t k, auto x) { std::memcpy(to + k, &x, sizeof x); });
                to[K] = sum.linear;
                distinct[u] = row;
            };
            for_each_row<size()>(K, from, parts[t], firsts[t], keep);
        });
    });
    return firsts.back();
}

// Steps with the summed gradients, of a size for each table: V (R, K), w (R), and their moments
// (R, 2, K + 1).
extern "C" void lazy_adam(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                          const float* embedding, int64_t embedding_stride, const float* linear,
                          int64_t linear_stride, int64_t share, int64_t shares, float* V, float* w,
                          float* moments, float of_embedding, float of_linear, float beta1,
                          float beta2, float epsilon) {
    const LookedUp from{N, rows, nullptr, embedding, embedding_stride, linear, linear_stride};
    const LazyAdam adam{V, w, moments, of_embedding, of_linear, {beta1, beta2, epsilon}};
    step_tables(K, threads, from, {share, shares}, adam);
}

// Steps all weights: the tables as lazy_adam does, the others as adam.
extern "C" void adam_of_all(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                            const float* embedding, int64_t embedding_stride, const float* linear,
                            int64_t linear_stride, int64_t share, int64_t shares,
                            const Optimizer* optimizer) {
    const LookedUp from{N, rows, nullptr, embedding, embedding_stride, linear, linear_stride};
    step_tables(K, threads, from, {share, shares}, optimizer->tables);
    optimizer->others.step_all();
}

// Steps N weights along their gradients.
extern "C" void adam(int64_t N, const float* gradients, float* weights, float* first, float* second,
                     float rate, float beta1, float beta2, float epsilon) {
    DenseAdam{N, gradients, weights, first, second, rate, {beta1, beta2, epsilon}}.step_all();
}

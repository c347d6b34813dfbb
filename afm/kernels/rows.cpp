// Rows of the embedding table and of the linear weights: gradients of what was looked up, summed
// per row (afm/look_ups.py), and the step of lazy Adam along them (afm/lazy_adam.py).
//
// Letters: N look-ups, U distinct rows among them, R rows of the tables, K embedding.
//
// Look-ups are sorted by row, so that those of one row are neighbours and the tables are walked
// upwards. A row belongs to one thread, which adds its gradients up in the order of the look-ups: no
// atomics are needed, and the number of threads does not change the result.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr int kDigit = 11;      // bits of a row per sweep of the sort; its counts fit in cache
constexpr int64_t kAhead = 8;  // rows fetched in advance: of large tables, none is in a cache

struct LookUp {
    int64_t row, number;
};
using LookUps = std::unique_ptr<LookUp[]>;  // unlike a vector, it is not filled with zeros first

// By row, and by number within each: a radix sort.
LookUps sorted(int64_t N, const int64_t* rows) {
    LookUps look_ups(new LookUp[N]), next(new LookUp[N]);
    int64_t bits = 0;
    for (int64_t n = 0; n < N; ++n) {
        look_ups[n] = {rows[n], n};
        bits |= rows[n];
    }
    for (int shift = 0; shift < 63 && bits >> shift; shift += kDigit) {
        const auto digit = [&](const LookUp& l) { return l.row >> shift & ((1 << kDigit) - 1); };
        int64_t places[(1 << kDigit) + 1] = {};
        for (int64_t n = 0; n < N; ++n) ++places[digit(look_ups[n]) + 1];
        for (int d = 0; d < 1 << kDigit; ++d) places[d + 1] += places[d];
        for (int64_t n = 0; n < N; ++n) next[places[digit(look_ups[n])]++] = look_ups[n];
        look_ups.swap(next);
    }
    return look_ups;
}

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
template <class Use>
int64_t for_each_row(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                     const Gradients& grads, const Use& use) {
    const LookUps look_ups = sorted(N, rows);
    std::vector<int64_t> starts;  // of each row among the look-ups, and their end
    for (int64_t n = 0; n < N; ++n)
        if (n == 0 || look_ups[n].row != look_ups[n - 1].row) starts.push_back(n);
    const int64_t U = starts.size();
    starts.push_back(N);

    const auto first_of = [&](int64_t thread) {
        return std::lower_bound(starts.begin(), starts.end(), N * thread / threads) -
               starts.begin();
    };
    const auto run = [&](int64_t thread) {
        std::vector<float> sum(K + 1);
        const int64_t end = std::min<int64_t>(U, first_of(thread + 1));
        for (int64_t u = first_of(thread); u < end; ++u) {
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (int64_t n = starts[u]; n < starts[u + 1]; ++n) {
                const int64_t number = look_ups[n].number;
                const int64_t later = look_ups[std::min(n + kAhead, N - 1)].number;
                fetch(grads.embedding + later * grads.embedding_stride, K);
                const float* grad = grads.embedding + number * grads.embedding_stride;
                for (int64_t k = 0; k < K; ++k) sum[k] += grad[k];
                sum[K] += grads.linear[number * grads.linear_stride];
            }
            const int64_t later = starts[std::min(u + kAhead, U - 1)];
            use(u, look_ups[starts[u]].row, sum.data(), look_ups[later].row);
        }
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back(run, t);
    run(0);
    for (std::thread& other : others) other.join();
    return U;
}

}  // namespace

// Writes the distinct rows (N, of which U are used), rising, and their summed gradients (N, K + 1),
// and returns U.
extern "C" int64_t sum_rows(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                            const float* embedding, int64_t embedding_stride, const float* linear,
                            int64_t linear_stride, int64_t* distinct, float* sums) {
    const Gradients grads{embedding, embedding_stride, linear, linear_stride};
    return for_each_row(N, K, threads, rows, grads,
                        [&](int64_t u, int64_t row, const float* sum, int64_t) {
                            distinct[u] = row;
                            std::copy_n(sum, K + 1, sums + u * (K + 1));
                        });
}

// Steps with the summed gradients. Tables are V (R, K), w (R) and their moments (R, 2, K + 1).
extern "C" void lazy_adam(int64_t N, int64_t K, int64_t threads, const int64_t* rows,
                          const float* embedding, int64_t embedding_stride, const float* linear,
                          int64_t linear_stride, float* V, float* w, float* moments, float rate,
                          float beta1, float beta2, float epsilon) {
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
    for_each_row(N, K, threads, rows, grads, update);
}

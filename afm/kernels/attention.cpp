// attention_pool of afm/attention.py, forward and backward, without an array of B·P·K or B·P·A.
//
// Letters: B rows, F fields, P = F(F-1)/2 pairs of fields in lexicographic order, K embedding, A
// attention units; for one row, p = (i, j) a pair and c the bias per pair. Xiao et al., IJCAI 2017,
// eq. 4 to 6:
//
//     e_p = v_i∘v_j    z_p = W e_p + b    m_p = [z_p > 0]    l_p = hᵀ(m_p∘z_p) + c_p
//     a = softmax(l)   y = Σ_p a_p e_p
//
// Backward. Let g be the gradient of y, and ∂x that of any x. The chain rule gives
//
//     ∂l_p = δ_p = a_p (gᵀe_p - gᵀy)                 through the softmax
//     ∂c_p = δ_p                                     summed over rows
//     ∂z_p = δ_p (h∘m_p)
//     ∂e_p = a_p g + δ_p u(m_p)                      where u(m) = Wᵀ(h∘m)
//     ∂v_i = Σ_j ∂e_ij∘v_j                           over all j ≠ i
//
// and with Q_a = Σ m_pa δ_p e_p and q_a = Σ m_pa δ_p, summed over rows and pairs,
//
//     ∂W_a = h_a Q_a    ∂b_a = h_a q_a    ∂h_a = Σ m_pa δ_p z_pa = W_aᵀQ_a + b_a q_a
//
// No product with W is needed here, for a mask m_p is only A bits. For each byte of it, 8 units,
// u is looked up in a table of all 256 sums, and δ_p e_p is added to one of 256 buckets. Q_a is the
// sum of the buckets whose byte has the bit of a. Neighbouring pairs mostly have the same byte, and
// would wait until the sum of the one before is stored; so there are two sets of buckets, and the
// pairs of one field take turns with those of the next.
//
// Forward keeps the masks, exp(l - max l) and 1 / Σ exp(l - max l) for backward: 4 + A/8 bytes per
// row and pair. Products e_p are made anew, which costs less than keeping them from forward on.
//
// The forward's time goes into z. There a vector register holds the same number of kLanes rows, and
// z of a few pairs × units stays in registers. The backward's time goes into tables and buckets.
// There a register holds neighbouring columns k of one row.
//
// Rows are summed in chunks of kChunk, and the chunks' sums added in order, so that the number of
// threads does not change the result. A NaN makes its row NaN; so no -ffast-math.

#include <limits>
#include <new>
#include <vector>

namespace {

// ---- Vectors -------------------------------------------------------------------------------

// Pairs × units whose z are in registers: of 32 registers, or of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTilePairs = 3, kTileUnits = 8;
#else
constexpr int kTilePairs = 2, kTileUnits = 4;
#endif

constexpr int kByte = 8;                   // units per byte of a mask
constexpr int kBytes = 256;                // values of a byte
constexpr int kTurns = 2;                  // sets of buckets, and fields that go along together
constexpr int kStrip = 16;                 // columns per sweep of the backward,
constexpr int kVectors = kStrip / kLanes;  // and vectors that hold them
constexpr int kChunk = 256;                // rows, a multiple of kLanes

// Calls work(0), …, work(N - 1), each number a constant: arrays that it indexes stay in registers.
template <class Work, int... n>
[[gnu::always_inline]] inline void unrolled(const Work& work, std::integer_sequence<int, n...>) {
    (work(std::integral_constant<int, n>{}), ...);
}
template <int N, class Work>
[[gnu::always_inline]] inline void unrolled(const Work& work) {
    unrolled(work, std::make_integer_sequence<int, N>{});
}

// A vector that begins a cache line: accesses to vectors of registers then never cross two.
template <class T>
struct LineAllocator {
    using value_type = T;
    static constexpr std::align_val_t kLine{64};
    LineAllocator() = default;
    template <class U>
    explicit LineAllocator(const LineAllocator<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
    void deallocate(T* from, size_t) { ::operator delete(from, kLine); }
    bool operator==(const LineAllocator&) const { return true; }
    bool operator!=(const LineAllocator&) const { return false; }
};
template <class T>
using Array = std::vector<T, LineAllocator<T>>;

float sum_of_lanes(Vec x) {
    float sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += x[lane];
    return sum;
}

// exp(x) for x ≤ 0; 0 below -87, where float32 would soon underflow.
Vec exp_of_nonpositive(Vec x) { return x < -87.0f ? Vec{} : exp_of(x); }

// Some rows, at most kLanes, of x (rows, columns), to a vector per column. Lanes that are left over
// repeat the last row.
void to_lanes(const float* x, int rows, int64_t columns, Vec* out) {
    int64_t c = 0;
    if (rows == kLanes)
        for (; c + kLanes <= columns; c += kLanes) {
            Vec square[kLanes];
            for (int r = 0; r < kLanes; ++r) square[r] = load(x + r * columns + c);
            transpose(square);
            std::copy(square, square + kLanes, out + c);
        }
    for (; c < columns; ++c)
        for (int r = 0; r < kLanes; ++r) out[c][r] = x[std::min(r, rows - 1) * columns + c];
}

// ---- What all rows share -------------------------------------------------------------------

struct Shape {
    int64_t B, F, K, A;
    int64_t P() const { return F * (F - 1) / 2; }
    int64_t groups() const { return (A + kByte - 1) / kByte; }    // of 8 units: bytes of a mask
    int64_t strips() const { return (K + kStrip - 1) / kStrip; }  // of 16 columns
};

// The attention network, with units of h = 0 up to a multiple of 8, in the order in which forward
// reads it.
struct Network {
    Array<float> W;  // (groups·8 / kTileUnits, K, kTileUnits)
    Array<float> b, h;
    std::vector<int64_t> first, second;  // fields of each pair

    Network(const Shape& s, const float* W_, const float* b_, const float* h_)
        : W(s.groups() * kByte * s.K), b(s.groups() * kByte), h(s.groups() * kByte) {
        std::copy(b_, b_ + s.A, b.begin());
        std::copy(h_, h_ + s.A, h.begin());
        for (int64_t a = 0; a < s.A; ++a)
            for (int64_t k = 0; k < s.K; ++k)
                W[(a / kTileUnits * s.K + k) * kTileUnits + a % kTileUnits] = W_[a * s.K + k];
        for (int64_t i = 0; i < s.F; ++i)
            for (int64_t j = i + 1; j < s.F; ++j) {
                first.push_back(i);
                second.push_back(j);
            }
    }
};

// Bit of a unit in its byte.
constexpr uint8_t bit_of(int64_t unit) { return 1u << (unit % kByte); }

// Hands out chunks of the rows, to threads.
class Chunks {
public:
    explicit Chunks(const Shape& s) : count_((s.B + kChunk - 1) / kChunk) {}
    int64_t count() const { return count_; }
    // As many threads as there is work for, at least this one.
    int64_t threads(int64_t most) const { return std::max<int64_t>(1, std::min(most, count_)); }
    template <class Work>
    void take(const Work& work) {
        for (int64_t chunk; (chunk = next_++) < count_;) work(chunk);
    }

private:
    const int64_t count_;
    std::atomic<int64_t> next_{0};
};

// Runs work(chunk, scratch) for every chunk; each thread has scratch of its own.
template <class Scratch, class Work>
void for_each_chunk(const Shape& s, int64_t threads, const Work& work) {
    Chunks chunks(s);
    on_threads(chunks.threads(threads), [&](int64_t) {
        Scratch scratch(s);
        chunks.take([&](int64_t chunk) { work(chunk, scratch); });
    });
}

// What forward leaves for backward, for each kLanes rows.
template <class Float, class Byte>
struct Kept {
    Float* weights;  // (P, kLanes) exp(l - max l)
    Byte* masks;     // (P, groups, kLanes)
    Float* inverse;  // (kLanes) 1 / Σ exp(l - max l)

    Kept at(const Shape& s, int64_t row) const {
        return {weights + row * s.P(), masks + row * s.P() * s.groups(), inverse + row};
    }
};

// ---- Forward -------------------------------------------------------------------------------

// Attention logits of N pairs, from p on, for kLanes rows. Their products (K, N) are made for the
// first units, and kept for the others.
template <int N, bool keep>
void logits_of(const Shape& s, const Network& net, const float* pair_bias, int64_t p, const Vec* v,
               Vec* products, float* logits, uint8_t* masks) {
    const Vec *left[N], *right[N];
    Vec logit[N];
    unrolled<N>([&](auto t) {
        left[t] = v + net.first[p + t] * s.K;
        right[t] = v + net.second[p + t] * s.K;
        logit[t] = splat(pair_bias[p + t]);
    });
    for (int64_t group = 0; group < s.groups(); ++group) {
        Units mask[N] = {};
        unrolled<kByte / kTileUnits>([&](auto tile) {
            constexpr int in_byte = tile * kTileUnits;
            const int64_t unit = group * kByte + in_byte;
            Vec z[N][kTileUnits];
            const float *W = &net.W[unit * s.K], *b = &net.b[unit];
            unrolled<kTileUnits>([&](auto a) {
                unrolled<N>([&](auto t) { z[t][a] = splat(b[a]); });
            });
            const auto sweep = [&](const auto& product) __attribute__((always_inline)) {
                for (int64_t k = 0; k < s.K; ++k, W += kTileUnits) {
                    Vec e[N];
                    unrolled<N>([&](auto t) { e[t] = product(k, t); });
                    unrolled<kTileUnits>([&](auto a) {
                        const Vec w = splat(W[a]);
                        unrolled<N>([&](auto t) { z[t][a] += w * e[t]; });
                    });
                }
            };
            if (unit == 0)
                sweep([&](int64_t k, auto t) __attribute__((always_inline)) {
                    return products[k * N + t] = left[t][k] * right[t][k];
                });
            else
                sweep([&](int64_t k, auto t) __attribute__((always_inline)) {
                    return products[k * N + t];
                });
            const float* h = &net.h[unit];
            unrolled<kTileUnits>([&](auto a) {
                const Vec weight = splat(h[a]);
                unrolled<N>([&](auto t) {
                    const Where on = above_zero(z[t][a]);
                    logit[t] = choose(on, logit[t] + weight * z[t][a], logit[t]);
                    if (keep) mask[t] = with(mask[t], on, bit_of(in_byte + a));
                });
            });
        });
        if (keep)
            unrolled<N>([&](auto t) {
                const Bytes bytes = packed(mask[t]);
                std::memcpy(masks + ((p + t) * s.groups() + group) * kLanes, &bytes, kLanes);
            });
    }
    unrolled<N>([&](auto t) { store(logits + (p + t) * kLanes, logit[t]); });
}

// y += v_i∘Σ_j weight_ij v_j over j > i, for N columns.
template <int N>
void pool(const Shape& s, int64_t i, const Vec* v, const float* weights, Vec* y) {
    Vec sum[N] = {};
    for (int64_t j = i + 1; j < s.F; ++j, weights += kLanes)
        for (int k = 0; k < N; ++k) sum[k] += load(weights) * v[j * s.K + k];
    for (int k = 0; k < N; ++k) y[k] += v[i * s.K + k] * sum[k];
}

struct ForwardScratch {
    Array<Vec> v, y;       // a vector per column
    Array<Vec> products;   // (K, kTilePairs)
    Array<float> weights;  // where none are kept
    explicit ForwardScratch(const Shape& s)
        : v(s.F * s.K), y(s.K), products(s.K * kTilePairs), weights(s.P() * kLanes) {}
};

// At most kLanes rows, which are in scratch.v.
template <bool keep>
void forward_rows(const Shape& s, const Network& net, const float* pair_bias, int rows,
                  ForwardScratch& scratch, const Kept<float, uint8_t>& kept, float* pooled) {
    float* weights = keep ? kept.weights : scratch.weights.data();
    int64_t p = 0;
    const Vec* v = scratch.v.data();
    Vec* products = scratch.products.data();
    for (; p + kTilePairs <= s.P(); p += kTilePairs)
        logits_of<kTilePairs, keep>(s, net, pair_bias, p, v, products, weights, kept.masks);
    for (; p < s.P(); ++p)
        logits_of<1, keep>(s, net, pair_bias, p, v, products, weights, kept.masks);

    Vec top = splat(-std::numeric_limits<float>::infinity());
    for (p = 0; p < s.P(); ++p) {
        const Vec logit = load(weights + p * kLanes);
        top = logit > top ? logit : top;
    }
    Vec total{};
    for (p = 0; p < s.P(); ++p) {
        const Vec weight = exp_of_nonpositive(load(weights + p * kLanes) - top);
        total += weight;
        store(weights + p * kLanes, weight);
    }
    const Vec inverse = 1.0f / total;
    if (keep) store(kept.inverse, inverse);

    std::fill(scratch.y.begin(), scratch.y.end(), Vec{});
    for (int64_t i = 0; i < s.F - 1; ++i) {
        int64_t k = 0;
        for (; k + 8 <= s.K; k += 8) pool<8>(s, i, &scratch.v[k], weights, &scratch.y[k]);
        for (; k < s.K; ++k) pool<1>(s, i, &scratch.v[k], weights, &scratch.y[k]);
        weights += (s.F - 1 - i) * kLanes;
    }
    for (int64_t k = 0; k < s.K; ++k) {
        const Vec y = scratch.y[k] * inverse;
        for (int r = 0; r < rows; ++r) pooled[r * s.K + k] = y[r];
    }
}

// ---- Backward ------------------------------------------------------------------------------

// Pairs up to a multiple of kLanes.
constexpr int64_t whole(int64_t pairs) { return (pairs + kLanes - 1) / kLanes * kLanes; }

// From a vector per pair (P, kLanes) to a line per row (kLanes, whole(P)).
void to_rows(int64_t P, const float* from, float* to) {
    for (int64_t p = 0; p < P; p += kLanes) {
        Vec square[kLanes] = {};
        const int64_t pairs = std::min<int64_t>(kLanes, P - p);
        for (int64_t n = 0; n < pairs; ++n) square[n] = load(from + (p + n) * kLanes);
        transpose(square);
        for (int r = 0; r < kLanes; ++r) store(to + r * whole(P) + p, square[r]);
    }
}

struct BackwardScratch {
    Array<Vec> g, gv;                             // a vector per column
    Array<float> delta;                           // (P, kLanes)
    Array<Vec> bias, q;                           // per pair, per unit: sums over the chunk
    Array<float> weights_of_rows, delta_of_rows;  // (kLanes, whole(P))
    Array<float> row_v, row_dv;                   // (F, kStrip) of one row
    Array<float> buckets;                         // (strips, kTurns, groups, 256, kStrip)

    explicit BackwardScratch(const Shape& s)
        : g(s.K), gv(s.K), delta(whole(s.P()) * kLanes), bias(s.P()),
          q(s.groups() * kByte), weights_of_rows(delta.size()), delta_of_rows(delta.size()),
          row_v(s.F * kStrip), row_dv(s.F * kStrip),
          buckets(s.strips() * kTurns * s.groups() * kBytes * kStrip) {}
};

// u of each byte (strips, groups, 256, kStrip), each from the one with its lowest bit off.
Array<float> table_of_sums(const Shape& s, const float* W, const float* h) {
    Array<float> table(s.strips() * s.groups() * kBytes * kStrip);
    float* u = table.data();
    for (int64_t from = 0; from < s.K; from += kStrip)
        for (int64_t group = 0; group < s.groups(); ++group, u += kBytes * kStrip)
            for (int byte = 1; byte < kBytes; ++byte) {
                const int64_t unit = group * kByte + __builtin_ctz(byte);
                float* sum = u + byte * kStrip;
                std::copy_n(u + (byte & (byte - 1)) * kStrip, kStrip, sum);
                if (unit < s.A)
                    for (int64_t k = from; k < std::min(s.K, from + kStrip); ++k)
                        sum[k - from] += h[unit] * W[unit * s.K + k];
            }
    return table;
}

// gᵀe of N pairs (i, j), (i, j + 1), …; gv is g∘v_i.
template <int N>
void products_of(const Shape& s, const Vec* gv, const Vec* v_j, float* ge) {
    Vec sum[N] = {};
    for (int64_t k = 0; k < s.K; ++k)
        for (int t = 0; t < N; ++t) sum[t] += gv[k] * v_j[t * s.K + k];
    for (int t = 0; t < N; ++t) store(ge + t * kLanes, sum[t]);
}

// δ of kLanes rows, and what it adds to ∂c and q. Here g is divided by Σ exp(l - max l), so that
// the weights need not be.
void deltas(const Shape& s, const Vec* v, const Kept<const float, const uint8_t>& kept,
            BackwardScratch& scratch) {
    float* ge = scratch.delta.data();
    for (int64_t i = 0; i < s.F - 1; ++i) {
        for (int64_t k = 0; k < s.K; ++k) scratch.gv[k] = scratch.g[k] * v[i * s.K + k];
        int64_t j = i + 1;
        for (; j + 4 <= s.F; j += 4, ge += 4 * kLanes)
            products_of<4>(s, scratch.gv.data(), v + j * s.K, ge);
        for (; j < s.F; ++j, ge += kLanes)
            products_of<1>(s, scratch.gv.data(), v + j * s.K, ge);
    }
    // Not from y: where one pair has all attention, gᵀe and gᵀy must be equal to the last bit.
    Vec gy{};
    for (int64_t p = 0; p < s.P(); ++p)
        gy += load(kept.weights + p * kLanes) * load(&scratch.delta[p * kLanes]);
    gy *= load(kept.inverse);
    for (int64_t p = 0; p < s.P(); ++p) {
        const Vec ge = load(&scratch.delta[p * kLanes]);
        const Vec d = load(kept.weights + p * kLanes) * (ge - gy);
        store(&scratch.delta[p * kLanes], d);
        scratch.bias[p] += d;
    }
    for (int64_t group = 0; group < s.groups(); ++group) {
        Vec q[kByte] = {};
        for (int64_t p = 0; p < s.P(); ++p) {
            const Vec d = load(&scratch.delta[p * kLanes]);
            Bytes bytes;
            std::memcpy(&bytes, kept.masks + (p * s.groups() + group) * kLanes, sizeof bytes);
            const Units mask = unpacked(bytes);
            unrolled<kByte>([&](auto a) { q[a] = choose(has(mask, bit_of(a)), q[a] + d, q[a]); });
        }
        for (int a = 0; a < kByte; ++a) scratch.q[group * kByte + a] += q[a];
    }
}

// ∂v of one row and its part of the buckets, for one strip of columns. Weights and delta are (P),
// masks (P, groups) and kLanes apart; fields of v and dv are some floats apart. Fields i come two at
// a time, so that what is read and written of a field j beyond both serves two pairs.
template <int fixed_groups>
void add_row(const Shape& s, const float* grad, const float* v, const float* weights,
             const float* delta, const uint8_t* masks, const float* table, float* buckets,
             float* dv, int64_t field) {
    using Strip = Vec[kVectors];
    const int64_t groups = fixed_groups ? fixed_groups : s.groups();
    const auto read = [](const float* from, Strip& to) __attribute__((always_inline)) {
        for (int c = 0; c < kVectors; ++c) to[c] = load(from + c * kLanes);
    };
    const auto write = [](const Strip& from, float* to) __attribute__((always_inline)) {
        for (int c = 0; c < kVectors; ++c) store(to + c * kLanes, from[c]);
    };
    Strip g;
    read(grad, g);
    const auto add_pair = [&](int64_t p, int turn, const Strip& v_i, const Strip& v_j, Strip& dv_i,
                              Strip& dv_j) __attribute__((always_inline)) {
        Strip de, u = {};
        for (int c = 0; c < kVectors; ++c) de[c] = delta[p] * (v_i[c] * v_j[c]);
        float* set = buckets + turn * (groups * kBytes * kStrip);
        for (int64_t group = 0; group < groups; ++group) {
            const uint8_t byte = masks[(p * groups + group) * kLanes];
            const int64_t at = (group * kBytes + byte) * kStrip;
            for (int c = 0; c < kVectors; ++c) {
                float* bucket = set + at + c * kLanes;
                u[c] += load(table + at + c * kLanes);
                store(bucket, load(bucket) + de[c]);
            }
        }
        for (int c = 0; c < kVectors; ++c) {
            const Vec d = weights[p] * g[c] + delta[p] * u[c];
            dv_i[c] += d * v_j[c];
            dv_j[c] += d * v_i[c];
        }
    };
    int64_t p = 0;  // the pair (i, i + 1)
    for (int64_t i = 0; i + 1 < s.F; i += 2) {
        Strip v_i, dv_i, v_next, dv_next;
        read(v + i * field, v_i);
        read(dv + i * field, dv_i);
        read(v + (i + 1) * field, v_next);
        read(dv + (i + 1) * field, dv_next);
        add_pair(p, 0, v_i, v_next, dv_i, dv_next);
        int64_t of_next = p + s.F - 1 - i;  // the pair (i + 1, i + 2)
        for (int64_t j = i + 2; j < s.F; ++j) {
            Strip v_j, dv_j;
            read(v + j * field, v_j);
            read(dv + j * field, dv_j);
            add_pair(++p, 0, v_i, v_j, dv_i, dv_j);
            add_pair(of_next++, 1, v_next, v_j, dv_next, dv_j);
            write(dv_j, dv + j * field);
        }
        p = of_next;
        write(dv_i, dv + i * field);
        write(dv_next, dv + (i + 1) * field);
    }
}

// At most kLanes rows: v, and lanes, a vector per column of it. Calls before(r) before the longest
// part of each row's work.
template <class Before>
void backward_rows(const Shape& s, const float* v, const Vec* lanes,
                   const Kept<const float, const uint8_t>& kept, const float* grad,
                   const Array<float>& table, int rows, BackwardScratch& scratch, float* dv,
                   const Before& before) {
    to_lanes(grad, rows, s.K, scratch.g.data());
    for (int64_t k = 0; k < s.K; ++k) {
        for (int r = rows; r < kLanes; ++r) scratch.g[k][r] = 0;
        scratch.g[k] *= load(kept.inverse);
    }
    deltas(s, lanes, kept, scratch);
    // Or every row would sweep through all of them, and they do not stay in the first cache.
    to_rows(s.P(), kept.weights, scratch.weights_of_rows.data());
    to_rows(s.P(), scratch.delta.data(), scratch.delta_of_rows.data());

    // For up to 32 units the compiler unrolls.
    const auto add = s.groups() == 1   ? add_row<1>
                     : s.groups() == 2 ? add_row<2>
                     : s.groups() == 4 ? add_row<4>
                                       : add_row<0>;
    const int64_t sums = s.groups() * kBytes * kStrip;
    const bool whole_strips = s.K % kStrip == 0;
    std::fill(dv, dv + rows * s.F * s.K, 0.0f);
    for (int r = 0; r < rows; ++r) {
        before(r);
        const int64_t first = r * whole(s.P());
        for (int64_t strip = 0; strip < s.strips(); ++strip) {
            const int64_t from = strip * kStrip, columns = std::min<int64_t>(kStrip, s.K - from);
            float g[kStrip] = {};
            for (int64_t k = 0; k < columns; ++k) g[k] = scratch.g[from + k][r];
            const float* v_row = v + r * s.F * s.K + from;
            float* dv_row = dv + r * s.F * s.K + from;
            const auto sweep = [&](const float* from_v, float* to_dv, int64_t field) {
                add(s, g, from_v, &scratch.weights_of_rows[first], &scratch.delta_of_rows[first],
                    kept.masks + r, &table[strip * sums], &scratch.buckets[strip * kTurns * sums],
                    to_dv, field);
            };
            if (whole_strips) {
                sweep(v_row, dv_row, s.K);
                continue;
            }
            for (int64_t f = 0; f < s.F; ++f)
                std::copy_n(v_row + f * s.K, columns, &scratch.row_v[f * kStrip]);
            std::fill(scratch.row_dv.begin(), scratch.row_dv.end(), 0.0f);
            sweep(scratch.row_v.data(), scratch.row_dv.data(), kStrip);
            for (int64_t f = 0; f < s.F; ++f)
                std::copy_n(&scratch.row_dv[f * kStrip], columns, dv_row + f * s.K);
        }
    }
}

// Q of a byte's units, the lowest first (kByte, kStrip). Buckets are folded in two again and again:
// what the upper half holds is the sum of the unit whose bit it has. They do not stay as they are.
void fold(float* buckets, float* Q) {
    for (int unit = kByte - 1; unit >= 0; --unit) {
        const int64_t half = (int64_t{1} << unit) * kStrip;
        Vec sum[kVectors] = {};
        for (int64_t n = 0; n < half; n += kStrip)
            for (int c = 0; c < kVectors; ++c) {
                float* lower = buckets + n + c * kLanes;
                const Vec upper = load(lower + half);
                sum[c] += upper;
                store(lower, load(lower) + upper);
            }
        for (int c = 0; c < kVectors; ++c) store(Q + unit * kStrip + c * kLanes, sum[c]);
    }
}

// A chunk's sums: Q (A, K), q (A) and ∂c (P), one after the other. Uses up the buckets.
void read_off(const Shape& s, BackwardScratch& scratch, float* sums) {
    const int64_t set = s.groups() * kBytes * kStrip;
    for (int64_t from = 0; from < s.K; from += kStrip) {
        float* buckets = &scratch.buckets[from / kStrip * kTurns * set];
        for (int64_t n = 0; n < set; ++n)
            for (int turn = 1; turn < kTurns; ++turn) buckets[n] += buckets[turn * set + n];
        for (int64_t a = 0; a < s.A; a += kByte) {
            float Q[kByte * kStrip];
            fold(buckets + a * (kBytes / kByte) * kStrip, Q);
            const int64_t units = std::min<int64_t>(kByte, s.A - a);
            const int64_t columns = std::min<int64_t>(kStrip, s.K - from);
            for (int64_t unit = 0; unit < units; ++unit)
                std::copy_n(Q + unit * kStrip, columns, sums + (a + unit) * s.K + from);
        }
    }
    sums += s.A * s.K;
    for (int64_t a = 0; a < s.A; ++a) *sums++ = sum_of_lanes(scratch.q[a]);
    for (int64_t p = 0; p < s.P(); ++p) *sums++ = sum_of_lanes(scratch.bias[p]);
}

// Gradients of W (A, K), b (A), h (A) and c (P), one after the other, from sums as read_off has them.
// Returns where they end.
float* weights_from_sums(const Shape& s, const float* W, const float* b, const float* h,
                         const double* sums, float* out) {
    const double *Q = sums, *q = Q + s.A * s.K, *c = q + s.A;
    float *dW = out, *db = dW + s.A * s.K, *dh = db + s.A;
    for (int64_t a = 0; a < s.A; ++a) {
        double of_h = b[a] * q[a];
        for (int64_t k = 0; k < s.K; ++k) {
            dW[a * s.K + k] = h[a] * Q[a * s.K + k];
            of_h += W[a * s.K + k] * Q[a * s.K + k];
        }
        db[a] = h[a] * q[a];
        dh[a] = of_h;
    }
    return std::copy(c, c + s.P(), dh + s.A);
}

// The sum over chunks, in their order, of as many numbers each.
template <class Number>
void add_up(const std::vector<Number>& of_chunks, std::vector<double>& sums) {
    for (auto from = of_chunks.begin(); from != of_chunks.end(); from += sums.size())
        for (size_t n = 0; n < sums.size(); ++n) sums[n] += from[n];
}

template <class Do>
void for_rows_of(const Shape& s, int64_t chunk, const Do& work) {
    const int64_t end = std::min(s.B, (chunk + 1) * kChunk);
    for (int64_t row = chunk * kChunk; row < end; row += kLanes)
        work(row, static_cast<int>(std::min<int64_t>(kLanes, end - row)));
}

}  // namespace

// All arrays are contiguous. Those kept for backward have room for B rounded up to 16 rows; where
// nothing is to be kept, they are null.
extern "C" void attention_pool_forward(int64_t B, int64_t F, int64_t K, int64_t A, int64_t threads,
                                       const float* v, const float* W, const float* b,
                                       const float* h, const float* pair_bias, float* pooled,
                                       float* weights, uint8_t* masks, float* inverse) {
    const Shape s{B, F, K, A};
    const Network net(s, W, b, h);
    const Kept<float, uint8_t> kept{weights, masks, inverse};
    for_each_chunk<ForwardScratch>(s, threads, [&](int64_t chunk, ForwardScratch& scratch) {
        for_rows_of(s, chunk, [&](int64_t row, int rows) {
            const auto forward = weights ? forward_rows<true> : forward_rows<false>;
            to_lanes(v + row * F * K, rows, F * K, scratch.v.data());
            forward(s, net, pair_bias, rows, scratch, weights ? kept.at(s, row) : kept,
                    pooled + row * K);
        });
    });
}

extern "C" void attention_pool_backward(int64_t B, int64_t F, int64_t K, int64_t A, int64_t threads,
                                        const float* v, const float* W, const float* b,
                                        const float* h, const float* weights,
                                        const uint8_t* masks, const float* inverse,
                                        const float* grad, float* dv, float* dW, float* db,
                                        float* dh, float* dpair_bias) {
    const Shape s{B, F, K, A};
    const Array<float> table = table_of_sums(s, W, h);
    const Kept<const float, const uint8_t> kept{weights, masks, inverse};
    const int64_t size = A * K + A + s.P();
    std::vector<float> sums_of_chunks((B + kChunk - 1) / kChunk * size);
    for_each_chunk<BackwardScratch>(s, threads, [&](int64_t chunk, BackwardScratch& scratch) {
        std::fill(scratch.bias.begin(), scratch.bias.end(), Vec{});
        std::fill(scratch.q.begin(), scratch.q.end(), Vec{});
        std::fill(scratch.buckets.begin(), scratch.buckets.end(), 0.0f);
        Array<Vec> lanes(F * K);
        for_rows_of(s, chunk, [&](int64_t row, int rows) {
            to_lanes(v + row * F * K, rows, F * K, lanes.data());
            backward_rows(s, v + row * F * K, lanes.data(), kept.at(s, row), grad + row * K, table,
                          rows, scratch, dv + row * F * K, [](int) {});
        });
        read_off(s, scratch, &sums_of_chunks[chunk * size]);
    });

    std::vector<double> sums(size);
    add_up(sums_of_chunks, sums);
    std::vector<float> dense(2 * A + A * K + s.P());
    weights_from_sums(s, W, b, h, sums.data(), dense.data());
    const float* from = dense.data();
    for (const auto& [count, to] : {std::pair{A * K, dW}, {A, db}, {A, dh}, {s.P(), dpair_bias}}) {
        std::copy_n(from, count, to);
        from += count;
    }
}

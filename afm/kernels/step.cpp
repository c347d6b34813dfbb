// A training step of AFM: look-up, forward, loss and backward, a few rows at a time, so that nothing
// per pair leaves the processor's cache; and Adam along the gradients, on the threads that are there
// by then. Goes after rows.cpp, and attention.cpp, which says how attention is differentiated.
//
// Letters: as there; S slots of a row, R rows of the embedding table. For one row of the batch, with
// slots s of field f, x their numbers, ρ and ρ' the factors of dropout, 0 or 1 / (1 - rate), and c
// the model's scale:
//
//     v_f = ρ_f ∘ Σ_s x_s V[row_s]    y = attention_pool(v)    ŷ = w0 + Σ_s x_s w[row_s] + pᵀ(c ρ'∘y)
//
// and with d the derivative of the loss by ŷ,
//
//     ∂w0 = d    ∂w[row_s] = d x_s    ∂p = d c ρ'∘y    ∂y = d c ρ'∘p    ∂V[row_s] = x_s ρ_f∘∂v_f

#include <cmath>

namespace {

struct Batch {
    int64_t S;
    const int64_t *rows, *field_of_slot;  // (B, S), (S)
    const float *x, *labels, *weights;    // (B, S), (B), (B) or null
};

struct Tables {
    const float *embedding, *linear;  // (R, K), (R)
    const float *pair_bias, *p, *bias;  // (P), (K), a number
    float scale;
    float shrinkage;  // what the embeddings are to be multiplied with
};

struct Settings {
    float rate_of_fields, rate_of_pooled;  // of dropout
    uint64_t seed;
    float share;  // of a row in the mean loss
    float l2;     // λ of the embeddings that are looked up
};

// Numbers that look random, the same for a seed and a place whatever the thread: the finaliser
// "lowbias32" by Chris Wellons, twice.
inline uint32_t hashed(uint32_t n) {
    n ^= n >> 16;
    n *= 0x7feb352du;
    n ^= n >> 15;
    n *= 0x846ca68bu;
    return n ^ n >> 16;
}

// Multiplies by the factors of dropout.
void drop(float rate, uint64_t seed, int64_t first, int64_t count, float* numbers) {
    const auto low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    const auto threshold = static_cast<uint32_t>(4294967296.0 * rate);
    const float factor = 1 / (1 - rate);
    for (int64_t n = 0; n < count; ++n) {
        const uint32_t drawn = hashed(hashed(static_cast<uint32_t>(first + n) ^ low) ^ high);
        numbers[n] = drawn < threshold ? 0.0f : numbers[n] * factor;
    }
}

// Where gradients go: of what was looked up, and of the weights; null for weights that need none.
struct Gradients {
    float *embedding, *linear;               // (B, S, K), (B, S)
    float *W, *b, *h, *pair_bias, *p, *bias;  // (A, K), (A), (A), (P), (K), a number
};

struct StepScratch {
    ForwardScratch forward;
    BackwardScratch backward;
    Array<float> v, dv;  // (kLanes, F, K)
    Array<float> y, dy;  // (kLanes, K)
    Array<float> weights, inverse;
    Array<uint8_t> masks;
    std::vector<double> p;  // ∂p of a chunk
    double bias, loss;      // ∂w0 of a chunk, and its loss

    explicit StepScratch(const Shape& s)
        : forward(s), backward(s), v(kLanes * s.F * s.K), dv(v.size()), y(kLanes * s.K),
          dy(y.size()), weights(kLanes * s.P()), inverse(kLanes),
          masks(kLanes * s.P() * s.groups()), p(s.K) {}

    void start_chunk() {
        std::fill(p.begin(), p.end(), 0.0);
        bias = loss = 0;
        std::fill(backward.bias.begin(), backward.bias.end(), Vec{});
        std::fill(backward.q.begin(), backward.q.end(), Vec{});
        std::fill(backward.buckets.begin(), backward.buckets.end(), 0.0f);
    }
};

// to = x·from, K numbers; or what it was, and that.
template <bool add>
inline void scaled(int64_t K, float x, const float* from, float* to) {
    int64_t k = 0;
    for (; k + kLanes <= K; k += kLanes)
        store(to + k, (add ? load(to + k) : Vec{}) + x * load(from + k));
    for (; k < K; ++k) to[k] = (add ? to[k] : 0) + x * from[k];
}

// Fetches what a row looks up, for soon, into the second cache: the first would lose it until then.
// Inlined, since gcc drops calls that do no more.
[[gnu::always_inline]] inline void fetch(const Shape& s, const Batch& batch, const Tables& model,
                                         int64_t row) {
    for (int64_t n = row * batch.S; n < (row + 1) * batch.S; ++n) {
        for (int64_t k = 0; k < s.K; k += 16)
            __builtin_prefetch(model.embedding + batch.rows[n] * s.K + k, 0, 2);
        __builtin_prefetch(model.linear + batch.rows[n], 0, 2);
    }
}

// Field vectors of rows from row on, before dropout, and the linear terms of these rows.
template <int64_t kSize>
void look_up(const Shape& s, const Batch& batch, const Tables& model, int64_t row, int rows,
             float* v, float* linear) {
    const int64_t K = kSize ? kSize : s.K;
    for (int r = 0; r < rows; ++r, v += s.F * K) {
        const int64_t* places = batch.rows + (row + r) * batch.S;
        const float* x = batch.x + (row + r) * batch.S;
        float sum = 0;
        for (int64_t slot = 0, before = -1; slot < batch.S; ++slot) {
            const int64_t place = places[slot], field = batch.field_of_slot[slot];
            const float factor = x[slot] * model.shrinkage, *from = model.embedding + place * K;
            if (field != before)
                scaled<false>(K, factor, from, v + field * K);
            else
                scaled<true>(K, factor, from, v + field * K);
            before = field;
            sum += x[slot] * model.linear[place];
        }
        linear[r] = sum;
    }
}

// Gradients of what was looked up (S, K) and (S), of one row.
template <int64_t kSize>
void to_slots(const Shape& s, const Batch& batch, const Tables& model, int64_t row, const float* dv,
              float d, float l2, float* embedding, float* linear) {
    const int64_t K = kSize ? kSize : s.K;
    for (int64_t slot = 0; slot < batch.S; ++slot, embedding += K) {
        const int64_t n = row * batch.S + slot;
        const float x = batch.x[n];
        scaled<false>(K, x, dv + batch.field_of_slot[slot] * K, embedding);
        if (l2 != 0 && x != 0)
            scaled<true>(K, l2 * model.shrinkage, model.embedding + batch.rows[n] * K, embedding);
        linear[slot] = d * x;
    }
}

// What all chunks share.
struct Task {
    const Shape& s;
    const Network& net;
    const Array<float>& table;  // of sums
    const Batch& batch;
    const Tables& model;
    const Settings& settings;
    const Gradients& grads;
};

// The loss of some rows, at most kLanes, whose first is row, and its gradients by what they looked
// up; what it adds to the other gradients stays in scratch.
void train_rows(const Task& task, int64_t row, int rows, StepScratch& scratch) {
    const auto& [s, net, table, batch, model, settings, grads] = task;
    const int64_t K = s.K, numbers = s.F * K, dropped = s.B * numbers;
    const float of_fields = settings.rate_of_fields, of_pooled = settings.rate_of_pooled;
    float sums[kLanes], ds[kLanes];
    float *v = scratch.v.data(), *dv = scratch.dv.data();
    float *y = scratch.y.data(), *dy = scratch.dy.data();
    for_size(K, [&](auto known) { look_up<known()>(s, batch, model, row, rows, v, sums); });
    if (of_fields > 0) drop(of_fields, settings.seed, row * numbers, rows * numbers, v);
    const Kept<float, uint8_t> kept{scratch.weights.data(), scratch.masks.data(),
                                    scratch.inverse.data()};
    to_lanes(v, rows, numbers, scratch.forward.v.data());
    forward_rows<true>(s, net, model.pair_bias, rows, scratch.forward, kept, y);
    for (int64_t n = 0; n < rows * K; ++n) y[n] *= model.scale;
    for (int r = 0; r < rows; ++r)
        for (int64_t k = 0; k < K; ++k) dy[r * K + k] = model.p[k] * model.scale;
    if (of_pooled > 0) {
        drop(of_pooled, settings.seed, dropped + row * K, rows * K, y);
        drop(of_pooled, settings.seed, dropped + row * K, rows * K, dy);
    }
    for (int r = 0; r < rows; ++r) {
        double logit = *model.bias + sums[r];
        for (int64_t k = 0; k < K; ++k) logit += model.p[k] * y[r * K + k];
        const double label = batch.labels[row + r];
        const double weight = batch.weights ? batch.weights[row + r] : 1;
        const double small = std::exp(-std::abs(logit));  // no overflow
        scratch.loss += weight * (std::max(logit, 0.0) - logit * label + std::log1p(small));
        const double sigmoid = (logit >= 0 ? 1 : small) / (1 + small);
        const double d = weight * (sigmoid - label) * settings.share;
        ds[r] = static_cast<float>(d);
        scratch.bias += d;
        for (int64_t k = 0; k < K; ++k) {
            scratch.p[k] += d * y[r * K + k];
            dy[r * K + k] *= ds[r];
        }
    }
    const Kept<const float, const uint8_t> read{kept.weights, kept.masks, kept.inverse};
    // One row at a time: of many at once, most would wait for each other.
    const auto before = [&](int r) __attribute__((always_inline)) {
        if (row + r + kLanes < s.B) fetch(s, batch, model, row + r + kLanes);
    };
    backward_rows(s, v, scratch.forward.v.data(), read, dy, table, rows, scratch.backward, dv,
                  before);
    if (of_fields > 0) drop(of_fields, settings.seed, row * numbers, rows * numbers, dv);
    const float l2 = 2 * settings.l2 * settings.share;
    for_size(K, [&](auto known) {
        for (int r = 0; r < rows; ++r) {
            const int64_t slot = (row + r) * batch.S;
            to_slots<known()>(s, batch, model, row + r, dv + r * numbers, ds[r], l2,
                              grads.embedding + slot * K, grads.linear + slot);
        }
    });
}

// How many numbers of gradients a chunk has, of what is in no table, and its loss; and these.
int64_t sums_of_chunk(const Shape& s) { return s.A * s.K + s.A + s.P() + s.K + 2; }
void train_chunk(const Task& task, int64_t chunk, StepScratch& scratch, double* sums) {
    const Shape& s = task.s;
    scratch.start_chunk();
    for_rows_of(s, chunk, [&](int64_t row, int rows) { train_rows(task, row, rows, scratch); });
    Array<float> of_attention(s.A * s.K + s.A + s.P());
    read_off(s, scratch.backward, of_attention.data());
    sums = std::copy(of_attention.begin(), of_attention.end(), sums);
    sums = std::copy(scratch.p.begin(), scratch.p.end(), sums);
    *sums++ = scratch.bias;
    *sums++ = scratch.loss;
}

}  // namespace

// Arrays are contiguous. Returns the sum of the rows' losses. The weights are stepped unless there
// is no optimizer.
extern "C" double afm_step(int64_t B, int64_t F, int64_t K, int64_t A, int64_t threads,
                           const float* W, const float* b, const float* h, const Batch* batch,
                           const Tables* model, const Settings* settings, const Gradients* grads,
                           const Optimizer* optimizer) {
    const Shape s{B, F, K, A};
    const Network net(s, W, b, h);
    const Array<float> table = table_of_sums(s, W, h);
    const Task task{s, net, table, *batch, *model, *settings, *grads};
    Chunks chunks(s);
    const int64_t size = sums_of_chunk(s), team = chunks.threads(threads);
    std::vector<double> sums_of_chunks(chunks.count() * size);
    const LookedUp looked_up{B * batch->S, batch->rows,     batch->x, grads->embedding,
                             K,            grads->linear,   1};
    const auto borders = optimizer ? parted(looked_up, {0, 1}, team) : std::vector<int64_t>{};
    Meeting meeting(team);
    on_threads(team, [&](int64_t t) {
        StepScratch scratch(s);
        chunks.take([&](int64_t chunk) {
            train_chunk(task, chunk, scratch, &sums_of_chunks[chunk * size]);
        });
        if (!optimizer) return;
        const Sorted part(looked_up, borders[t], borders[t + 1]);  // who is done first need not wait
        meeting.wait();
        optimizer->tables.step_rows(K, looked_up, part);
    });
    std::vector<double> sums(size);
    add_up(sums_of_chunks, sums);
    std::vector<float> dense(A * K + 2 * A + s.P() + K + 1);
    float* rest = weights_from_sums(s, W, b, h, sums.data(), dense.data());
    std::copy(sums.end() - K - 2, sums.end() - 1, rest);
    const float* from = dense.data();
    for (const auto& [count, to] : {std::pair{A * K, grads->W}, {A, grads->b}, {A, grads->h},
                                    {s.P(), grads->pair_bias}, {K, grads->p}, {1, grads->bias}}) {
        if (to) std::copy_n(from, count, to);
        from += count;
    }
    if (optimizer) optimizer->others.step_all();
    return sums.back();
}

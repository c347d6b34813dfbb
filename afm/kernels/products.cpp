// Pairs of a user field and an item field, and what bounds their attention.
//
// Letters: K embedding, A attention units. For a user field with vector u, an item field with vector
// x, and d the bias of their pair,
//
//     z = W (u∘x) + b = (W·diag(u)) x + b    l = hᵀ relu(z) + d    t = pᵀ(u∘x) = (p∘u)ᵀ x
//
// A vector register holds the same number of kLanes users. Then nothing is gathered: what a value of
// an item field adds, for these users, is one register, wherever the item finds it; and z of a few
// items × units stays in registers.

namespace {

// Items × units whose z are in registers: of 32 registers, or of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileItems = 6, kTileUnits = 4;
#else
constexpr int kTileItems = 3, kTileUnits = 4;
#endif

struct Product {
    const float* u;          // (stride, K)
    const float* x;          // (values, K); numbers (values) if there is a base
    const float* base;       // of a field of numbers, whose vectors are theirs times it (K), or null
    const int64_t* of_item;  // which value each item has (items); null where each has its own
    int64_t values;
    float bias;  // d, less the shift of all attention logits
    // Where l is to be bounded, values by bins of similar size; else null.
    const int64_t* bin;       // which bin each value is in (values)
    int64_t bins;
    const float *low, *high;  // least and largest number of a bin, or norm of its vectors (bins)
};

// The attention network with the vectors of some users in it; units of h = 0 up to whole tiles.
struct Users {
    std::vector<Vec> W;       // W·diag(u) (tiles of units, K, kTileUnits)
    std::vector<Vec> p;       // p∘u (K)
    std::vector<float> b, h;  // (tiles of units, kTileUnits)

    Users() = default;
    // With a base, W (u∘base) and pᵀ(u∘base), as one column: K = 1 from there on.
    Users(const Network& net, const float* u, const float* base) : p(base ? 1 : net.K) {
        const int64_t units = (net.A + kTileUnits - 1) / kTileUnits * kTileUnits, K = p.size();
        W.resize(units * K);
        b.resize(units);
        h.resize(units);
        std::copy(net.b, net.b + net.A, b.begin());
        std::copy(net.h, net.h + net.A, h.begin());
        for (int64_t k = 0; k < net.K; ++k) {
            Vec column{};
            for (int lane = 0; lane < kLanes; ++lane) column[lane] = u[lane * net.K + k];
            if (base) column *= base[k];
            const int64_t at = base ? 0 : k;
            p[at] += net.p[k] * column;
            for (int64_t a = 0; a < net.A; ++a) W[place(a, at)] += net.W[a * net.K + k] * column;
        }
    }

    // Where W·diag(u) of a unit and a dimension is.
    int64_t place(int64_t a, int64_t k) const {
        return (a / kTileUnits * static_cast<int64_t>(p.size()) + k) * kTileUnits + a % kTileUnits;
    }
};

// The x of a pair in tiles of values (tiles, K, kTileItems), so that a tile has one address; beyond
// the last value, they are those of the last one.
inline std::vector<float> tiles_of(const Product& pair, int64_t K) {
    const int64_t tiles = (pair.values + kTileItems - 1) / kTileItems;
    std::vector<float> x(tiles * K * kTileItems);
    for (int64_t n = 0; n < tiles * kTileItems; ++n)
        for (int64_t k = 0; k < K; ++k)
            x[(n / kTileItems * K + k) * kTileItems + n % kTileItems] =
                pair.x[std::min(n, pair.values - 1) * K + k];
    return x;
}

// Calls add(n, t, exp(l)) for each n < count, of the value at first + n. A tile begins at first.
template <class Add>
void for_products(const Users& users, const Product& pair, const std::vector<float>& tiles,
                  int64_t first, int64_t count, const Add& add) {
    const int64_t K = users.p.size(), units = users.h.size();
    const float* x = &tiles[first * K];
    for (int64_t n = 0; n < count; n += kTileItems, x += K * kTileItems) {
        Vec term[kTileItems] = {}, logit[kTileItems];
        for (int t = 0; t < kTileItems; ++t) logit[t] = splat(pair.bias);
        for (int64_t k = 0; k < K; ++k)
            for (int t = 0; t < kTileItems; ++t) term[t] += users.p[k] * x[k * kTileItems + t];
        const Vec* W = users.W.data();
        for (int64_t unit = 0; unit < units; unit += kTileUnits) {
            Vec z[kTileItems][kTileUnits];
            for (int t = 0; t < kTileItems; ++t)
                for (int a = 0; a < kTileUnits; ++a) z[t][a] = splat(users.b[unit + a]);
            for (int64_t k = 0; k < K; ++k, W += kTileUnits)
                for (int t = 0; t < kTileItems; ++t)
                    for (int a = 0; a < kTileUnits; ++a) z[t][a] += W[a] * x[k * kTileItems + t];
            for (int t = 0; t < kTileItems; ++t)
                for (int a = 0; a < kTileUnits; ++a) {
                    const Vec on = 0.0f > z[t][a] ? Vec{} : z[t][a];  // NaN stays
                    logit[t] += users.h[unit + a] * on;
                }
        }
        for (int t = 0; t < kTileItems && n + t < count; ++t) add(n + t, term[t], exp_of(logit[t]));
    }
}

// Calls add(n, t) for the same values: A + 1 times cheaper.
template <class Add>
void for_terms(const Users& users, const std::vector<float>& tiles, int64_t first, int64_t count,
               const Add& add) {
    const int64_t K = users.p.size();
    const Vec* p = users.p.data();
    const float* x = &tiles[first * K];
    for (int64_t n = 0; n < count; n += kTileItems, x += K * kTileItems) {
        Vec term[kTileItems] = {};
        for (int64_t k = 0; k < K; ++k)
            for (int t = 0; t < kTileItems; ++t) term[t] += p[k] * x[k * kTileItems + t];
        for (int t = 0; t < kTileItems && n + t < count; ++t) add(n + t, term[t]);
    }
}

// For each bin, the least that exp(l) of its values can be, and how much more it may be (bins, 2).
// z_a lies within ±‖W_a∘u‖·‖x‖ of b_a; of a field of numbers, between those of the bin's ends.
std::vector<Vec> bounds_of(const Users& users, const Product& pair) {
    const int64_t K = users.p.size(), units = users.h.size();
    std::vector<Vec> norm(units), bounds;
    for (int64_t a = 0; a < units; ++a) {
        Vec square{};
        for (int64_t k = 0; k < K; ++k) square += users.W[users.place(a, k)] * users.W[users.place(a, k)];
        for (int lane = 0; lane < kLanes; ++lane) norm[a][lane] = std::sqrt(square[lane]);
    }
    for (int64_t bin = 0; bin < pair.bins; ++bin) {
        const float from = pair.low[bin], to = pair.high[bin];
        Vec least = splat(pair.bias), most = least, size = splat(std::abs(pair.bias));
        for (int64_t a = 0; a < units; ++a) {
            const float h = users.h[a], b = users.b[a];
            const Vec reach = norm[a] * std::max(std::abs(from), std::abs(to));
            Vec low = b - reach, high = b + reach;
            if (pair.base) {
                const Vec one = users.W[users.place(a, 0)] * from, other = users.W[users.place(a, 0)] * to;
                low = b + (one < other ? one : other);
                high = b + (one < other ? other : one);
            }
            low = low > 0.0f ? low : Vec{};
            high = high > 0.0f ? high : Vec{};
            least += h * (h > 0.0f ? low : high);
            most += h * (h > 0.0f ? high : low);
            size += std::abs(h) * (reach + std::abs(b));
        }
        const Vec room = size * (kEpsilon * (K + units + 8)) + 8 * kEpsilon;  // rounding of l
        const Vec low = exp_of(least - room) * (1 - 8 * kEpsilon);
        bounds.push_back(low);
        bounds.push_back(exp_of(most + room) * (1 + 8 * kEpsilon) - low);
    }
    return bounds;
}

}  // namespace

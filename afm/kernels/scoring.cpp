// Scores of users with items, and the best of each user: for AFM, what afm/scoring.py does in numpy,
// with all that there is per user and item kept in registers.
//
// Letters: K embedding, A attention units. For a user field with vector u, an item field with vector
// x, and d the bias of their pair,
//
//     z = W (u∘x) + b = (W·diag(u)) x + b    l = hᵀ relu(z) + d
//     N += exp(l)·(p∘u)ᵀx                    D += exp(l)
//
// and a score is c·N/D with the model's scale c, plus linear terms L. Sums have three
// planes: N, D, L.
//
// A vector register holds the same number of kLanes users. Then nothing is gathered: what a value of
// an item field adds, for these users, is one register, wherever the item finds it; and z of a few
// items × units stays in registers.
//
// A number goes through the same operations wherever its user and item stand: tiles are filled up,
// never finished by other code. So equal users and items have equal scores, to the last bit.

#include <limits>
#include <tuple>
#include <vector>

namespace {

// Items × units whose z are in registers: of 32 registers, or of 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileItems = 6, kTileUnits = 4;
#else
constexpr int kTileItems = 3, kTileUnits = 4;
#endif

constexpr int kUsers = 32;  // ROWS of afm/pair_sums.py
constexpr int kPlanes = 3;  // N, D, L
constexpr int kBlock = 96;  // items whose sums are in cache, a multiple of kTileItems and kLanes
constexpr int kGroup = 16;  // scores that share a maximum: more make a weaker bound

// D beyond which exp has lost digits or may have left float32, as in afm/scoring.py.
constexpr float kSmallest = 1e-18f, kLargest = 1e18f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// ---- What Python hands over (afm/kernels/scoring.py) -----------------------------------------

struct Network {
    int64_t K, A;
    const float *W, *b, *h, *p;  // (A, K), (A), (A), (K)
};

// A pair of a user field and an item field.
struct Product {
    const float* u;          // (kUsers, K)
    const float* x;          // (values, K); numbers (values) if there is a base
    const float* base;       // of a field of numbers, whose vectors are theirs times it (K), or null
    const int64_t* of_item;  // which value each item has (items); null where each has its own
    int64_t values;
    float bias;  // of the pair, less the shift of all attention logits
};

// Sums of other pairs, as they are.
struct Given {
    const float* sums;       // (values, kPlanes, kUsers)
    const int64_t* of_item;  // as above
};

struct Pairs {
    int64_t users, items;  // at most kUsers, and any number
    int64_t products, given;
    const Product* product;
    const Given* some;
};

// What is added to sums of pairs, and makes them scores.
struct Rest {
    int64_t parts;
    const float* const* part;  // (kUsers, parts), each (kPlanes, items)
    const float* own;          // of pairs that need no item, and linear terms (kPlanes, kUsers)
    float scale;
};

// Rows whose pairs are explained. A field's vectors are those of its values.
struct Rows {
    int64_t rows, fields, kept;      // kept is at most the number of pairs
    const float* const* vectors;     // of each field (values, K)
    const int64_t* const* of_row;    // which value each row has (rows)
    const float* bias;               // of each pair
    float scale;
};

// ---- Pairs of a user field and an item field -------------------------------------------------

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
            for (int64_t a = 0; a < net.A; ++a)
                W[(a / kTileUnits * K + at) * kTileUnits + a % kTileUnits] +=
                    net.W[a * net.K + k] * column;
        }
    }
};

// Calls add(n, pᵀe, exp(l)) for each n < count, of the value at first + n.
template <class Add>
void for_products(const Users& users, const Product& pair, int64_t first, int64_t count,
                  const Add& add) {
    const int64_t K = users.p.size(), units = users.h.size();
    for (int64_t n = 0; n < count; n += kTileItems) {
        const float* x[kTileItems];
        Vec term[kTileItems] = {}, logit[kTileItems];
        for (int t = 0; t < kTileItems; ++t) {
            x[t] = pair.x + (first + std::min(n + t, count - 1)) * K;
            logit[t] = splat(pair.bias);
        }
        for (int64_t k = 0; k < K; ++k)
            for (int t = 0; t < kTileItems; ++t) term[t] += users.p[k] * x[t][k];
        const Vec* W = users.W.data();
        for (int64_t unit = 0; unit < units; unit += kTileUnits) {
            Vec z[kTileItems][kTileUnits];
            for (int t = 0; t < kTileItems; ++t)
                for (int a = 0; a < kTileUnits; ++a) z[t][a] = splat(users.b[unit + a]);
            for (int64_t k = 0; k < K; ++k, W += kTileUnits)
                for (int t = 0; t < kTileItems; ++t)
                    for (int a = 0; a < kTileUnits; ++a) z[t][a] += W[a] * x[t][k];
            for (int t = 0; t < kTileItems; ++t)
                for (int a = 0; a < kTileUnits; ++a) {
                    const Vec on = 0.0f > z[t][a] ? Vec{} : z[t][a];  // NaN stays
                    logit[t] += users.h[unit + a] * on;
                }
        }
        for (int t = 0; t < kTileItems && n + t < count; ++t) {
            const Vec weight = exp_of(logit[t]);
            add(n + t, term[t], weight);
        }
    }
}

// ---- All pairs of a few rows -----------------------------------------------------------------

// Calls add(pair, pᵀe, l) for each pair of the fields of kLanes rows, with e = v_i∘v_j.
class Interactions {
public:
    Interactions(const Network& net, int64_t fields) : net_(net), fields_(fields) {
        v_.resize(fields * padded());
        e_.resize(net.K);
        const int64_t units = (net.A + kUnits - 1) / kUnits * kUnits;
        W_.resize(units * net.K);
        b_.resize(units);
        h_.resize(units);  // units of h = 0 up to whole tiles
        std::copy(net.b, net.b + net.A, b_.begin());
        std::copy(net.h, net.h + net.A, h_.begin());
        for (int64_t a = 0; a < net.A; ++a)
            for (int64_t k = 0; k < net.K; ++k)
                W_[(a / kUnits * net.K + k) * kUnits + a % kUnits] = net.W[a * net.K + k];
    }

    // Looks the vectors up; beyond the last row, they are those of the last one.
    void read(const Rows& rows, int64_t first) {
        for (int64_t f = 0; f < fields_; ++f)
            for (int64_t k = 0; k < net_.K; k += kLanes) {
                Vec* block = &v_[f * padded() + k];
                const size_t bytes = 4 * std::min<int64_t>(kLanes, net_.K - k);
                for (int lane = 0; lane < kLanes; ++lane) {
                    const int64_t row = std::min(first + lane, rows.rows - 1);
                    block[lane] = Vec{};
                    std::memcpy(&block[lane], rows.vectors[f] + rows.of_row[f][row] * net_.K + k,
                                bytes);
                }
                transpose(block);
            }
    }

    template <class Add>
    void for_pairs(const Add& add) {
        int64_t pair = 0;
        for (int64_t i = 0; i < fields_; ++i)
            for (int64_t j = i + 1; j < fields_; ++j, ++pair) {
                const Vec *vi = &v_[i * padded()], *vj = &v_[j * padded()];
                Vec term{}, logit{};
                for (int64_t k = 0; k < net_.K; ++k) {
                    e_[k] = vi[k] * vj[k];
                    term += net_.p[k] * e_[k];
                }
                const float* W = W_.data();
                for (size_t unit = 0; unit < h_.size(); unit += kUnits) {
                    Vec z[kUnits];
                    for (int a = 0; a < kUnits; ++a) z[a] = splat(b_[unit + a]);
                    for (int64_t k = 0; k < net_.K; ++k, W += kUnits)
                        for (int a = 0; a < kUnits; ++a) z[a] += W[a] * e_[k];
                    for (int a = 0; a < kUnits; ++a)
                        logit += h_[unit + a] * (0.0f > z[a] ? Vec{} : z[a]);
                }
                add(pair, term, logit);
            }
    }

private:
    static constexpr int kUnits = 8;  // whose z are in registers

    int64_t padded() const { return (net_.K + kLanes - 1) / kLanes * kLanes; }

    const Network& net_;
    const int64_t fields_;
    std::vector<Vec> v_, e_;  // (fields, padded K), (K)
    std::vector<float> W_, b_, h_;
};

// ---- Sums of all pairs, a block of items at a time -----------------------------------------

using Sums = Vec[kPlanes][kBlock];

// Adds up the pairs of kLanes users, from lane on.
class Adder {
public:
    Adder(const Network& net, const Pairs& pairs, int lane) : pairs_(pairs), lane_(lane) {
        for (const Product *pair = pairs.product; pair < pairs.product + pairs.products; ++pair) {
            if (pair == pairs.product || pair->u != pair[-1].u || pair->base != pair[-1].base)
                users_ = Users(net, pair->u + lane * net.K, pair->base);
            products_.push_back({users_, pair, {}});
            if (pair->of_item) products_.back().terms = terms_of_values(*pair);
        }
    }

    // Always in the same order and by the same operations, whether values repeat or not.
    void add_to(Sums sums, int64_t first, int64_t count) const {
        for (const Given* pair = pairs_.some; pair < pairs_.some + pairs_.given; ++pair)
            for (int64_t n = 0; n < count; ++n) {
                const int64_t value = pair->of_item ? pair->of_item[first + n] : first + n;
                for (int plane = 0; plane < kPlanes; ++plane)
                    sums[plane][n] += load(pair->sums + (value * kPlanes + plane) * kUsers + lane_);
            }
        for (const Added& product : products_) {
            const auto add = [&](int64_t n, Vec term, Vec weight) {
                sums[0][n] += weight * term;
                sums[1][n] += weight;
            };
            if (const int64_t* of_item = product.pair->of_item)
                for (int64_t n = 0; n < count; ++n) {
                    const Vec* of_value = &product.terms[of_item[first + n] * 2];
                    add(n, of_value[0], of_value[1]);
                }
            else
                for_products(product.users, *product.pair, first, count, add);
        }
    }

private:
    struct Added {
        Users users;
        const Product* pair;
        std::vector<Vec> terms;  // where values repeat: pᵀe and exp(l) of each (values, 2)
    };

    std::vector<Vec> terms_of_values(const Product& pair) const {
        std::vector<Vec> terms(2 * pair.values);
        for_products(users_, pair, 0, pair.values, [&](int64_t n, Vec term, Vec weight) {
            terms[2 * n] = term;
            terms[2 * n + 1] = weight;
        });
        return terms;
    }

    const Pairs& pairs_;
    const int lane_;
    Users users_;
    std::vector<Added> products_;
};

// Sums that users have in common, added up once for all neighbours that have the same.
class Kinds {
public:
    Kinds(const Rest& rest, int lane) : parts_(rest.parts) {
        const float* const* part = rest.part + lane * parts_;
        for (int n = 0; n < kLanes; ++n, part += parts_) {
            if (!n || !std::equal(part, part + parts_, part - parts_)) part_.push_back(part);
            of_lane_[n] = part_.size() - 1;
        }
        totals_.resize(part_.size() * kBlock);
    }

    void put_to(Sums sums, int64_t items, int64_t first, int64_t count) {
        for (int plane = 0; plane < kPlanes; ++plane) {
            for (size_t kind = 0; kind < part_.size(); ++kind) {
                float* total = &totals_[kind * kBlock];
                std::fill(total, total + count, 0.0f);
                for (int64_t part = 0; part < parts_; ++part) {
                    const float* from = part_[kind][part] + plane * items + first;
                    for (int64_t n = 0; n < count; ++n) total[n] += from[n];
                }
            }
            for (int64_t n = 0; n < count; n += kLanes) {
                for (int lane = 0; lane < kLanes; ++lane)
                    sums[plane][n + lane] = load(&totals_[of_lane_[lane] * kBlock + n]);
                transpose(sums[plane] + n);
            }
        }
    }

private:
    const int64_t parts_;
    std::vector<const float* const*> part_;  // of each kind of user
    int of_lane_[kLanes];
    std::vector<float> totals_;  // of one plane (kinds, kBlock)
};

// Calls work(first, count) for each block of items.
template <class Work>
void for_blocks(int64_t items, const Work& work) {
    for (int64_t first = 0; first < items; first += kBlock)
        work(first, std::min<int64_t>(kBlock, items - first));
}

// Writes a number per item and user to a row for each user. It needs the block's memory.
void store_rows(Vec* block, int64_t count, int64_t stride, float* out) {
    for (int64_t n = 0; n < count; n += kLanes) {
        transpose(block + n);
        const size_t bytes = 4 * std::min<int64_t>(kLanes, count - n);
        for (int lane = 0; lane < kLanes; ++lane)
            std::memcpy(out + lane * stride + n, &block[n + lane], bytes);
    }
}

// The k-th largest of some numbers, none of them NaN. Counting, bit by bit, has no branch to guess.
float kth_largest(const std::vector<float>& numbers, int64_t k) {
    const auto flip = [](int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
    std::vector<int32_t> keys(numbers.size());  // in the order of the numbers
    std::memcpy(keys.data(), numbers.data(), 4 * keys.size());
    for (int32_t& key : keys) key = flip(key);
    int64_t kth = std::numeric_limits<int32_t>::min();
    for (int64_t bit = int64_t{1} << 31; bit; bit >>= 1) {
        const auto key = static_cast<int32_t>(kth + bit);
        int32_t larger = 0;
        for (const int32_t other : keys) larger += other >= key;
        if (larger >= k) kth += bit;
    }
    const int32_t bits = flip(static_cast<int32_t>(kth));
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

}  // namespace

// Sums of pairs (kUsers, kPlanes, items), of which the rows of users are written.
extern "C" void pair_sums(const Network* net, const Pairs* pairs, float* out) {
    for (int lane = 0; lane < pairs->users; lane += kLanes) {
        const Adder adder(*net, *pairs, lane);
        const int64_t items = pairs->items;
        for_blocks(items, [&](int64_t first, int64_t count) {
            Sums sums = {};
            adder.add_to(sums, first, count);
            for (int plane = 0; plane < kPlanes; ++plane)
                store_rows(sums[plane], count, kPlanes * items,
                           out + (lane * kPlanes + plane) * items + first);
        });
    }
}

// Scores (kUsers, items), of which the rows of users are written; NaN where D is out of range, or
// anything was NaN. Returns whether there are such.
extern "C" int scores(const Network* net, const Pairs* pairs, const Rest* rest, float* out) {
    Bits any{};
    for (int lane = 0; lane < pairs->users; lane += kLanes) {
        const Adder adder(*net, *pairs, lane);
        const int64_t items = pairs->items;
        Kinds kinds(*rest, lane);
        const Vec N = load(rest->own + lane), D = load(rest->own + kUsers + lane),
                  L = load(rest->own + 2 * kUsers + lane);
        for_blocks(items, [&](int64_t first, int64_t count) {
            Sums sums;
            kinds.put_to(sums, items, first, count);
            adder.add_to(sums, first, count);
            for (int64_t n = 0; n < count; ++n) {
                const Vec total = sums[1][n] + D;
                Vec score = (sums[0][n] + N) / total * rest->scale + (sums[2][n] + L);
                score = total < kSmallest ? splat(kNaN) : score;
                score = total > kLargest ? splat(kNaN) : score;
                any = score != score ? ~Bits{} : any;
                sums[0][n] = score;
            }
            store_rows(sums[0], count, items, out + lane * items + first);
        });
    }
    for (int lane = 0; lane < kLanes; ++lane)
        if (any[lane]) return 1;
    return 0;
}

// For each row, the kept pairs of largest attention, falling, equal ones by their number: the pairs,
// their attention, and what they add to the logit, each (rows, kept).
extern "C" void explain(const Network* net, const Rows* rows, int32_t* pair, float* attention,
                        float* contribution) {
    const int64_t pairs = rows->fields * (rows->fields - 1) / 2;
    Interactions interactions(*net, rows->fields);
    std::vector<Vec> terms(pairs), weights(pairs);
    for (int64_t first = 0; first < rows->rows; first += kLanes) {
        interactions.read(*rows, first);
        Vec largest = splat(-kInfinity);
        interactions.for_pairs([&](int64_t n, Vec term, Vec logit) {
            terms[n] = term;
            weights[n] = logit + rows->bias[n];
            largest = weights[n] > largest ? weights[n] : largest;
        });
        Vec total{};
        for (Vec& weight : weights) total += weight = exp_of(weight - largest);
        const int64_t count = std::min<int64_t>(kLanes, rows->rows - first);
        for (int64_t rank = 0; rank < rows->kept; ++rank) {
            Vec best = splat(-1.0f), place{};
            for (int64_t n = 0; n < pairs; ++n) {
                place = weights[n] > best ? splat(static_cast<float>(n)) : place;
                best = weights[n] > best ? weights[n] : best;
            }
            for (int lane = 0; lane < count; ++lane) {
                const auto n = static_cast<int32_t>(place[lane]);
                const int64_t out = (first + lane) * rows->kept + rank;
                pair[out] = n;
                attention[out] = best[lane] / total[lane];
                contribution[out] = rows->scale * attention[out] * terms[n][lane];
                weights[n][lane] = -2.0f;
            }
        }
    }
}

// Merges scores (users, items), of items from first on, into the k best of each user, scores and
// positions (users, k): by falling score, equal ones by rising position. -inf and NaN are no scores;
// where there are fewer than k, the rest is -inf, and position -1.
extern "C" void keep_best(int64_t users, int64_t items, int64_t k, const float* scores,
                          int64_t first, float* best, int64_t* position) {
    // The k-th largest maximum of disjoint groups is a number that k scores reach. A group's items
    // lie far apart, so that it is a good one too where items are sorted by what they score.
    const int64_t size = std::max<int64_t>(1, std::min<int64_t>(kGroup, items / (2 * k)));
    const int64_t groups = (items + size - 1) / size;  // the last ones may be smaller
    using Scored = std::pair<float, int64_t>;
    const auto better = [](const Scored& a, const Scored& b) {
        return a.first > b.first || (a.first == b.first && a.second < b.second);
    };
    std::vector<float> maxima(groups);
    std::vector<Scored> found;
    for (int64_t user = 0; user < users; ++user, scores += items, best += k, position += k) {
        std::fill(maxima.begin(), maxima.end(), -kInfinity);
        for (int64_t start = 0; start < items; start += groups)
            for (int64_t n = 0; n < std::min(groups, items - start); ++n)
                maxima[n] = scores[start + n] > maxima[n] ? scores[start + n] : maxima[n];
        float floor = best[k - 1];
        if (groups >= k) floor = std::max(floor, kth_largest(maxima, k));
        found.clear();
        for (int64_t n = 0; n < k && position[n] >= 0; ++n)
            found.emplace_back(best[n], position[n]);
        for (int64_t group = 0; group < groups; ++group) {
            if (maxima[group] < floor) continue;
            for (int64_t item = group; item < items; item += groups)
                if (scores[item] >= floor && scores[item] > -kInfinity)
                    found.emplace_back(scores[item], first + item);
        }
        const int64_t kept = std::min<int64_t>(k, found.size());
        std::nth_element(found.begin(), found.begin() + kept, found.end(), better);
        std::sort(found.begin(), found.begin() + kept, better);
        for (int64_t n = 0; n < kept; ++n) std::tie(best[n], position[n]) = found[n];
    }
}

// Scores of users with items: for AFM, what afm/scoring.py does in numpy. With weights w = exp(l) and
// terms t of pairs of fields, sums have three planes,
//
//     N = Σ w·t    D = Σ w    L: linear terms
//
// and a score is c·N/D + L with the model's scale c.
//
// Most of the work is to know which items cannot be among the best. A product has its t for K
// operations, but w for A·K. So w is bounded, and where all weights are the least that they can be
// is s = N/D. Others add at most Σ gap·max(0, t - s) to Σ w·(t - s), a function of s that is 0 at the
// score and falls with a slope of D or more: so
//
//     s - Σ gap·max(0, s - t) / D  ≤  score  ≤  s + Σ gap·max(0, t - s) / D
//
// Only items whose upper bound reaches the k-th largest lower bound, or the k-th best so far, are
// scored. Nothing is approximated: bounds leave room for all that rounding can do, and sums out of
// range are not bounded.
//
// A register holds kLanes users with an item where scores are bounded, and a user with kLanes items
// where what is left is scored. A number goes through the same operations wherever its user and item
// stand: tiles are filled up, never finished by other code. So equal users and items have equal
// scores, to the last bit.

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

constexpr int kPlanes = 3;  // N, D, L
constexpr int kBlock = 48;  // items whose sums are in cache, a multiple of kTileItems and kLanes

// D beyond which exp has lost digits or may have left float32, as in afm/scoring.py.
constexpr float kSmallest = 1e-18f, kLargest = 1e18f;

// ---- What Python hands over (afm/kernels/scoring.py) -----------------------------------------

// Sums of other pairs, as they are.
struct Given {
    const float* sums;       // (values, kPlanes, stride)
    const int64_t* of_item;  // which value each item has (items); null where each has its own
};

struct Pairs {
    int64_t users, stride, items;  // stride: the users, filled up to a multiple of kLanes
    int64_t products, given;
    const Product* product;
    const Given* some;
};

// What is added to sums of pairs, and makes them scores.
struct Rest {
    int64_t parts;
    const float* const* part;  // (stride, parts), each (kPlanes, items)
    const float* own;          // of pairs that need no item, and linear terms (kPlanes, stride)
    float scale;
};

// Which items are wanted: those that may be among the k best of a user.
struct Wanted {
    int64_t k;
    float room;               // more than rounding moves a score, but for linear terms
    const float* floor;       // what the k-th best so far scores, or -inf (stride)
    const int64_t* first;     // where a user's excluded items begin (stride + 1)
    const int64_t* excluded;  // their positions, rising for each user
};

// ---- Sums of all pairs -----------------------------------------------------------------------

using Sums = Vec[kPlanes][kBlock];

// What a pair's values are to all users alike.
struct Shape {
    std::vector<float> tiles;   // as tiles_of says
    std::vector<int32_t> bins;  // where l is bounded: the bin of each item
};

std::vector<Shape> shapes_of(const Network& net, const Pairs& pairs) {
    std::vector<Shape> shapes;
    for (const Product* pair = pairs.product; pair < pairs.product + pairs.products; ++pair) {
        shapes.push_back({tiles_of(*pair, pair->base ? 1 : net.K), {}});
        for (int64_t n = 0; pair->bin && n < pairs.items; ++n)
            shapes.back().bins.push_back(pair->bin[pair->of_item ? pair->of_item[n] : n]);
    }
    return shapes;
}

// A pair of fields for kLanes users.
struct Weighed {
    const Product* pair;
    const Shape& shape;
    Users users;
    std::vector<Vec> terms;   // of values that repeat: t and exp(l); where l is bounded, t alone
    std::vector<Vec> bounds;  // where it is, as bounds_of says

    int64_t value(int64_t item) const { return pair->of_item ? pair->of_item[item] : item; }
    bool is_table() const { return pair->of_item && !pair->bin; }
};

// Adds up the pairs of kLanes users, from lane on.
class Adder {
public:
    Adder(const Network& net, const Pairs& pairs, const std::vector<Shape>& shapes, int64_t lane)
        : pairs_(pairs), lane_(lane) {
        Users users;
        for (const Product *pair = pairs.product; pair < pairs.product + pairs.products; ++pair) {
            if (pair == pairs.product || pair->u != pair[-1].u || pair->base != pair[-1].base)
                users = Users(net, pair->u + lane * net.K, pair->base);
            products_.push_back({pair, shapes[pair - pairs.product], users, {}, {}});
            Weighed& product = products_.back();
            if (pair->bin) {
                product.bounds = bounds_of(users, *pair);
                bounded_.push_back(products_.size() - 1);
                Vec most{};
                for (int64_t bin = 0; bin < pair->bins; ++bin)
                    most = product.bounds[2 * bin + 1] > most ? product.bounds[2 * bin + 1] : most;
                gaps_ += most;
            }
            if (!pair->of_item) continue;
            product.terms.resize(pair->values * (pair->bin ? 1 : 2));
            if (pair->bin)
                for_terms(users, product.shape.tiles, 0, pair->values,
                          [&](int64_t n, Vec term) { product.terms[n] = term; });
            else
                for_products(users, *pair, product.shape.tiles, 0, pair->values,
                             [&](int64_t n, Vec term, Vec weight) {
                                 product.terms[2 * n] = term;
                                 product.terms[2 * n + 1] = weight;
                             });
        }
        terms_.resize(bounded_.size() * kBlock);
    }

    // Adds all pairs but those whose weights are only bounded. Always in the same order and by the
    // same operations, whether values repeat or not.
    void add_to(Sums sums, int64_t first, int64_t count) const {
        for (const Given* pair = pairs_.some; pair < pairs_.some + pairs_.given; ++pair)
            for (int64_t n = 0; n < count; ++n)
                for (int plane = 0; plane < kPlanes; ++plane)
                    sums[plane][n] += load(given(*pair, first + n) + plane * pairs_.stride);
        for (const Weighed& product : products_) {
            if (product.pair->bin) continue;
            const auto add = [&](int64_t n, Vec term, Vec weight) {
                sums[0][n] += weight * term;
                sums[1][n] += weight;
            };
            if (product.is_table())
                for (int64_t n = 0; n < count; ++n) {
                    const Vec* of_value = &product.terms[product.value(first + n) * 2];
                    add(n, of_value[0], of_value[1]);
                }
            else
                for_products(product.users, *product.pair, product.shape.tiles, first, count, add);
        }
    }

    // Makes of the planes N and D what scores can be, least and most.
    void bound(Sums sums, int64_t first, int64_t count, float scale, float room) {
        for (size_t at = 0; at < bounded_.size(); ++at) {
            const Weighed& product = products_[bounded_[at]];
            Vec* terms = &terms_[at * kBlock];
            if (product.pair->of_item)
                for (int64_t n = 0; n < count; ++n) terms[n] = product.terms[product.value(first + n)];
            else
                for_terms(product.users, product.shape.tiles, first, count,
                          [&](int64_t n, Vec term) { terms[n] = term; });
        }
        // With their number known, all that there is per item stays in registers.
        switch (bounded_.size()) {
            case 1: return bound_of<1>(1, sums, first, count, scale, room);
            case 2: return bound_of<2>(2, sums, first, count, scale, room);
            case 3: return bound_of<3>(3, sums, first, count, scale, room);
            case 4: return bound_of<4>(4, sums, first, count, scale, room);
            default: return bound_of<0>(bounded_.size(), sums, first, count, scale, room);
        }
    }

    // What add_of needs of a user: weights as numbers, not as lanes of registers.
    void turn_to(int lane) {
        turned_.resize(products_.size());
        user_ = lane;
        for (size_t at = 0; at < products_.size(); ++at) {
            const Weighed& product = products_[at];
            if (product.is_table()) continue;
            const auto pick = [&](const std::vector<Vec>& from, std::vector<float>& to) {
                to.resize(from.size());
                for (size_t n = 0; n < from.size(); ++n) to[n] = from[n][lane];
            };
            pick(product.users.W, turned_[at].W);
            pick(product.users.p, turned_[at].p);
        }
    }

    // Adds all pairs of one user with kLanes items.
    void add_of(const int64_t* item, Vec (&sums)[kPlanes]) {
        for (const Given* pair = pairs_.some; pair < pairs_.some + pairs_.given; ++pair)
            for (int plane = 0; plane < kPlanes; ++plane) {
                Vec some;
                for (int n = 0; n < kLanes; ++n)
                    some[n] = given(*pair, item[n])[plane * pairs_.stride + user_];
                sums[plane] += some;
            }
        for (size_t at = 0; at < products_.size(); ++at) {
            const Weighed& product = products_[at];
            Vec term, weight;
            if (product.is_table())
                for (int n = 0; n < kLanes; ++n) {
                    const Vec* of_value = &product.terms[product.value(item[n]) * 2];
                    term[n] = of_value[0][user_];
                    weight[n] = of_value[1][user_];
                }
            else
                std::tie(term, weight) = product_of(product, turned_[at], item);
            sums[0] += weight * term;
            sums[1] += weight;
        }
    }

private:
    struct Turned {
        std::vector<float> W, p;
    };

    const float* given(const Given& pair, int64_t item) const {
        const int64_t value = pair.of_item ? pair.of_item[item] : item;
        return pair.sums + value * kPlanes * pairs_.stride + lane_;
    }

    // Of kBounded products, or if that is 0, of so many.
    template <int kBounded>
    void bound_of(int bounded, Sums sums, int64_t first, int64_t count, float scale, float room) {
        const int number = kBounded ? kBounded : bounded;
        std::vector<const Vec*> bounds(number);
        std::vector<const int32_t*> bins(number);
        for (int at = 0; at < number; ++at) {
            bounds[at] = products_[bounded_[at]].bounds.data();
            bins[at] = &products_[bounded_[at]].shape.bins[first];
        }
        const Vec* terms = terms_.data();
        for (int64_t n = 0; n < count; ++n) {
            Vec N = sums[0][n], D = sums[1][n];
            for (int at = 0; at < number; ++at) {
                const Vec least = bounds[at][2 * bins[at][n]];
                N += least * terms[at * kBlock + n];
                D += least;
            }
            const Vec inverse = 1.0f / D, score = N * inverse;
            Vec above{}, below{};
            for (int at = 0; at < number; ++at) {
                const Vec gap = bounds[at][2 * bins[at][n] + 1];
                const Vec more = gap * (terms[at * kBlock + n] - score);
                above += more > 0.0f ? more : Vec{};
                below += more > 0.0f ? Vec{} : more;
            }
            const Vec L = sums[2][n], part = scale * (1 + 64 * kEpsilon) * inverse;
            const Vec off = room + 4 * kEpsilon * (L > 0.0f ? L : -L);
            const Vec middle = score * scale + L;
            // Where sums leave their range, and for NaN, a score may be anything.
            const auto known = (D > 2 * kSmallest) & (D + gaps_ < 0.5f * kLargest);
            sums[0][n] = known ? middle + part * below - off : splat(-kInfinity);
            sums[1][n] = known ? middle + part * above + off : splat(kInfinity);
        }
    }

    // t and exp(l), by the operations of for_products.
    std::pair<Vec, Vec> product_of(const Weighed& product, const Turned& user, const int64_t* item) {
        const int64_t K = user.p.size();
        const std::vector<float>&b = product.users.b, &h = product.users.h;
        x_.resize((K + kLanes - 1) / kLanes * kLanes);
        for (int64_t k = 0; k < K; k += kLanes) {
            for (int n = 0; n < kLanes; ++n)
                x_[k + n] = load(product.pair->x + product.value(item[n]) * K + k, K - k);
            transpose(&x_[k]);
        }
        Vec term{}, logit = splat(product.pair->bias);
        for (int64_t k = 0; k < K; ++k) term += user.p[k] * x_[k];
        const float* W = user.W.data();
        for (size_t unit = 0; unit < h.size(); unit += kTileUnits) {
            Vec z[kTileUnits];
            for (int a = 0; a < kTileUnits; ++a) z[a] = splat(b[unit + a]);
            for (int64_t k = 0; k < K; ++k, W += kTileUnits)
                for (int a = 0; a < kTileUnits; ++a) z[a] += W[a] * x_[k];
            for (int a = 0; a < kTileUnits; ++a) {
                const Vec on = 0.0f > z[a] ? Vec{} : z[a];  // NaN stays
                logit += h[unit + a] * on;
            }
        }
        return {term, exp_of(logit)};
    }

    const Pairs& pairs_;
    const int64_t lane_;
    std::vector<Weighed> products_;
    std::vector<int> bounded_;    // which of them are
    Vec gaps_{};                  // the most that their weights together can be above the least
    std::vector<Vec> terms_, x_;  // of a block's bounded products; of kLanes items
    std::vector<Turned> turned_;
    int user_ = 0;
};

// Sums that users have in common, for kLanes neighbours at a time.
class Kinds {
public:
    Kinds(const Rest& rest, int64_t items)
        : rest_(rest), items_(items), subtotals_(rest.parts, Planes(kPlanes * items)) {}

    // Neighbours mostly differ in the last parts, if at all: what is the same is not added up again.
    void turn_to(int64_t lane) {
        kinds_ = 0;
        for (int n = 0; n < kLanes; ++n) {
            const float* const* part = rest_.part + (lane + n) * rest_.parts;
            const int64_t known =
                added_ ? std::mismatch(part, part + rest_.parts, added_).first - part : 0;
            for (int64_t p = known; p < rest_.parts; ++p)
                if (p)
                    add(subtotals_[p - 1].data(), part[p], subtotals_[p].data());
                else
                    std::copy(part[0], part[0] + kPlanes * items_, subtotals_[0].begin());
            added_ = part;
            if (!n || known < rest_.parts) {
                if (totals_.size() == static_cast<size_t>(kinds_))
                    totals_.emplace_back(kPlanes * items_ + kLanes);  // can be read beyond its end
                std::copy(subtotals_.back().begin(), subtotals_.back().end(), totals_[kinds_++].begin());
            }
            kind_[n] = kinds_ - 1;
        }
    }

    // Those of kLanes users with some items, and what each has with every item.
    void put_to(Sums sums, int64_t first, int64_t count, const Vec (&own)[kPlanes]) const {
        for (int plane = 0; plane < kPlanes; ++plane) {
            const int64_t at = plane * items_ + first;
            if (kinds_ == 1)
                for (int64_t n = 0; n < count; ++n) sums[plane][n] = own[plane] + totals_[0][at + n];
            else
                for (int64_t n = 0; n < count; n += kLanes) {
                    for (int lane = 0; lane < kLanes; ++lane)
                        sums[plane][n + lane] = load(&totals_[kind_[lane]][at + n]);
                    transpose(sums[plane] + n);
                    for (int item = 0; item < kLanes; ++item) sums[plane][n + item] += own[plane];
                }
        }
    }

    // Those of one user with kLanes items.
    void put_of(int lane, const int64_t* item, Vec (&sums)[kPlanes]) const {
        const float* total = totals_[kind_[lane]].data();
        for (int plane = 0; plane < kPlanes; ++plane)
            for (int n = 0; n < kLanes; ++n) sums[plane][n] = total[plane * items_ + item[n]];
    }

private:
    using Planes = std::vector<float>;  // (kPlanes, items)

    void add(const float* a, const float* b, float* __restrict sum) const {
        for (int64_t i = 0; i < kPlanes * items_; ++i) sum[i] = a[i] + b[i];
    }

    const Rest& rest_;
    const int64_t items_;
    std::vector<Planes> subtotals_;              // up to each part, of those added up last
    const float* const* added_ = nullptr;
    std::vector<Planes> totals_;                 // of each kind of user
    int kinds_ = 0, kind_[kLanes];
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

// ---- Items that may be among the best -----------------------------------------------------------

// A bit for each lane that is set.
inline uint32_t lanes_of(Bits lanes) {
#if defined(__AVX512F__)
    return _mm512_cmpneq_epi32_mask(reinterpret_cast<__m512i>(lanes), _mm512_setzero_si512());
#elif defined(__AVX__)
    return _mm256_movemask_ps(reinterpret_cast<__m256>(lanes));
#else
    uint32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits |= (lanes[lane] & 1u) << lane;
    return bits;
#endif
}

// For each of kLanes users, the items whose scores reach its floor or may do so.
std::vector<std::vector<int64_t>> promising(Adder& adder, const Kinds& kinds, const Pairs& pairs,
                                            const Rest& rest, const Wanted& wanted, int64_t lane) {
    const int64_t items = pairs.items;
    // The k-th largest maximum of disjoint groups is a number that k scores reach. A group's items
    // lie far apart, so that it is a good one too where items are sorted by what they score.
    const int64_t size = group_size(items, wanted.k), groups = (items + size - 1) / size;
    std::vector<Vec> most(items), maxima(groups, splat(-kInfinity));
    Vec own[kPlanes];
    int64_t next[kLanes];
    for (int plane = 0; plane < kPlanes; ++plane) own[plane] = load(rest.own + plane * pairs.stride + lane);
    std::copy(wanted.first + lane, wanted.first + lane + kLanes, next);
    int64_t group = 0;
    for_blocks(items, [&](int64_t first, int64_t count) {
        Sums sums;
        kinds.put_to(sums, first, count, own);
        adder.add_to(sums, first, count);
        adder.bound(sums, first, count, rest.scale, wanted.room);
        for (int user = 0; user < kLanes; ++user)
            for (int64_t& at = next[user]; at < wanted.first[lane + user + 1]; ++at) {
                const int64_t n = wanted.excluded[at] - first;
                if (n >= count) break;
                sums[0][n][user] = sums[1][n][user] = -kInfinity;
            }
        for (int64_t n = 0; n < count; ++n, ++group) {
            if (group == groups) group = 0;
            maxima[group] = sums[0][n] > maxima[group] ? sums[0][n] : maxima[group];
            most[first + n] = sums[1][n];
        }
    });
    Vec floor = load(wanted.floor + lane);
    if (groups >= wanted.k) {
        const Vec reached = kth_largest<Vec, Ints, Bits>(maxima, wanted.k);
        floor = reached > floor ? reached : floor;
    }
    std::vector<std::vector<int64_t>> found(kLanes);
    for (int64_t n = 0; n < items; ++n) {
        const auto out = (most[n] < floor) | (most[n] == -kInfinity);  // NaN is in
        for (uint32_t in = lanes_of(~reinterpret_cast<Bits>(out)); in; in &= in - 1)
            found[__builtin_ctz(in)].push_back(n);
    }
    return found;
}

}  // namespace

// Sums of pairs (stride, kPlanes, items), of which the rows of users are written.
extern "C" void pair_sums(const Network* net, const Pairs* pairs, float* out) {
    const auto shapes = shapes_of(*net, *pairs);
    for (int64_t lane = 0; lane < pairs->users; lane += kLanes) {
        const Adder adder(*net, *pairs, shapes, lane);
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

// The items that may be among the k best of each user, and their scores: a user's stand before
// ends[user], after those of the user before, by position. NaN where D is out of range, or anything
// was NaN. Returns whether there are such.
extern "C" int scores(const Network* net, const Pairs* pairs, const Rest* rest,
                      const Wanted* wanted, int64_t* ends, int32_t* item, float* score) {
    Bits any{};
    int64_t end = 0;
    const auto shapes = shapes_of(*net, *pairs);
    Kinds kinds(*rest, pairs->items);
    for (int64_t lane = 0; lane < pairs->users; lane += kLanes) {
        Adder adder(*net, *pairs, shapes, lane);
        kinds.turn_to(lane);
        const auto found = promising(adder, kinds, *pairs, *rest, *wanted, lane);
        for (int user = 0; user < std::min<int64_t>(kLanes, pairs->users - lane); ++user) {
            const int64_t count = found[user].size();
            adder.turn_to(user);
            for (int64_t n = 0; n < count; n += kLanes) {
                int64_t some[kLanes];
                for (int at = 0; at < kLanes; ++at) some[at] = found[user][std::min(n + at, count - 1)];
                Vec sums[kPlanes];
                kinds.put_of(user, some, sums);
                adder.add_of(some, sums);
                const float* own = rest->own + lane + user;
                const Vec total = sums[1] + own[pairs->stride];
                Vec result = (sums[0] + own[0]) / total * rest->scale +
                             (sums[2] + own[2 * pairs->stride]);
                result = total < kSmallest ? splat(kNaN) : result;
                result = total > kLargest ? splat(kNaN) : result;
                any = result != result ? ~Bits{} : any;
                const int64_t taken = std::min<int64_t>(kLanes, count - n);
                std::memcpy(score + end, &result, 4 * taken);
                std::copy(some, some + taken, item + end);
                end += taken;
            }
            ends[lane + user] = end;
        }
    }
    return lanes_of(any) != 0;
}

// Which pairs of fields scores come from. A register holds kLanes rows.

namespace {

// Fields of rows, each a pair of a user and an item. A field's vectors are those of its values.
struct Rows {
    int64_t rows, fields;
    const float* const* vectors;  // of each field (values, K)
    const int64_t* const* value;  // which value each of its users, or items, has
    const int64_t* const* place;  // which of these a row has (rows)
};

// Attention logits of some pairs, of which several rows have the same.
struct Known {
    int64_t pairs;
    const int64_t* pair;    // which pairs (pairs)
    const float* logits;    // (kinds, pairs)
    const int64_t* of_row;  // which kind each row is (rows)
};

struct Wish {
    int64_t kept;  // pairs of each row, at most all
    const float* bias;  // of each pair
    float scale;
    int64_t knowns;
    const Known* known;
};

// Attention logits, without their bias, of pairs of fields of kLanes rows.
class Interactions {
public:
    Interactions(const Network& net, const Rows& rows) : net_(net), rows_(rows) {
        v_.resize(rows.fields * padded());
        const int64_t units = (net.A + kUnits - 1) / kUnits * kUnits;
        W_.resize(units * net.K);
        b_.resize(units);
        h_.resize(units);  // units of h = 0 up to whole tiles
        std::copy(net.b, net.b + net.A, b_.begin());
        std::copy(net.h, net.h + net.A, h_.begin());
        for (int64_t a = 0; a < net.A; ++a)
            for (int64_t k = 0; k < net.K; ++k)
                W_[(a / kUnits * net.K + k) * kUnits + a % kUnits] = net.W[a * net.K + k];
        e_.resize(net.K);
    }

    // Looks a field up; beyond the last row, they are those of the last one.
    void read(int64_t first, int64_t field) {
        for (int64_t k = 0; k < net_.K; k += kLanes) {
            Vec* block = &v_[field * padded() + k];
            for (int lane = 0; lane < kLanes; ++lane)
                block[lane] = load(vector(field, std::min(first + lane, rows_.rows - 1)) + k, net_.K - k);
            transpose(block);
        }
    }

    Vec logit(int64_t i, int64_t j) {
        const Vec *vi = &v_[i * padded()], *vj = &v_[j * padded()];
        for (int64_t k = 0; k < net_.K; ++k) e_[k] = vi[k] * vj[k];
        Vec logit{};
        const float* W = W_.data();
        for (size_t unit = 0; unit < h_.size(); unit += kUnits) {
            Vec z[kUnits];
            for (int a = 0; a < kUnits; ++a) z[a] = splat(b_[unit + a]);
            for (int64_t k = 0; k < net_.K; ++k, W += kUnits)
                for (int a = 0; a < kUnits; ++a) z[a] += W[a] * e_[k];
            for (int a = 0; a < kUnits; ++a) logit += h_[unit + a] * (0.0f > z[a] ? Vec{} : z[a]);
        }
        return logit;
    }

    // pᵀ(v_i∘v_j) of a row.
    float term(int64_t row, int64_t i, int64_t j) const {
        const float *vi = vector(i, row), *vj = vector(j, row);
        Vec sums{};
        for (int64_t k = 0; k < net_.K; k += kLanes)
            sums += load(net_.p + k, net_.K - k) * load(vi + k, net_.K - k) * load(vj + k, net_.K - k);
        float halves[kLanes];
        store(halves, sums);
        for (int half = kLanes / 2; half; half /= 2)
            for (int lane = 0; lane < half; ++lane) halves[lane] += halves[lane + half];
        return halves[0];
    }

private:
    static constexpr int kUnits = 8;  // whose z are in registers

    int64_t padded() const { return (net_.K + kLanes - 1) / kLanes * kLanes; }

    const float* vector(int64_t field, int64_t row) const {
        return rows_.vectors[field] + rows_.value[field][rows_.place[field][row]] * net_.K;
    }

    const Network& net_;
    const Rows& rows_;
    std::vector<Vec> v_, e_;  // (fields, padded K), (K)
    std::vector<float> W_, b_, h_;
};

// The fields of each pair, in the order of pairs.
std::vector<std::pair<int64_t, int64_t>> pairs_of(int64_t fields) {
    std::vector<std::pair<int64_t, int64_t>> pairs;
    for (int64_t i = 0; i < fields; ++i)
        for (int64_t j = i + 1; j < fields; ++j) pairs.emplace_back(i, j);
    return pairs;
}

}  // namespace

// Attention logits of all pairs of fields, without their bias (rows, pairs).
extern "C" void pair_logits(const Network* net, const Rows* rows, float* out) {
    const auto pairs = pairs_of(rows->fields);
    const int64_t count = pairs.size();
    Interactions interactions(*net, *rows);
    for (int64_t first = 0; first < rows->rows; first += kLanes) {
        for (int64_t field = 0; field < rows->fields; ++field) interactions.read(first, field);
        for (int64_t n = 0; n < count; ++n) {
            const Vec logit = interactions.logit(pairs[n].first, pairs[n].second);
            for (int lane = 0; lane < std::min<int64_t>(kLanes, rows->rows - first); ++lane)
                out[(first + lane) * count + n] = logit[lane];
        }
    }
}

// For each row, the kept pairs of largest attention, falling, equal ones by their number: the pairs,
// their attention, and what they add to the logit, each (rows, kept).
extern "C" void explain(const Network* net, const Rows* rows, const Wish* wish, int32_t* pair,
                        float* attention, float* contribution) {
    const auto pairs = pairs_of(rows->fields);
    const int64_t count = pairs.size();
    Interactions interactions(*net, *rows);
    std::vector<int64_t> rest;  // pairs that are not known
    std::vector<char> is_known(count), is_read(rows->fields);
    for (const Known* known = wish->known; known < wish->known + wish->knowns; ++known)
        for (int64_t n = 0; n < known->pairs; ++n) is_known[known->pair[n]] = true;
    for (int64_t n = 0; n < count; ++n)
        if (!is_known[n]) {
            rest.push_back(n);
            is_read[pairs[n].first] = is_read[pairs[n].second] = true;
        }
    std::vector<Vec> weights(count);
    for (int64_t first = 0; first < rows->rows; first += kLanes) {
        const int64_t taken = std::min<int64_t>(kLanes, rows->rows - first);
        for (const Known* known = wish->known; known < wish->known + wish->knowns; ++known)
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                const int64_t kind = known->of_row[first + std::min(lane, taken - 1)];
                const float* logits = known->logits + kind * known->pairs;
                for (int64_t n = 0; n < known->pairs; ++n) weights[known->pair[n]][lane] = logits[n];
            }
        for (int64_t field = 0; field < rows->fields; ++field)
            if (is_read[field]) interactions.read(first, field);
        for (const int64_t n : rest)
            weights[n] = interactions.logit(pairs[n].first, pairs[n].second);
        Vec largest = splat(-kInfinity), total{};
        for (int64_t n = 0; n < count; ++n) {
            weights[n] += wish->bias[n];
            largest = weights[n] > largest ? weights[n] : largest;
        }
        for (Vec& weight : weights) total += weight = exp_of(weight - largest);
        for (int64_t rank = 0; rank < wish->kept; ++rank) {
            Vec best = splat(-1.0f), place{};
            for (int64_t n = 0; n < count; ++n) {
                place = weights[n] > best ? splat(static_cast<float>(n)) : place;
                best = weights[n] > best ? weights[n] : best;
            }
            for (int lane = 0; lane < taken; ++lane) {
                const auto n = static_cast<int32_t>(place[lane]);
                const int64_t row = first + lane, out = row * wish->kept + rank;
                pair[out] = n;
                attention[out] = best[lane] / total[lane];
                contribution[out] = wish->scale * attention[out] *
                                    interactions.term(row, pairs[n].first, pairs[n].second);
                weights[n][lane] = -2.0f;
            }
        }
    }
}

// The best items of each user, kept while scores arrive: what afm/top_k.py does in numpy.

namespace {

constexpr int kGroup = 16;  // numbers that share a maximum: more make a weaker bound

// How many numbers share a maximum, so that there are enough maxima to choose the k-th from.
inline int64_t group_size(int64_t numbers, int64_t k) {
    return std::max<int64_t>(1, std::min<int64_t>(kGroup, numbers / (2 * k)));
}

// The k-th largest of some numbers, none of them NaN, or of those in each lane. Counting, bit by bit,
// has no branch to guess. Int and Word are like Float, of signed and unsigned integers.
template <class Float, class Int, class Word>
Float kth_largest(const std::vector<Float>& numbers, int32_t k) {
    const auto flip = [](Int bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
    const Int none{};
    std::vector<Int> keys(numbers.size());  // in the order of the numbers
    std::memcpy(keys.data(), numbers.data(), sizeof(Float) * numbers.size());
    for (Int& key : keys) key = flip(key);
    Int kth = none + std::numeric_limits<int32_t>::min();
    for (int bit = 31; bit >= 0; --bit) {
        const Int key = (Int)((Word)kth + (1u << bit));  // of the sign, it wraps around to 0
        Int larger = none;
        for (const Int& other : keys) larger += other >= key ? none + 1 : none;
        kth = larger >= none + k ? key : kth;
    }
    kth = flip(kth);
    Float result;
    std::memcpy(&result, &kth, sizeof result);
    return result;
}

using Scored = std::pair<float, int64_t>;

// The best of a user so far, and others that are merged into them.
class Best {
public:
    Best(int64_t k, float* best, int64_t* position) : k_(k), best_(best), position_(position) {
        for (int64_t n = 0; n < k && position[n] >= 0; ++n) offer(best[n], position[n]);
    }

    void offer(float score, int64_t item) {
        if (score > -kInfinity) found_.emplace_back(score, item);  // NaN is no score either
    }

    void put_back() {
        const auto better = [](const Scored& a, const Scored& b) {
            return a.first > b.first || (a.first == b.first && a.second < b.second);
        };
        const int64_t kept = std::min<int64_t>(k_, found_.size());
        std::nth_element(found_.begin(), found_.begin() + kept, found_.end(), better);
        std::sort(found_.begin(), found_.begin() + kept, better);
        for (int64_t n = 0; n < kept; ++n) std::tie(best_[n], position_[n]) = found_[n];
    }

private:
    const int64_t k_;
    float* const best_;
    int64_t* const position_;
    std::vector<Scored> found_;
};

}  // namespace

// Merges scores (users, items), of items from first on, into the k best of each user, scores and
// positions (users, k): by falling score, equal ones by rising position. -inf and NaN are no scores;
// where there are fewer than k, the rest is -inf, and position -1.
extern "C" void keep_best(int64_t users, int64_t items, int64_t k, const float* scores,
                          int64_t first, float* best, int64_t* position) {
    // The k-th largest maximum of disjoint groups is a number that k scores reach. A group's items
    // lie far apart, so that it is a good one too where items are sorted by what they score.
    const int64_t size = group_size(items, k);
    const int64_t groups = (items + size - 1) / size;  // the last ones may be smaller
    std::vector<float> maxima(groups);
    for (int64_t user = 0; user < users; ++user, scores += items, best += k, position += k) {
        std::fill(maxima.begin(), maxima.end(), -kInfinity);
        for (int64_t start = 0; start < items; start += groups)
            for (int64_t n = 0; n < std::min(groups, items - start); ++n)
                maxima[n] = scores[start + n] > maxima[n] ? scores[start + n] : maxima[n];
        float floor = best[k - 1];
        if (groups >= k)
            floor = std::max(floor, kth_largest<float, int32_t, uint32_t>(maxima, k));
        Best merged(k, best, position);
        for (int64_t group = 0; group < groups; ++group) {
            if (maxima[group] < floor) continue;
            for (int64_t item = group; item < items; item += groups)
                if (scores[item] >= floor) merged.offer(scores[item], first + item);
        }
        merged.put_back();
    }
}

// Merges what scores() found likewise: a user's scores and items stand before its end.
extern "C" void keep_found(int64_t users, int64_t k, const int64_t* ends, const int32_t* items,
                           const float* scores, int64_t first, float* best, int64_t* position) {
    int64_t n = 0;
    for (int64_t user = 0; user < users; ++user, best += k, position += k) {
        Best merged(k, best, position);
        for (; n < ends[user]; ++n) merged.offer(scores[n], first + items[n]);
        merged.put_back();
    }
}

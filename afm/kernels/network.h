// The attention network, as Python hands it over (afm/kernels/scoring.py): part of the source of
// kernels that need it.

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

struct Network {
    int64_t K, A;
    const float *W, *b, *h, *p;  // (A, K), (A), (A), (K)
};

}  // namespace

// Vectors of float32 for any processor, by the extensions of GCC and Clang: compiled.load puts this
// before the source of kernels that use it.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Vec = float __attribute__((vector_size(4 * kLanes)));
using Bits = uint32_t __attribute__((vector_size(4 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));

inline Vec splat(float x) { return x - Vec{}; }  // unlike + 0, - 0 changes no number

inline Vec load(const float* from) {
    Vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

// The first numbers of those there are; zeros beyond.
inline Vec load(const float* from, int64_t count) {
    if (count >= kLanes) return load(from);
    Vec x{};
    std::memcpy(&x, from, 4 * count);
    return x;
}

// Where: the lanes that something holds for. Units: up to 8 bits for each lane. With AVX-512 masks are
// registers of their own, and narrow vectors are tested as fast as wide ones.
using Bytes = uint8_t __attribute__((vector_size(kLanes)));
#if defined(__AVX512BW__) && defined(__AVX512VL__)
using Where = __mmask16;
using Units = __m128i;
inline Where above_zero(Vec x) {  // or NaN
    return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ);
}
inline Vec choose(Where on, Vec x, Vec other) { return _mm512_mask_mov_ps(other, on, x); }
inline Units unpacked(Bytes bytes) { return reinterpret_cast<Units>(bytes); }
inline Bytes packed(Units units) { return reinterpret_cast<Bytes>(units); }
inline Where has(Units units, uint8_t bit) {
    return _mm_test_epi8_mask(units, _mm_set1_epi8(static_cast<char>(bit)));
}
inline Units with(Units units, Where on, uint8_t bit) {  // which they lack
    return _mm_mask_add_epi8(units, on, units, _mm_set1_epi8(static_cast<char>(bit)));
}
#else
using Where = Ints;
using Units = Bits;
inline Where above_zero(Vec x) { return ~(x <= 0.0f); }  // or NaN
inline Vec choose(Where on, Vec x, Vec other) { return on ? x : other; }
inline Units unpacked(Bytes bytes) {
    // In two steps: gcc 12 would take number by number in one.
    using Words = uint16_t __attribute__((vector_size(2 * kLanes)));
    return __builtin_convertvector(__builtin_convertvector(bytes, Words), Units);
}
inline Bytes packed(Units units) { return __builtin_convertvector(units, Bytes); }
inline Where has(Units units, uint8_t bit) { return (units & bit) != 0u; }
inline Units with(Units units, Where on, uint8_t bit) { return on ? units | bit : units; }
#endif

inline Bits bits_of(Vec x) {
    Bits bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline void store(float* to, Vec x) { std::memcpy(to, &x, sizeof x); }

// exp(x) to a unit in the last place for x in [-87, 88]; beyond, exp of the nearer end; NaN stays.
// x = n ln 2 + r with |r| ≤ ln 2 / 2, and exp(r) by the polynomial of Cephes' expf.
inline Vec exp_of(Vec x) {
    const float magic = 12582912.0f;  // 1.5·2²³: adding it rounds to an integer, in the low bits
    x = x < -87.0f ? splat(-87.0f) : x;
    x = x > 88.0f ? splat(88.0f) : x;
    const Vec shifted = x * 1.44269504088896341f + magic;
    const Vec n = shifted - magic;
    const Vec r = x - n * 0.693359375f - n * -2.12194440e-4f;
    Vec sum = r * 1.9875691500e-4f + 1.3981999507e-3f;
    sum = sum * r + 8.3334519073e-3f;
    sum = sum * r + 4.1665795894e-2f;
    sum = sum * r + 1.6666665459e-1f;
    sum = sum * r + 5.0000001201e-1f;
    sum = sum * (r * r) + r + 1.0f;
    const Bits bits = (bits_of(shifted) + 127u) << 23;  // 2ⁿ
    Vec power;
    std::memcpy(&power, &bits, sizeof power);
    return sum * power;
}

// (a₀, b₀, a₁, b₁, …) of the lower halves of a and b, and of the upper ones.
template <int... I>
void interleave(Vec a, Vec b, Vec& low, Vec& high, std::integer_sequence<int, I...>) {
#ifdef __clang__
    low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * kLanes)...);
    high = __builtin_shufflevector(a, b, (I / 2 + I % 2 * kLanes + kLanes / 2)...);
#else
    low = __builtin_shuffle(a, b, Bits{(I / 2 + I % 2 * kLanes)...});
    high = __builtin_shuffle(a, b, Bits{(I / 2 + I % 2 * kLanes + kLanes / 2)...});
#endif
}

// Transposes kLanes × kLanes numbers: interleaving both halves of the rows, log₂ kLanes times.
inline void transpose(Vec* rows) {
    for (int step = 1; step < kLanes; step *= 2) {
        Vec next[kLanes];
        for (int r = 0; r < kLanes / 2; ++r)
            interleave(rows[r], rows[r + kLanes / 2], next[2 * r], next[2 * r + 1],
                       std::make_integer_sequence<int, kLanes>{});
        std::copy(next, next + kLanes, rows);
    }
}

// Calls work with K, as what the compiler knows where that is usual; else with 0.
template <class Work>
void for_size(int64_t K, const Work& work) {
    switch (K) {
        case 16: return work(std::integral_constant<int64_t, 16>{});
        case 32: return work(std::integral_constant<int64_t, 32>{});
        case 64: return work(std::integral_constant<int64_t, 64>{});
        default: return work(std::integral_constant<int64_t, 0>{});
    }
}

}  // namespace

// What the kernels use of AVX512 and AMX, in plain C++: a CPU without them runs the code that is written for those with
// them. Each instruction does what Intel's Intrinsics Guide says of it. The compiler is told of this file by -include, and
// by LIKE_VNNI, LIKE_BF16 and LIKE_AMX, which CPU's code it is to compile.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace plain {

template <typename T, typename V>
std::array<T, sizeof(V) / sizeof(T)> lanes(V x) {
    std::array<T, sizeof(V) / sizeof(T)> of;
    std::memcpy(&of, &x, sizeof x);
    return of;
}

// A register V whose lane i, a T, is f(i).
template <typename V, typename T, typename F>
V make(F f) {
    std::array<T, sizeof(V) / sizeof(T)> of;
    for (size_t i = 0; i < of.size(); i++) of[i] = f(i);
    V x;
    std::memcpy(&x, &of, sizeof x);
    return x;
}

template <typename F>
__m512 floats(F f) { return make<__m512, float>(f); }
template <typename F>
__m512i integers(F f) { return make<__m512i, int32_t>(f); }

template <typename V>
V load(const void *from) {
    V x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
template <typename V>
void store(void *to, V x) { std::memcpy(to, &x, sizeof x); }

inline float widened(uint16_t bf16) {
    const uint32_t bits = uint32_t(bf16) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
// Half to even; what float32 keeps with fewer digits becomes zero, NaN stays NaN.
inline uint16_t narrowed(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return uint16_t(bits >> 16 | 0x40);
    if (std::fpclassify(x) == FP_SUBNORMAL) return uint16_t(bits >> 31 << 15);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
// sum + the product of two pairs of bf16, the second pair first.
inline float add_pairs(float sum, const uint16_t *a, const uint16_t *b) {
    return std::fma(widened(a[0]), widened(b[0]), std::fma(widened(a[1]), widened(b[1]), sum));
}

inline __m512 loadu_ps(const void *x) { return load<__m512>(x); }
inline __m512i loadu_si512(const void *x) { return load<__m512i>(x); }
inline void storeu_ps(void *to, __m512 x) { store(to, x); }
inline void storeu_si512(void *to, __m512i x) { store(to, x); }
inline __m512 set1_ps(float x) { return floats([&](int) { return x; }); }
inline __m512i set1_epi32(int32_t x) { return integers([&](int) { return x; }); }
inline __m512 setzero_ps() { return set1_ps(0); }
inline __m512i setzero_si512() { return set1_epi32(0); }
inline __m512 castsi512_ps(__m512i x) { return load<__m512>(&x); }
inline __m256i castsi512_si256(__m512i x) { return load<__m256i>(&x); }
inline float cvtss_f32(__m512 x) { return x[0]; }

inline __m512 add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 max_ps(__m512 a, __m512 b) { return floats([&](int i) { return a[i] > b[i] ? a[i] : b[i]; }); }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) { return floats([&](int i) { return std::fma(a[i], b[i], c[i]); }); }
inline __m512 fmsub_ps(__m512 a, __m512 b, __m512 c) { return floats([&](int i) { return std::fma(a[i], b[i], -c[i]); }); }

// x without what lies before its binary point, which is rounded down: of all that IMMEDIATE may ask for, that alone.
template <int IMMEDIATE>
__m512 reduce_ps(__m512 x) {
    static_assert(IMMEDIATE == 1, "another rounding, or digits of a fraction");
    return floats([&](int i) { return std::isinf(x[i]) ? 0.0f : x[i] - std::floor(x[i]); });
}
// a 2^floor(b)
inline __m512 scalef_ps(__m512 a, __m512 b) {
    return floats([&](int i) {
        if (std::isnan(a[i]) || std::isnan(b[i])) return a[i] + b[i];
        return std::ldexp(a[i], int(std::min(std::max(std::floor(b[i]), -1000.0f), 1000.0f)));
    });
}
inline float reduce_add_ps(__m512 x) {
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += x[i];
    return sum;
}
inline float reduce_max_ps(__m512 x) {
    float greatest = x[0];
    for (int i = 1; i < 16; i++) greatest = std::max(greatest, x[i]);
    return greatest;
}
template <int COMPARISON>
__mmask16 cmp_ps_mask(__m512 a, __m512 b) {
    static_assert(COMPARISON == _CMP_GT_OQ, "another comparison");
    int mask = 0;
    for (int i = 0; i < 16; i++) mask |= (a[i] > b[i]) << i;
    return __mmask16(mask);
}

inline __m512 maskz_loadu_ps(__mmask16 some, const float *x) {
    return floats([&](int i) { return some >> i & 1 ? x[i] : 0.0f; });
}
inline void mask_storeu_ps(float *to, __mmask16 some, __m512 x) {
    for (int i = 0; i < 16; i++)
        if (some >> i & 1) to[i] = x[i];
}
inline __m512i maskz_loadu_epi8(__mmask64 some, const void *x) {
    return make<__m512i, int8_t>([&](int i) { return some >> i & 1 ? static_cast<const int8_t *>(x)[i] : 0; });
}

template <typename F>
__m512i of_two(__m512i a, __m512i b, F f) {
    const auto x = lanes<uint32_t>(a), y = lanes<uint32_t>(b);
    return integers([&](int i) { return int32_t(f(x[i], y[i])); });
}
inline __m512i add_epi32(__m512i a, __m512i b) { return of_two(a, b, [](uint32_t x, uint32_t y) { return x + y; }); }
inline __m512i sub_epi32(__m512i a, __m512i b) { return of_two(a, b, [](uint32_t x, uint32_t y) { return x - y; }); }
inline __m512i mullo_epi32(__m512i a, __m512i b) { return of_two(a, b, [](uint32_t x, uint32_t y) { return x * y; }); }
inline __m512i or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i slli_epi32(__m512i x, int count) {
    return of_two(x, x, [&](uint32_t a, uint32_t) { return count > 31 ? 0 : a << count; });
}
inline __m512 cvtepi32_ps(__m512i x) {
    const auto of = lanes<int32_t>(x);
    return floats([&](int i) { return float(of[i]); });
}
inline __m512i cvtepi8_epi32(__m128i x) {
    const auto of = lanes<int8_t>(x);
    return integers([&](int i) { return of[i]; });
}
inline __m512i cvtepu16_epi32(__m256i x) {
    const auto of = lanes<uint16_t>(x);
    return integers([&](int i) { return of[i]; });
}

// Of each 16 bytes of a and b their lower (UPPER 0) or upper halves, T by T in turn.
template <typename T, int UPPER>
__m512i unpack(__m512i a, __m512i b) {
    constexpr int EACH = 16 / sizeof(T);
    const auto x = lanes<T>(a), y = lanes<T>(b);
    return make<__m512i, T>([&](int i) {
        const int from = i / EACH * EACH + UPPER * EACH / 2 + i % EACH / 2;
        return i % 2 ? y[from] : x[from];
    });
}
template <int UPPER>
__m256i extracti64x4(__m512i x) {
    const auto of = lanes<int64_t>(x);
    return make<__m256i, int64_t>([&](int i) { return of[4 * UPPER + i]; });
}

// sums + the products of four neighbours, unsigned times signed, with room for all of them
inline __m512i dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
    const auto sum = lanes<int32_t>(sums);
    const auto x = lanes<uint8_t>(a);
    const auto y = lanes<int8_t>(b);
    return integers([&](int i) {
        int32_t total = sum[i];
        for (int j = 4 * i; j < 4 * i + 4; j++) total += int32_t(x[j]) * y[j];
        return total;
    });
}

inline __m512 dpbf16_ps(__m512 sums, __m512bh a, __m512bh b) {
    const auto x = lanes<uint16_t>(a), y = lanes<uint16_t>(b);
    return floats([&](int i) { return add_pairs(sums[i], &x[2 * i], &y[2 * i]); });
}
inline __m256bh cvtneps_pbh(__m512 x) {
    return make<__m256bh, uint16_t>([&](int i) { return narrowed(x[i]); });
}
inline __m512bh cvtne2ps_pbh(__m512 upper, __m512 lower) {
    return make<__m512bh, uint16_t>([&](int i) { return narrowed(i < 16 ? lower[i] : upper[i - 16]); });
}

// Eight tiles of 16 rows of 64 bytes, which is how the kernels configure them.
struct alignas(64) Tile {
    uint8_t row[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local std::array<uint8_t, 64> configured;

inline void tile_loadconfig(const void *from) { std::memcpy(&configured, from, 64); }
inline void tile_storeconfig(void *to) { std::memcpy(to, &configured, 64); }
inline void tile_release() { configured.fill(0); }
inline void tile_zero(int t) { std::memset(&tiles[t], 0, sizeof(Tile)); }
inline void tile_load(int t, const void *from, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(tiles[t].row[r], static_cast<const uint8_t *>(from) + r * stride, 64);
}
inline void tile_store(int t, void *to, int64_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(static_cast<uint8_t *>(to) + r * stride, tiles[t].row[r], 64);
}
// sums (16, 16) += a (16, 32) b, whose rows hold two neighbours in depth side by side: (16, 16 columns, 2)
inline void tile_products(int sums, int a, int b) {
    for (int m = 0; m < 16; m++) {
        float total[16];
        uint16_t x[32], y[32];
        std::memcpy(total, tiles[sums].row[m], 64);
        std::memcpy(x, tiles[a].row[m], 64);
        for (int k = 0; k < 16; k++) {
            std::memcpy(y, tiles[b].row[k], 64);
            for (int n = 0; n < 16; n++) total[n] = add_pairs(total[n], x + 2 * k, y + 2 * n);
        }
        std::memcpy(tiles[sums].row[m], total, 64);
    }
}

}  // namespace plain

#undef _mm512_cmp_ps_mask
#undef _mm512_extracti64x4_epi64
#undef _mm512_reduce_ps
#undef _mm512_slli_epi32
#undef _tile_dpbf16ps
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero

#define _mm512_add_epi32 plain::add_epi32
#define _mm512_add_ps plain::add_ps
#define _mm512_castsi512_ps plain::castsi512_ps
#define _mm512_castsi512_si256 plain::castsi512_si256
#define _mm512_cmp_ps_mask(a, b, how) plain::cmp_ps_mask<how>(a, b)
#define _mm512_cvtepi32_ps plain::cvtepi32_ps
#define _mm512_cvtepi8_epi32 plain::cvtepi8_epi32
#define _mm512_cvtepu16_epi32 plain::cvtepu16_epi32
#define _mm512_cvtne2ps_pbh plain::cvtne2ps_pbh
#define _mm512_cvtneps_pbh plain::cvtneps_pbh
#define _mm512_cvtss_f32 plain::cvtss_f32
#define _mm512_dpbf16_ps plain::dpbf16_ps
#define _mm512_dpbusd_epi32 plain::dpbusd_epi32
#define _mm512_extracti64x4_epi64(x, upper) plain::extracti64x4<upper>(x)
#define _mm512_fmadd_ps plain::fmadd_ps
#define _mm512_fmsub_ps plain::fmsub_ps
#define _mm512_load_ps plain::loadu_ps
#define _mm512_loadu_ps plain::loadu_ps
#define _mm512_loadu_si512 plain::loadu_si512
#define _mm512_mask_storeu_ps plain::mask_storeu_ps
#define _mm512_maskz_loadu_epi8 plain::maskz_loadu_epi8
#define _mm512_maskz_loadu_ps plain::maskz_loadu_ps
#define _mm512_max_ps plain::max_ps
#define _mm512_mul_ps plain::mul_ps
#define _mm512_mullo_epi32 plain::mullo_epi32
#define _mm512_or_si512 plain::or_si512
#define _mm512_reduce_add_ps plain::reduce_add_ps
#define _mm512_reduce_max_ps plain::reduce_max_ps
#define _mm512_reduce_ps(x, how) plain::reduce_ps<how>(x)
#define _mm512_scalef_ps plain::scalef_ps
#define _mm512_set1_epi32 plain::set1_epi32
#define _mm512_set1_ps plain::set1_ps
#define _mm512_setzero_ps plain::setzero_ps
#define _mm512_setzero_si512 plain::setzero_si512
#define _mm512_slli_epi32 plain::slli_epi32
#define _mm512_store_ps plain::storeu_ps
#define _mm512_storeu_ps plain::storeu_ps
#define _mm512_storeu_si512 plain::storeu_si512
#define _mm512_sub_epi32 plain::sub_epi32
#define _mm512_sub_ps plain::sub_ps
#define _mm512_unpackhi_epi32 plain::unpack<int32_t, 1>
#define _mm512_unpackhi_epi64 plain::unpack<int64_t, 1>
#define _mm512_unpacklo_epi32 plain::unpack<int32_t, 0>
#define _mm512_unpacklo_epi64 plain::unpack<int64_t, 0>
#define _tile_dpbf16ps plain::tile_products
#define _tile_loadconfig plain::tile_loadconfig
#define _tile_loadd plain::tile_load
#define _tile_release plain::tile_release
#define _tile_storeconfig plain::tile_storeconfig
#define _tile_stored plain::tile_store
#define _tile_zero plain::tile_zero

// Not before <immintrin.h>, which would then take the real instructions for granted.
#if defined(LIKE_VNNI)
#define __AVX512F__ 1
#define __AVX512VNNI__ 1
#endif
#if defined(LIKE_BF16)
#define __AVX512BF16__ 1
#endif
#if defined(LIKE_AMX)
#define __AMX_BF16__ 1
#endif

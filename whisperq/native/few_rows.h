// Sums of integers for a few rows: the weight streams through once, as it lies in memory, and every row of the input
// meets it on the way. oneDNN's general kernel takes a third longer for one row.
#pragma once

#include "common.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

// y = scale * (codes x - correction) + bias: codes (outputs, inputs), the rest (outputs). correction: the input's
// zero_point times the sum of the output's codes; where each row of x has a zero_point of its own, that sum alone.
struct Weight {
    const int8_t *codes;
    const int32_t *correction;
    const float *scale, *bias;
    int64_t outputs, inputs;
};

// What becomes of y: float32, bf16, added to float32, codes of gelu(y), or float32 of gelu(y).
enum Kind { VALUES = 0, HALVES = 1, ADDED = 2, GELU_CODES = 3, GELU_VALUES = 4 };

inline void finish(float y, int64_t at, int32_t kind, void *out, Grid grid) {
    if (kind >= GELU_CODES) y = 0.5f * y * (1.0f + std::erf(y * 0.70710678f));
    if (kind == VALUES || kind == GELU_VALUES)
        static_cast<float *>(out)[at] = y;
    else if (kind == HALVES)
        static_cast<bf16 *>(out)[at] = to_bf16(y);
    else if (kind == ADDED)
        static_cast<float *>(out)[at] += y;
    else
        write(Out{static_cast<uint8_t *>(out), nullptr, grid}, at, &y, 1);
}

#if defined(__AVX512VNNI__)

// The sums of four registers' lanes.
inline void add_lanes(const __m512i *x, int32_t *sums) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(sums), four);
}

constexpr int OUTPUTS = 4;  // at a time: as many streams through memory

// ROWS rows of x, from `row`, times OUTPUTS rows of codes, from `first` -> totals (OUTPUTS, ROWS); ROWS is 1, 2 or 4.
template <int ROWS>
inline void integer_sums(const uint8_t *x, const Weight &w, int64_t first, int64_t row, int32_t *totals) {
    __m512i sums[OUTPUTS * ROWS];
    for (auto &sum : sums) sum = _mm512_setzero_si512();
    // Beyond the last output its neighbours are computed again, and not used.
    const int8_t *codes[OUTPUTS];
    for (int o = 0; o < OUTPUTS; o++) codes[o] = w.codes + std::min(first + o, w.outputs - 1) * w.inputs;
    for (int64_t k = 0; k < w.inputs; k += 64) {
        const int64_t left = w.inputs - k;
        const __mmask64 some = left >= 64 ? ~0ull : (1ull << left) - 1;
        __m512i inputs[ROWS];
        for (int r = 0; r < ROWS; r++) inputs[r] = _mm512_maskz_loadu_epi8(some, x + (row + r) * w.inputs + k);
        for (int o = 0; o < OUTPUTS; o++) {
            const __m512i weights = _mm512_maskz_loadu_epi8(some, codes[o] + k);
            for (int r = 0; r < ROWS; r++) sums[o * ROWS + r] = _mm512_dpbusd_epi32(sums[o * ROWS + r], inputs[r], weights);
        }
    }
    for (int i = 0; i < OUTPUTS * ROWS; i += 4) add_lanes(sums + i, totals + i);
}

#endif

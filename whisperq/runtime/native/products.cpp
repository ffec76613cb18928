// Integer products of a few rows, as decoding has them: the weight streams through once, as it lies in memory, and
// every row of the input meets it on the way. oneDNN's general kernel takes a third longer for one row.

#include "common.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

// y = scale * (codes x - correction) + bias: codes (outputs, inputs), the rest (outputs); correction is the input's
// zero_point times the sum of the output's codes.
struct Weight {
    const int8_t *codes;
    const int32_t *correction;
    const float *scale, *bias;
    int64_t outputs, inputs;
};

// What becomes of y: float32, bf16, added to float32, or codes of gelu(y).
enum Kind { VALUES = 0, HALVES = 1, ADDED = 2, GELU_CODES = 3, GELU_VALUES = 4 };

extern "C" int few_rows() {
#if defined(__AVX512VNNI__)
    return 1;
#else
    return 0;
#endif
}

#if defined(__AVX512VNNI__)

namespace {

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

// ROWS rows of x times OUTPUTS rows of codes; ROWS is 1 or 4.
template <int ROWS>
void block(const uint8_t *x, const Weight &w, int64_t first, int64_t row, int32_t kind, void *out, Grid grid) {
    __m512i sums[OUTPUTS * ROWS];
    for (auto &sum : sums) sum = _mm512_setzero_si512();
    // Beyond the last output its neighbours are computed again, and not stored.
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
    int32_t totals[OUTPUTS * ROWS];
    for (int i = 0; i < OUTPUTS * ROWS; i += 4) add_lanes(sums + i, totals + i);
    for (int64_t o = 0; o < std::min<int64_t>(OUTPUTS, w.outputs - first); o++)
        for (int r = 0; r < ROWS; r++) {
            const int64_t n = first + o;
            const int32_t sum = totals[o * ROWS + r] - w.correction[n];
            finish(w.scale[n] * float(sum) + w.bias[n], (row + r) * w.outputs + n, kind, out, grid);
        }
}

}  // namespace

// x: codes (rows, inputs). Out: (rows, outputs).
extern "C" void few_rows_product(const uint8_t *x, int64_t rows, Weight w, int32_t kind, void *out, Grid grid) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < w.outputs; n += OUTPUTS) {
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4) block<4>(x, w, n, row, kind, out, grid);
        for (; row < rows; row++) block<1>(x, w, n, row, kind, out, grid);
    }
}

#endif

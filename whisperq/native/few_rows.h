// Sums of integers for a few rows: the weight streams through once, as it lies in memory, and every row of the input
// meets it on the way. oneDNN's general kernel takes a third longer for one row.
#pragma once

#include "common.h"

#if defined(__AVX512VNNI__) || defined(__AVX2__)
#include <immintrin.h>
#define FEW_ROWS
#endif
#if defined(FEW_ROWS) && !defined(__AVX512VNNI__)
#define MANY_ROWS  // as many as there are: what this CPU has for 8-bit integers saturates
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

constexpr int64_t FEW = 8;  // rows
constexpr int OUTPUTS = 4;  // at a time: as many streams through memory

constexpr int64_t SPAN = 16 * OUTPUTS;  // outputs that are finished together, in vector instructions

// Stores y, the `count` outputs of a row from `first` on.
inline void store(float *y, int64_t count, int64_t row, int64_t first, const Weight &w, int32_t kind, void *out, Grid grid) {
    const int64_t at = row * w.outputs + first;
    if (kind >= GELU_CODES)
        for (int64_t i = 0; i < count; i++) y[i] = gelu(y[i]);
    if (kind == GELU_CODES)
        write(Out{static_cast<uint8_t *>(out), nullptr, grid}, at, y, count);
    else if (kind == VALUES || kind == GELU_VALUES)
        std::memcpy(static_cast<float *>(out) + at, y, count * sizeof(float));
    else if (kind == HALVES)
        for (int64_t i = 0; i < count; i++) static_cast<bf16 *>(out)[at + i] = to_bf16(y[i]);
    else
        for (int64_t i = 0; i < count; i++) static_cast<float *>(out)[at + i] += y[i];
}

// Of `codes` (outputs, inputs) the rows from `first` on, OUTPUTS of them. Beyond the last output its neighbours are
// computed again, and not used.
inline void streams(const Weight &w, int64_t first, const int8_t **codes) {
    for (int o = 0; o < OUTPUTS; o++) codes[o] = w.codes + std::min(first + o, w.outputs - 1) * w.inputs;
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

// ROWS rows of x, from `row`, times OUTPUTS rows of codes, from `first` -> totals (OUTPUTS, ROWS); ROWS is 1, 2 or 4.
template <int ROWS>
inline void integer_sums(const uint8_t *x, const Weight &w, int64_t first, int64_t row, int32_t *totals) {
    __m512i sums[OUTPUTS * ROWS];
    for (auto &sum : sums) sum = _mm512_setzero_si512();
    const int8_t *codes[OUTPUTS];
    streams(w, first, codes);
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

#elif defined(__AVX2__)

// Sixteen codes as 16-bit integers: their products are added in pairs to 32 bits, which nothing exceeds. The
// instruction for 8-bit integers adds to 16 bits, where products of eight bits do not fit.
inline __m256i sixteen_codes(const int8_t *x) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x)));
}
inline __m256i sixteen_codes(const uint8_t *x) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x)));
}
template <typename T>
inline __m256i last_codes(const T *x, int64_t count) {
    T codes[16] = {};
    std::memcpy(codes, x, count);
    return sixteen_codes(codes);
}

// The sums of four registers' lanes.
inline __m128i add_lanes(const __m256i *x) {
    const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(x[0], x[1]), _mm256_hadd_epi32(x[2], x[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

// Two rows of x at a time: their sums, weights and inputs fill the sixteen registers.
template <int ROWS>
inline void integer_sums(const uint8_t *x, const Weight &w, int64_t first, int64_t row, int32_t *totals) {
    constexpr int TOGETHER = ROWS < 2 ? 1 : 2;
    const int8_t *codes[OUTPUTS];
    streams(w, first, codes);
    for (int part = 0; part < ROWS; part += TOGETHER) {
        const uint8_t *inputs = x + (row + part) * w.inputs;
        __m256i sums[TOGETHER][OUTPUTS];
        for (auto &of_row : sums)
            for (auto &sum : of_row) sum = _mm256_setzero_si256();
        auto add = [&](const __m256i *of_x, const __m256i *weights) {
            for (int r = 0; r < TOGETHER; r++)
                for (int o = 0; o < OUTPUTS; o++)
                    sums[r][o] = _mm256_add_epi32(sums[r][o], _mm256_madd_epi16(of_x[r], weights[o]));
        };
        __m256i of_x[TOGETHER], weights[OUTPUTS];
        int64_t k = 0;
        for (; k + 16 <= w.inputs; k += 16) {
            for (int r = 0; r < TOGETHER; r++) of_x[r] = sixteen_codes(inputs + r * w.inputs + k);
            for (int o = 0; o < OUTPUTS; o++) weights[o] = sixteen_codes(codes[o] + k);
            add(of_x, weights);
        }
        if (const int64_t left = w.inputs - k; left > 0) {
            for (int r = 0; r < TOGETHER; r++) of_x[r] = last_codes(inputs + r * w.inputs + k, left);
            for (int o = 0; o < OUTPUTS; o++) weights[o] = last_codes(codes[o] + k, left);
            add(of_x, weights);
        }
        for (int r = 0; r < TOGETHER; r++) {
            int32_t of_row[OUTPUTS];
            _mm_storeu_si128(reinterpret_cast<__m128i *>(of_row), add_lanes(sums[r]));
            for (int o = 0; o < OUTPUTS; o++) totals[o * ROWS + part + r] = of_row[o];
        }
    }
}

#endif

#if defined(FEW_ROWS)

// SPAN outputs from `first` on of ROWS / PER rows of the result, from `row` on. `value`(sums, output, row): y of one
// output from its PER sums, those of as many rows of x (PER * rows, inputs).
template <int ROWS, int PER, typename Value>
void span(const uint8_t *x, const Weight &w, int64_t first, int64_t row, int32_t kind, void *out, Grid grid, Value value) {
    const int64_t count = std::min(SPAN, w.outputs - first);
    int32_t totals[OUTPUTS * ROWS];
    float y[ROWS / PER][SPAN];
    for (int64_t n = 0; n < count; n += OUTPUTS) {
        integer_sums<ROWS>(x, w, first + n, row * PER, totals);
        for (int64_t o = 0; o < std::min<int64_t>(OUTPUTS, count - n); o++)
            for (int r = 0; r < ROWS / PER; r++) y[r][n + o] = value(totals + o * ROWS + r * PER, first + n + o, row + r);
    }
    for (int r = 0; r < ROWS / PER; r++) store(y[r], count, row + r, first, w, kind, out, grid);
}

// x (PER * rows, inputs) times the weight -> (rows, outputs).
template <int PER, typename Value>
void few_rows(const uint8_t *x, int64_t rows, const Weight &w, int32_t kind, void *out, Grid grid, Value value) {
    constexpr int64_t STEP = 4 / PER;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < w.outputs; n += SPAN) {
        int64_t row = 0;
        for (; row + STEP <= rows; row += STEP) span<4, PER>(x, w, n, row, kind, out, grid, value);
        for (; row < rows; row++) span<PER, PER>(x, w, n, row, kind, out, grid, value);
    }
}

#endif

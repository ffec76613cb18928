// Exact products of any number of rows, where 8-bit instructions would saturate: codes are multiplied as 16-bit
// integers. A block of rows is widened once; each weight is widened as it is loaded, and meets several rows.
#pragma once

#include "few_rows.h"

constexpr int64_t BLOCK = 24;      // rows whose codes of 16 bits stay in the cache
constexpr int64_t COLUMNS_AT_ONCE = 8 * SPAN;  // outputs of one task

// R rows of x, `stride` apart, times OUTPUTS rows of codes -> totals (R, OUTPUTS). Rows of x are filled up with zeros.
template <int R>
inline void block_sums(const int16_t *x, int64_t stride, const int8_t *const *codes, int64_t inputs, int32_t *totals) {
    __m256i sums[R][OUTPUTS];
    for (auto &of_row : sums)
        for (auto &sum : of_row) sum = _mm256_setzero_si256();
    int64_t k = 0;
    auto add = [&](int o, __m256i weights) {
        for (int r = 0; r < R; r++) {
            const __m256i of_x = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x + r * stride + k));
            sums[r][o] = _mm256_add_epi32(sums[r][o], _mm256_madd_epi16(of_x, weights));
        }
    };
    for (; k + 16 <= inputs; k += 16)
        for (int o = 0; o < OUTPUTS; o++) add(o, sixteen_codes(codes[o] + k));
    if (k < inputs)
        for (int o = 0; o < OUTPUTS; o++) add(o, last_codes(codes[o] + k, inputs - k));
    for (int r = 0; r < R; r++)
        _mm_storeu_si128(reinterpret_cast<__m128i *>(totals + r * OUTPUTS), add_lanes(sums[r]));
}

// `value`(sums, output, row): y of one output from its PER sums, those of as many rows of x (PER * rows, inputs).
template <int PER, typename Value>
void many_rows(const uint8_t *x, int64_t rows, const Weight &w, int32_t kind, void *out, Grid grid, Value value) {
    constexpr int R = PER == 1 ? 3 : 2;  // sums, a weight and a product fill the sixteen registers
    constexpr int64_t RESULTS = BLOCK / PER;
    const int64_t stride = (w.inputs + 15) / 16 * 16;
#pragma omp parallel
    {
        std::vector<int16_t> codes(BLOCK * stride);
        std::vector<float> y(RESULTS * SPAN);
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t first = 0; first < rows; first += RESULTS)
            for (int64_t column = 0; column < w.outputs; column += COLUMNS_AT_ONCE) {
                const int64_t count = std::min(RESULTS, rows - first);
                for (int64_t r = 0; r < count * PER; r++)
                    for (int64_t k = 0; k < w.inputs; k++)
                        codes[r * stride + k] = x[(first * PER + r) * w.inputs + k];
                const int64_t end = std::min(w.outputs, column + COLUMNS_AT_ONCE);
                for (int64_t n = column; n < end; n += SPAN) {
                    const int64_t outputs = std::min(SPAN, end - n);
                    for (int64_t o = 0; o < outputs; o += OUTPUTS) {
                        const int8_t *weights[OUTPUTS];
                        streams(w, n + o, weights);
                        for (int64_t r = 0; r < count * PER; r += R) {  // BLOCK holds whole steps of R
                            int32_t totals[R * OUTPUTS];
                            block_sums<R>(codes.data() + r * stride, stride, weights, w.inputs, totals);
                            for (int64_t i = r; i < std::min(count * PER, r + R); i += PER)
                                for (int64_t j = 0; j < std::min<int64_t>(OUTPUTS, outputs - o); j++) {
                                    int32_t of_one[PER];
                                    for (int p = 0; p < PER; p++) of_one[p] = totals[(i - r + p) * OUTPUTS + j];
                                    y[i / PER * SPAN + o + j] = value(of_one, n + o + j, first + i / PER);
                                }
                        }
                    }
                    for (int64_t r = 0; r < count; r++)
                        store(y.data() + r * SPAN, outputs, first + r, n, w, kind, out, grid);
                }
            }
    }
}

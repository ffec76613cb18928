// Exact products of any number of rows, where 8-bit instructions would saturate: codes are multiplied as 16-bit
// integers. A block of rows is widened once; each weight is widened as it is loaded, and meets several rows.
#pragma once

#include "few_rows.h"

constexpr int64_t BLOCK = 24;      // rows whose codes of 16 bits stay in the cache
constexpr int64_t COLUMNS_AT_ONCE = 8 * SPAN;  // outputs of one task

// Three rows of x, `stride` apart, times OUTPUTS rows of codes -> totals, rows SPAN apart.
constexpr int TOGETHER = 3;

// sum += products of 16 pairs, added in pairs. In one piece, or the compiler computes all products before it adds one,
// and keeps sums in memory for want of registers.
#define ADD_PRODUCTS(sum, weights, x)                                                   \
    asm("vpmaddwd %2, %1, %%ymm15\n\tvpaddd %%ymm15, %0, %0"                            \
        : "+x"(sum)                                                                     \
        : "x"(weights), "m"(*reinterpret_cast<const int16_t(*)[16]>(x))                 \
        : "xmm15")

static __attribute__((noinline)) void block_sums(const int16_t *x, int64_t stride, const int8_t *const *codes,
                                                 int64_t inputs, int32_t *totals) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i a0 = zero, a1 = zero, a2 = zero, a3 = zero, b0 = zero, b1 = zero, b2 = zero, b3 = zero, d0 = zero, d1 = zero,
            d2 = zero, d3 = zero;
    const int8_t *c0 = codes[0], *c1 = codes[1], *c2 = codes[2], *c3 = codes[3];
    const int16_t *y = x + stride, *z = y + stride;
    int64_t k = 0;
    for (; k + 16 <= inputs; k += 16) {
        __m256i w = sixteen_codes(c0 + k);
        ADD_PRODUCTS(a0, w, x + k); ADD_PRODUCTS(b0, w, y + k); ADD_PRODUCTS(d0, w, z + k);
        w = sixteen_codes(c1 + k);
        ADD_PRODUCTS(a1, w, x + k); ADD_PRODUCTS(b1, w, y + k); ADD_PRODUCTS(d1, w, z + k);
        w = sixteen_codes(c2 + k);
        ADD_PRODUCTS(a2, w, x + k); ADD_PRODUCTS(b2, w, y + k); ADD_PRODUCTS(d2, w, z + k);
        w = sixteen_codes(c3 + k);
        ADD_PRODUCTS(a3, w, x + k); ADD_PRODUCTS(b3, w, y + k); ADD_PRODUCTS(d3, w, z + k);
    }
    const __m256i sums[TOGETHER][OUTPUTS] = {{a0, a1, a2, a3}, {b0, b1, b2, b3}, {d0, d1, d2, d3}};
    for (int r = 0; r < TOGETHER; r++)
        _mm_storeu_si128(reinterpret_cast<__m128i *>(totals + r * SPAN), add_lanes(sums[r]));
    for (; k < inputs; k++)  // of widths that are no multiple of 16
        for (int r = 0; r < TOGETHER; r++)
            for (int o = 0; o < OUTPUTS; o++) totals[r * SPAN + o] += int32_t(x[r * stride + k]) * codes[o][k];
}

// `value`(sums, output, row): y of one output from its PER sums, those of as many rows of x (PER * rows, inputs).
template <int PER, typename Value>
void many_rows(const uint8_t *x, int64_t rows, const Weight &w, int32_t kind, void *out, Grid grid, Value value) {
    constexpr int64_t RESULTS = BLOCK / PER;
    const int64_t stride = (w.inputs + 15) / 16 * 16;
#pragma omp parallel
    {
        std::vector<int16_t> codes(BLOCK * stride);
        std::vector<int32_t> totals(BLOCK * SPAN);
        float y[SPAN];
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t first = 0; first < rows; first += RESULTS)
            for (int64_t column = 0; column < w.outputs; column += COLUMNS_AT_ONCE) {
                const int64_t count = std::min(RESULTS, rows - first), end = std::min(w.outputs, column + COLUMNS_AT_ONCE);
                for (int64_t r = 0; r < count * PER; r++)
                    for (int64_t k = 0; k < w.inputs; k++)
                        codes[r * stride + k] = x[(first * PER + r) * w.inputs + k];
                for (int64_t n = column; n < end; n += SPAN) {
                    const int64_t outputs = std::min(SPAN, end - n);
                    for (int64_t o = 0; o < outputs; o += OUTPUTS) {
                        const int8_t *weights[OUTPUTS];
                        streams(w, n + o, weights);
                        for (int64_t r = 0; r < count * PER; r += TOGETHER)  // BLOCK holds whole steps
                            block_sums(codes.data() + r * stride, stride, weights, w.inputs, totals.data() + r * SPAN + o);
                    }
                    for (int64_t r = 0; r < count; r++) {
                        for (int64_t i = 0; i < outputs; i++) {
                            int32_t of_one[PER];
                            for (int p = 0; p < PER; p++) of_one[p] = totals[(r * PER + p) * SPAN + i];
                            y[i] = value(of_one, n + i, first + r);
                        }
                        store(y, outputs, first + r, n, w, kind, out, grid);
                    }
                }
            }
    }
}

// Exact products of any number of rows, where 8-bit instructions would saturate: codes are multiplied as 16-bit
// integers. A block of rows is widened once; each weight is widened as it is loaded, and meets several rows.
#pragma once

#include "few_rows.h"

#if defined(MANY_ROWS)

constexpr int TOGETHER = 3;        // rows of x
constexpr int64_t BLOCK = 24;      // rows whose codes of 16 bits stay in the cache
constexpr int64_t AT_ONCE = 8 * SPAN;  // outputs of one task

// sum += 16 products, added in pairs. In one piece, or the compiler computes all products before it adds one, and keeps
// sums in memory for want of registers.
inline void add_products(__m256i &sum, __m256i weights, const int16_t *x) {
    __m256i products;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
        : "+x"(sum), "=&x"(products)
        : "x"(weights), "m"(*reinterpret_cast<const int16_t(*)[16]>(x)));
}

// TOGETHER rows of x, `stride` apart, times OUTPUTS rows of codes -> totals, rows SPAN apart. Twelve sums, a weight and
// products fill the sixteen registers; in arrays the compiler would not keep them there.
static __attribute__((noinline)) void block_sums(const int16_t *x, int64_t stride, const int8_t *const *codes,
                                                 int64_t inputs, int32_t *totals) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i x0 = zero, x1 = zero, x2 = zero, x3 = zero;  // of the first row and four outputs
    __m256i y0 = zero, y1 = zero, y2 = zero, y3 = zero;
    __m256i z0 = zero, z1 = zero, z2 = zero, z3 = zero;
    const int8_t *c0 = codes[0], *c1 = codes[1], *c2 = codes[2], *c3 = codes[3];
    const int16_t *y = x + stride, *z = y + stride;
    int64_t k = 0;
    auto meet = [&](const int8_t *weights, __m256i &of_x, __m256i &of_y, __m256i &of_z) {
        const __m256i w = sixteen_codes(weights + k);
        add_products(of_x, w, x + k);
        add_products(of_y, w, y + k);
        add_products(of_z, w, z + k);
    };
    for (; k + 16 <= inputs; k += 16) {
        meet(c0, x0, y0, z0);
        meet(c1, x1, y1, z1);
        meet(c2, x2, y2, z2);
        meet(c3, x3, y3, z3);
    }
    const __m256i sums[TOGETHER][OUTPUTS] = {{x0, x1, x2, x3}, {y0, y1, y2, y3}, {z0, z1, z2, z3}};
    for (int r = 0; r < TOGETHER; r++)
        _mm_storeu_si128(reinterpret_cast<__m128i *>(totals + r * SPAN), add_lanes(sums[r]));
    for (; k < inputs; k++)  // of widths that are no multiple of 16
        for (int r = 0; r < TOGETHER; r++)
            for (int o = 0; o < OUTPUTS; o++) totals[r * SPAN + o] += int32_t(x[r * stride + k]) * codes[o][k];
}

// As few_rows.
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
            for (int64_t column = 0; column < w.outputs; column += AT_ONCE) {
                const int64_t count = std::min(RESULTS, rows - first);
                const int64_t end = std::min(w.outputs, column + AT_ONCE);
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

#endif

#if defined(FEW_ROWS)

// x (PER * rows, inputs) times the weight -> (rows, outputs), by what is quickest for so many rows; `value` as in `span`.
template <int PER, typename Value>
void multiply(const uint8_t *x, int64_t rows, const Weight &w, int32_t kind, void *out, Grid grid, Value value) {
#if defined(MANY_ROWS)
    if (rows > FEW) return many_rows<PER>(x, rows, w, kind, out, grid, value);
#endif
    few_rows<PER>(x, rows, w, kind, out, grid, value);
}

#endif

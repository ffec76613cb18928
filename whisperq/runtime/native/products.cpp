// Integer products of a few rows, as decoding has them, the input on one grid.

#include "few_rows.h"

extern "C" int few_rows() {
#if defined(__AVX512VNNI__)
    return 1;
#else
    return 0;
#endif
}

#if defined(__AVX512VNNI__)

namespace {

template <int ROWS>
void block(const uint8_t *x, const Weight &w, int64_t first, int64_t row, int32_t kind, void *out, Grid grid) {
    int32_t totals[OUTPUTS * ROWS];
    integer_sums<ROWS>(x, w, first, row, totals);
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

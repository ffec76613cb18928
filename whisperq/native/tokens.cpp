// Dynamic activations: every row has a grid of its own, from its least and greatest value.
//
//     y[r, n] = s_x[r] s_w[n] (sum_k q_x[r, k] q_w[n, k] - z_x[r] sum_k q_w[n, k]) + b[n]

#include <cfloat>

#include "many_rows.h"

namespace {

// Where rows of codes go, and the grid of each row.
struct Tokens {
    uint8_t *codes;
    float *scale;
    int32_t *zero_point;
    float quant_max;
};

// The grids of a product's input.
struct RowGrids {
    const float *scale;
    const int32_t *zero_point;
};

// One row, as quant/grid.py's token_qparams and quantize have it.
void write_row(const Tokens &t, int64_t row, const float *x, int64_t width) {
    float low = 0, high = 0;  // zero is a grid point
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t i = 0; i < width; i++) {
        low = x[i] < low ? x[i] : low;  // std::min, by reference, becomes no vector instruction
        high = x[i] > high ? x[i] : high;
    }
    float scale = (high - low) / t.quant_max;
    if (!(scale >= FLT_MIN)) scale = 1;
    const float zero_point = std::min(std::max(std::nearbyint(-low / scale), 0.0f), t.quant_max);
    t.scale[row] = scale;
    t.zero_point[row] = int32_t(zero_point);
    write(Out{t.codes, nullptr, Grid{scale, zero_point, t.quant_max}}, row * width, x, width);
}

// y (count) as float32, bf16, or added to float32.
void put(const float *y, int64_t count, int32_t kind, void *out, int64_t at) {
    float *values = static_cast<float *>(out) + at;
    bf16 *halves = static_cast<bf16 *>(out) + at;
    if (kind == HALVES)
        for (int64_t i = 0; i < count; i++) halves[i] = to_bf16(y[i]);
    else if (kind == ADDED)
        for (int64_t i = 0; i < count; i++) values[i] += y[i];
    else
        std::memcpy(values, y, count * sizeof(float));
}

constexpr int64_t COLUMNS = 2048;

}  // namespace

extern "C" {

// float32 x (rows, width), or its gelu.
void quantize_tokens(const float *x, int64_t rows, int64_t width, int32_t with_gelu, Tokens out) {
#pragma omp parallel if (rows * width > 16384)
    {
        std::vector<float> row(with_gelu ? width : 0);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const float *in = x + r * width;
            if (with_gelu) {
                for (int64_t i = 0; i < width; i++) row[i] = gelu(in[i]);
                in = row.data();
            }
            write_row(out, r, in, width);
        }
    }
}

// layer_norm(x) of float32 (rows, width), or its gelu.
void layer_norm_tokens(const float *x, const float *weight, const float *bias, float epsilon, int64_t rows,
                       int64_t width, int32_t with_gelu, Tokens out) {
#pragma omp parallel if (rows > 32)
    {
        std::vector<float> row(width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            normalise(x + r * width, weight, bias, epsilon, width, row.data());
            if (with_gelu)
                for (int64_t i = 0; i < width; i++) row[i] = gelu(row[i]);
            write_row(out, r, row.data(), width);
        }
    }
}

// Products of `rows` rows, of which the first is the input's row `first`, from their sums of (codes - shift) times the
// weight's codes, float32 (rows, outputs), rows `stride` apart. Out: (all rows, outputs), rows `out_stride` apart; of
// kind GELU_CODES it is `tokens`.
void finish_tokens(const float *sums, int64_t stride, int64_t rows, int64_t first, RowGrids grids, int32_t shift,
                   Weight w, int32_t kind, void *out, int64_t out_stride, Tokens tokens) {
    const int64_t columns = kind == GELU_CODES ? w.outputs : std::min(w.outputs, COLUMNS);
    const int64_t blocks = (w.outputs + columns - 1) / columns;
#pragma omp parallel if (rows * w.outputs > 16384)
    {
        std::vector<float> y(columns);
#pragma omp for collapse(2) schedule(static)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t b = 0; b < blocks; b++) {
                const int64_t row = first + r, n = b * columns, count = std::min(columns, w.outputs - n);
                const float s = grids.scale[row], z = float(grids.zero_point[row] - shift);
                const float *in = sums + r * stride + n, *scale = w.scale + n, *bias = w.bias + n;
                const int32_t *correction = w.correction + n;
                for (int64_t i = 0; i < count; i++) y[i] = s * (scale[i] * (in[i] - z * float(correction[i]))) + bias[i];
                if (kind >= GELU_CODES)
                    for (int64_t i = 0; i < count; i++) y[i] = gelu(y[i]);
                if (kind == GELU_CODES)
                    write_row(tokens, row, y.data(), count);
                else
                    put(y.data(), count, kind, out, row * out_stride + n);
            }
    }
}

#if defined(FEW_ROWS)

// x: codes (rows, inputs). Out: (rows, outputs), of any kind but GELU_CODES.
void token_product(const uint8_t *x, int64_t rows, RowGrids grids, Weight w, int32_t kind, void *out) {
    multiply<1>(x, rows, w, kind, out, Grid{}, [&](const int32_t *total, int64_t n, int64_t row) {
        const int32_t sum = *total - grids.zero_point[row] * w.correction[n];
        return grids.scale[row] * (w.scale[n] * float(sum)) + w.bias[n];
    });
}

#endif
}

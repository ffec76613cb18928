// Norms, quantization and gates: each reads its tensor once.

#include "common.h"

extern "C" {

// layer_norm(x) of float32 (rows, width), or its gelu.
void layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int64_t rows, int64_t width,
                int32_t with_gelu, Out out) {
#pragma omp parallel if (rows > 32)
    {
        std::vector<float> row(width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            normalise(x + r * width, weight, bias, epsilon, width, row.data());
            if (with_gelu)
                for (int64_t i = 0; i < width; i++) row[i] = gelu(row[i]);
            write(out, r * width, row.data(), width);
        }
    }
}

// The codes of float32 x (count).
void quantize(const float *x, int64_t count, Out out) {
    const int64_t block = 4096;
#pragma omp parallel for schedule(static) if (count > 4 * block)
    for (int64_t start = 0; start < count; start += block)
        write(out, start, x + start, std::min(block, count - start));
}

// Codes of two halves of x (rows, width), of `count` of its channels or, where there is no list of them, of all: the
// high halves (rows, count), then the low ones.
void quantize_halves(const float *x, int64_t rows, int64_t width, const int64_t *channels, int64_t count, float scale,
                     float zero_point, float quant_max, int32_t half, uint8_t *codes) {
    const int32_t mask = (1 << half) - 1;
    const Grid on = {scale, zero_point, quant_max};
#pragma omp parallel for schedule(static) if (rows * count > 16384)
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *high = codes + r * count, *low = codes + (rows + r) * count;
        for (int64_t i = 0; i < count; i++) {
            const int32_t code = code_of(x[r * width + (channels ? channels[i] : i)], on);
            high[i] = uint8_t(code >> half);
            low[i] = uint8_t(code & mask);
        }
    }
}

// The codes of float32 x (rows, width) whose channels are divided by divisor (width) first.
void quantize_divided(const float *x, const float *divisor, int64_t rows, int64_t width, Out out) {
#pragma omp parallel if (rows > 32)
    {
        std::vector<float> row(width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t i = 0; i < width; i++) row[i] = x[r * width + i] / divisor[i];
            write(out, r * width, row.data(), width);
        }
    }
}

// (clip(round(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale of one value; NaN stays NaN.
static inline float on_grid(float x, float scale, float zero_point, float quant_min, float quant_max) {
    const float q = std::nearbyint(x / scale) + zero_point;
    return (std::min(std::max(q, quant_min), quant_max) - zero_point) * scale;
}

static void row_on_grid(const float *x, int64_t count, float scale, float zero_point, float quant_min, float quant_max,
                        float *result) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) result[i] = on_grid(x[i], scale, zero_point, quant_min, quant_max);
}

// float32 x (count) on one grid; result may be x itself.
void fake_quantize(const float *x, int64_t count, float scale, float zero_point, float quant_min, float quant_max,
                   float *result) {
    const int64_t block = 4096;
#pragma omp parallel for schedule(static) if (count > 4 * block)
    for (int64_t start = 0; start < count; start += block)
        row_on_grid(x + start, std::min(block, count - start), scale, zero_point, quant_min, quant_max, result + start);
}

// float32 x (rows, width), each row on the asymmetric grid of its own minimum and maximum. A row that holds NaN or
// infinity has no grid: all of it becomes NaN.
void fake_quantize_rows(const float *x, int64_t rows, int64_t width, float quant_max, float smallest_scale,
                        float *result) {
#pragma omp parallel for schedule(static) if (rows > 32)
    for (int64_t r = 0; r < rows; r++) {
        const float *in = x + r * width;
        float low = 0, high = 0, poison = 0;  // zero is in every range; NaN - NaN and inf - inf are NaN
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : poison)
        for (int64_t i = 0; i < width; i++) {
            low = in[i] < low ? in[i] : low;
            high = in[i] > high ? in[i] : high;
            poison += in[i] - in[i];
        }
        float scale = (high - low) / quant_max;
        if (!(scale >= smallest_scale)) scale = 1;
        const float zero_point = std::min(std::max(std::nearbyint(-low / scale), 0.0f), quant_max) + poison;
        row_on_grid(in, width, scale, zero_point, 0, quant_max, result + r * width);
    }
}

// Gates on a finished context, float32 (rows, heads * head_dim).
void gate_context(const float *context, int64_t rows, int64_t heads, int64_t head_dim, Gate gate, Out out) {
#pragma omp parallel if (rows > 32)
    {
        std::vector<float> row(head_dim);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t h = 0; h < heads; h++) {
                const int64_t at = (r * heads + h) * head_dim;
                std::copy_n(context + at, head_dim, row.data());
                apply_gate(row.data(), gate, r, h, head_dim);
                write(out, at, row.data(), head_dim);
            }
    }
}
}

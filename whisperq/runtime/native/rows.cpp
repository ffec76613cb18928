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

// The same of x (rows, width) whose channels are divided by divisor (width) first.
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

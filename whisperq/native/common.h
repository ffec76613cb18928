// What the kernels share. Matrices are row-major; strides count elements; bf16 is the upper half of a float32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using bf16 = uint16_t;

// The grid of one activation: code = clip(round(x / scale) + zero_point, 0, quant_max).
struct Grid {
    float scale, zero_point, quant_max;
};

// Gates applied after attention. logits: row 0 of head 0, float32 or bf16; width 0: no gate, 1: one value for
// each head, head_dim: one for each dimension. The gate is factor * sigmoid(logit), factor = 1 / pi_init.
struct Gate {
    const void *logits;
    int64_t row_stride, width;
    int32_t is_bf16;
    float factor;
};

struct Shape {
    int64_t batch, length, heads, head_dim;
};

// Where a result goes: codes where there is room for them, else float32.
struct Out {
    uint8_t *codes;
    float *values;
    Grid grid;
};

inline float to_float(bf16 x) {
    uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline float to_float(float x) { return x; }
inline float to_float(int8_t x) { return x; }

inline bf16 to_bf16(float x) {  // half to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp(x) for x <= 88, within 3e-7 of itself; a loop over it becomes vector instructions, over std::exp not.
inline float exponential(float x) {
    float t = std::max(x, -87.0f) * 1.44269504f, n = std::nearbyint(t), f = t - n;
    float p = 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

// x (1 + erf(x / sqrt 2)) / 2, with erf by Abramowitz and Stegun 7.1.26, within 1.5e-7 of itself; over std::erf no loop
// becomes vector instructions.
inline float gelu(float x) {
    const float z = std::fabs(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float half = 0.5f * x * p * t * exponential(-z * z);  // x (1 - erf(z)) / 2
    return x > 0 ? x - half : half;
}

// layer_norm of one row, x (width).
inline void normalise(const float *x, const float *weight, const float *bias, float epsilon, int64_t width, float *row) {
    float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; i++) sum += x[i];
    const float mean = sum / width;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    const float inverse = 1.0f / std::sqrt(square / width + epsilon);
    for (int64_t i = 0; i < width; i++) row[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}

// A true division, as everywhere in whisperq: multiplying by 1 / scale would move codes that lie near a tie.
inline int32_t code_of(float x, const Grid &g) {
    const float q = std::nearbyint(x / g.scale) + g.zero_point;
    return int32_t(std::min(std::max(q, 0.0f), g.quant_max));
}

inline void write(const Out &out, int64_t at, const float *x, int64_t count) {
    if (!out.codes) {
        std::memcpy(out.values + at, x, count * sizeof(float));
        return;
    }
    const Grid g = out.grid;
    uint8_t *codes = out.codes + at;
    for (int64_t i = 0; i < count; i++) codes[i] = uint8_t(code_of(x[i], g));
}

inline float gate_value(const Gate &g, int64_t row, int64_t index) {
    int64_t at = row * g.row_stride + index;
    float logit = g.is_bf16 ? to_float(static_cast<const bf16 *>(g.logits)[at])
                            : static_cast<const float *>(g.logits)[at];
    return g.factor / (1.0f + exponential(std::min(-logit, 80.0f)));
}

// One row of one head, x (head_dim), times its gate.
inline void apply_gate(float *x, const Gate &g, int64_t row, int64_t head, int64_t head_dim) {
    if (g.width == 0) return;
    if (g.width == 1) {
        float value = gate_value(g, row, head);
        for (int64_t d = 0; d < head_dim; d++) x[d] *= value;
    } else {
        for (int64_t d = 0; d < head_dim; d++) x[d] *= gate_value(g, row, head * head_dim + d);
    }
}

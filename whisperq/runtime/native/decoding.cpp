// A few queries against a cache of keys (batch, heads, head_dim, capacity) and values (batch, heads, capacity,
// head_dim): keys lie across, so that one load serves sixteen of them without sums across a register.

#include "common.h"

namespace {

constexpr int64_t BLOCK = 64;

template <typename T>
void block_scores(const float *query, const T *keys, int64_t capacity, int64_t width, int64_t head_dim, float *sums) {
    std::fill(sums, sums + BLOCK, 0.0f);
    if (width == BLOCK) {
        for (int64_t d = 0; d < head_dim; d++)
            for (int64_t i = 0; i < BLOCK; i++) sums[i] += query[d] * to_float(keys[d * capacity + i]);
    } else {
        for (int64_t d = 0; d < head_dim; d++)
            for (int64_t i = 0; i < width; i++) sums[i] += query[d] * to_float(keys[d * capacity + i]);
    }
}

// softmax(scaling * query keys) values, of the first `count` entries; scores has room for them.
template <typename T>
void attend(const float *query, const T *keys, const T *values, int64_t capacity, int64_t count, int64_t head_dim,
            float scaling, float *scores, float *context) {
    float greatest = -INFINITY, total = 0;
    for (int64_t start = 0; start < count; start += BLOCK) {
        float sums[BLOCK];
        const int64_t width = std::min(BLOCK, count - start);
        block_scores(query, keys + start, capacity, width, head_dim, sums);
        for (int64_t i = 0; i < width; i++) scores[start + i] = sums[i] * scaling;
    }
#pragma omp simd reduction(max : greatest)
    for (int64_t i = 0; i < count; i++) greatest = std::max(greatest, scores[i]);
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) {
        scores[i] = exponential(scores[i] - greatest);
        total += scores[i];
    }
    std::fill(context, context + head_dim, 0.0f);
    for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < head_dim; d++) context[d] += scores[i] * to_float(values[i * head_dim + d]);
    for (int64_t d = 0; d < head_dim; d++) context[d] /= total;
}

template <typename T>
void attend_all(const T *query, int64_t row_stride, const T *keys, const T *values, int64_t capacity, int64_t past,
                bool causal, Shape s, float scaling, const Gate &gate, const Out &out) {
#pragma omp parallel
    {
        std::vector<float> scores(capacity), q(s.head_dim), context(s.head_dim);
#pragma omp for collapse(2) schedule(static)
        for (int64_t b = 0; b < s.batch; b++)
            for (int64_t h = 0; h < s.heads; h++) {
                const int64_t cache = (b * s.heads + h) * capacity * s.head_dim;
                for (int64_t i = 0; i < s.length; i++) {
                    const int64_t row = b * s.length + i;
                    for (int64_t d = 0; d < s.head_dim; d++)
                        q[d] = to_float(query[row * row_stride + h * s.head_dim + d]);
                    attend(q.data(), keys + cache, values + cache, capacity, causal ? past + i + 1 : past, s.head_dim,
                           scaling, scores.data(), context.data());
                    apply_gate(context.data(), gate, row, h, s.head_dim);
                    write(out, (row * s.heads + h) * s.head_dim, context.data(), s.head_dim);
                }
            }
    }
}

template <typename T>
void append_all(const T *key, const T *value, int64_t row_stride, T *keys, T *values, int64_t capacity, int64_t past,
                Shape s) {
#pragma omp parallel for collapse(2) schedule(static) if (s.length > 16)
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++) {
            const int64_t cache = (b * s.heads + h) * capacity * s.head_dim;
            for (int64_t i = 0; i < s.length; i++) {
                const int64_t from = (b * s.length + i) * row_stride + h * s.head_dim, at = past + i;
                for (int64_t d = 0; d < s.head_dim; d++) keys[cache + d * capacity + at] = key[from + d];
                std::memcpy(values + cache + at * s.head_dim, value + from, s.head_dim * sizeof(T));
            }
        }
}

}  // namespace

extern "C" {

// Rows of keys and values, (batch * length, heads * head_dim), into the cache behind its first `past` entries.
void append_bf16(const bf16 *key, const bf16 *value, int64_t row_stride, bf16 *keys, bf16 *values, int64_t capacity,
                 int64_t past, Shape s) {
    append_all(key, value, row_stride, keys, values, capacity, past, s);
}
void append_float(const float *key, const float *value, int64_t row_stride, float *keys, float *values,
                  int64_t capacity, int64_t past, Shape s) {
    append_all(key, value, row_stride, keys, values, capacity, past, s);
}

// query (batch * length, heads * head_dim) attends to the first `past` entries and, if causal, to those of its own
// step up to itself. Out (batch * length, heads * head_dim).
void attend_bf16(const bf16 *query, int64_t row_stride, const bf16 *keys, const bf16 *values, int64_t capacity,
                 int64_t past, int32_t causal, Shape s, float scaling, Gate gate, Out out) {
    attend_all(query, row_stride, keys, values, capacity, past, causal, s, scaling, gate, out);
}
void attend_float(const float *query, int64_t row_stride, const float *keys, const float *values, int64_t capacity,
                  int64_t past, int32_t causal, Shape s, float scaling, Gate gate, Out out) {
    attend_all(query, row_stride, keys, values, capacity, past, causal, s, scaling, gate, out);
}
}

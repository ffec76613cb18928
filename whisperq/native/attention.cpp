// The encoder's attention in bf16, gated, head by head (attend.h).

#include "attend.h"

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)

extern "C" {

int bf16_products() {
#if defined(__AMX_BF16__)
    return 2;
#else
    return 1;
#endif
}

// query, key, value: (batch * length, heads * head_dim), rows `row_stride` apart. Out: the same, densely.
// kept_key, kept_value: (keys, heads * head_dim), rows `kept_stride` apart; what they have from row `length` on comes
// behind the keys and values of each utterance. Each head is divided into `parts` for the threads.
void attention_bf16(const bf16 *query, const bf16 *key, const bf16 *value, int64_t row_stride, const bf16 *kept_key,
                    const bf16 *kept_value, int64_t kept_stride, int64_t keys, Shape s, float scaling, Gate gate,
                    int64_t parts, Out out) {
    auto head = [&](int64_t b, int64_t h) {
        const int64_t at = h * s.head_dim, origin = b * s.length * row_stride + at;
        return Head{query + origin, row_stride, {key + origin, kept_key + at, row_stride, kept_stride, s.length},
                    {value + origin, kept_value + at, row_stride, kept_stride, s.length}, nullptr};
    };
    attend_heads(s, keys, scaling, parts, head, [&](int64_t b, int64_t h, int64_t first, int64_t count, float *context) {
        for (int64_t r = 0; r < count; r++) {
            const int64_t row = b * s.length + first + r;
            float *x = context + r * padded(s.head_dim, TILE);
            apply_gate(x, gate, row, h, s.head_dim);
            write(out, (row * s.heads + h) * s.head_dim, x, s.head_dim);
        }
    });
}
}

#else

extern "C" {
int bf16_products() { return 0; }
}

#endif

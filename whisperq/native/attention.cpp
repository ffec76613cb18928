// The encoder's attention in bf16, gated, head by head (tiles.h).

#include "tiles.h"

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
    const int64_t blocks = (s.length + QUERIES - 1) / QUERIES;
#pragma omp parallel
    {
        [[maybe_unused]] Tiles tiles;
        Packed packed(keys, s.head_dim);
        Block block(packed.dims);
#pragma omp for collapse(3) schedule(dynamic)
        for (int64_t b = 0; b < s.batch; b++)
            for (int64_t h = 0; h < s.heads; h++)
                for (int64_t part = 0; part < parts; part++) {
                    const int64_t origin = b * s.length * row_stride + h * s.head_dim;
                    const int64_t head = h * s.head_dim;
                    packed.fill({key + origin, kept_key + head, row_stride, kept_stride, s.length},
                                {value + origin, kept_value + head, row_stride, kept_stride, s.length});
                    for (int64_t i = blocks * part / parts; i < blocks * (part + 1) / parts; i++) {
                        const int64_t first = i * QUERIES, count = std::min(QUERIES, s.length - first);
                        for (int64_t r = 0; r < count; r++)
                            std::copy_n(query + origin + (first + r) * row_stride, s.head_dim,
                                        &block.queries[r * block.dims]);
                        block.attend(packed, count, scaling);
                        for (int64_t r = 0; r < count; r++) {
                            const int64_t row = b * s.length + first + r;
                            apply_gate(&block.context[r * block.dims], gate, row, h, s.head_dim);
                            write(out, (row * s.heads + h) * s.head_dim, &block.context[r * block.dims], s.head_dim);
                        }
                    }
                }
    }
}
}

#else

extern "C" {
int bf16_products() { return 0; }
}

#endif

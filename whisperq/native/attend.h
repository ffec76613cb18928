// softmax(scaling * Q K^T) V in bf16, head by head, 32 queries times 64 keys at a time, so that scores and probabilities
// stay in the nearest cache; what was summed so far is scaled down whenever a much greater score appears (Milakov and
// Gimelshein 2018, arXiv 1805.02867).
#pragma once

#include "tiles.h"

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)

namespace {

constexpr int64_t QUERIES = TILE, KEYS = 64;  // chosen by measurement

// One head's keys or values: row t of its own, or from `count` on of what is kept for all.
struct Rows {
    const bf16 *own, *kept;
    int64_t stride, kept_stride, count;

    const bf16 *operator[](int64_t t) const { return t < count ? own + t * stride : kept + t * kept_stride; }
};

// One head's keys and values (length, head_dim), packed for `product`, zero where there are none.
struct Packed {
    int64_t length, head_dim, rows, dims;  // rows, dims: padded
    Buffer<bf16> keys, values;

    Packed(int64_t length, int64_t head_dim)
        : length(length), head_dim(head_dim), rows(padded(length, KEYS)), dims(padded(head_dim, TILE)),
          keys(rows * dims), values(rows * dims) {}

    void fill(const Rows &key, const Rows &value) {
        for (int64_t t = 0; t < length; t++) {
            // Keys are columns, (t / 16, d / 2, t % 16, d % 2): whole pairs move.
            bf16 *to = keys.data + t / 16 * 16 * dims + t % 16 * 2;
            const bf16 *from = key[t];
            for (int64_t d = 0; d + 1 < head_dim; d += 2) std::memcpy(to + d * 16, from + d, 4);
            if (head_dim % 2) to[(head_dim - 1) * 16] = from[head_dim - 1];
        }
        for (int64_t t = 0; t < length; t += 2) {
            // Values are rows, (d / 16, t / 2, d % 16, t % 2): two neighbours in time are interleaved.
            const bool last = t + 1 == length;
            const bf16 *even = value[t], *odd = last ? even : value[t + 1];
            int64_t d = 0;
            for (; !last && d + 16 <= head_dim; d += 16) {
                const auto pair = [](const bf16 *from) {
                    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
                };
                const __m512i both = _mm512_or_si512(pair(even + d), _mm512_slli_epi32(pair(odd + d), 16));
                _mm512_storeu_si512(&values[d * rows + t / 2 * 32], both);
            }
            for (; d < head_dim; d++) {
                bf16 *to = &values[d / 16 * 16 * rows + t / 2 * 32 + d % 16 * 2];
                to[0] = even[d];
                to[1] = last ? 0 : odd[d];
            }
        }
    }
};

// What one query has gathered so far: the greatest exponent of two, and sixteen parts of the sum of its powers.
struct alignas(64) Row {
    float sums[16] = {}, greatest = -1e30f;

    float total() const { return _mm512_reduce_add_ps(_mm512_load_ps(sums)); }
};

// 2^x = 2^floor(x) * 2^f, the latter within 2e-4: bf16 keeps eight digits.
inline __m512 power_of_two(__m512 x) {
    const __m512 f = _mm512_reduce_ps(x, 1 /* x - floor(x) */);
    __m512 p = _mm512_set1_ps(0.07763865f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.22568694f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69648546f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99981109f));
    return _mm512_scalef_ps(p, x);
}

// Scores of one query -> probabilities, not yet divided by their sum: exp(scaling * score) is two to the power of
// factor * score. Returns what scales down all that was summed before: one, unless a score has grown by 2^8, which
// float32 has room for; so that rows hardly ever wait for their greatest score.
float softmax_update(const float *scores, float factor, bf16 *probs, Row &row) {
    __m512 top = _mm512_loadu_ps(scores);
    for (int64_t i = 16; i < KEYS; i += 16) top = _mm512_max_ps(top, _mm512_loadu_ps(scores + i));
    const __m512 factors = _mm512_set1_ps(factor);
    __m512 sums = _mm512_load_ps(row.sums);
    float fade = 1.0f;
    if (_mm512_cmp_ps_mask(_mm512_mul_ps(top, factors), _mm512_set1_ps(row.greatest + 8.0f), _CMP_GT_OQ)) {
        const float greatest = factor * _mm512_reduce_max_ps(top);
        const __m512 down = power_of_two(_mm512_set1_ps(row.greatest - greatest));
        sums = _mm512_mul_ps(sums, down);
        fade = _mm512_cvtss_f32(down);
        row.greatest = greatest;
    }
    const __m512 shift = _mm512_set1_ps(-row.greatest);
    for (int64_t i = 0; i < KEYS; i += 32) {
        const __m512 p = power_of_two(_mm512_fmadd_ps(_mm512_loadu_ps(scores + i), factors, shift));
        const __m512 q = power_of_two(_mm512_fmadd_ps(_mm512_loadu_ps(scores + i + 16), factors, shift));
        sums = _mm512_add_ps(sums, _mm512_add_ps(p, q));
        _mm512_storeu_si512(probs + i, (__m512i)_mm512_cvtne2ps_pbh(q, p));
    }
    _mm512_store_ps(row.sums, sums);
    return fade;
}

// One thread's place for 32 queries of one head.
struct Block {
    int64_t dims;
    Buffer<bf16> queries, probs;
    Buffer<float> scores, context;

    explicit Block(int64_t dims)
        : dims(dims), queries(QUERIES * dims), probs(2 * QUERIES * KEYS), scores(QUERIES * KEYS), context(QUERIES * dims) {}

    // Leaves softmax(scaling * Q K^T) V of the first `count` queries in `context`, and where there is room the base-two
    // logarithms of their sums. A tile cannot be loaded until the stores before it have drained: so the values of one
    // block of keys wait for the scores of the next.
    void attend(const Packed &packed, int64_t count, float scaling, float *logarithms = nullptr) {
        Row rows[QUERIES];
        std::memset(context.data, 0, QUERIES * dims * sizeof(float));
        for (int64_t start = 0; start < packed.length; start += KEYS) {
            for (int64_t k = 0; k < KEYS; k += TILE)
                product(queries.data, dims, &packed.keys[(start + k) * dims], 16 * dims, dims, &scores[k], KEYS, false);
            if (start) add_values(packed, start - KEYS);
            bf16 *probs = probabilities(start);
            for (int64_t r = 0; r < count; r++) {
                const int64_t real = std::min(KEYS, packed.length - start);
                std::fill(&scores[r * KEYS + real], &scores[r * KEYS] + KEYS, -1e30f);  // no key, no weight
                const float fade = softmax_update(&scores[r * KEYS], scaling * 1.44269504f, probs + r * KEYS, rows[r]);
                if (start && fade != 1.0f)
                    for (int64_t d = 0; d < dims; d++) context[r * dims + d] *= fade;
            }
        }
        add_values(packed, (packed.length - 1) / KEYS * KEYS);
        for (int64_t r = 0; r < count; r++) {
            const float inverse = 1.0f / rows[r].total();
            if (logarithms) logarithms[r] = rows[r].greatest - std::log2(inverse);
            for (int64_t d = 0; d < dims; d++) context[r * dims + d] *= inverse;
        }
    }

    bf16 *probabilities(int64_t start) { return probs.data + start / KEYS % 2 * QUERIES * KEYS; }

    void add_values(const Packed &packed, int64_t start) {
        for (int64_t d = 0; d < dims; d += TILE)
            product(probabilities(start), KEYS, &packed.values[d * packed.rows + start * 16], 16 * packed.rows, KEYS,
                    &context[d], dims, true);
    }
};

// Where one head's query, key and value lie, and the logarithms of its queries' sums, or nullptr.
struct Head {
    const bf16 *query;
    int64_t query_row;
    Rows key, value;
    float *logarithms;
};

// `head`(b, h) -> its Head; `done`(b, h, first, count, context) takes the result of `count` queries from `first` on,
// float32, rows `padded(head_dim, TILE)` apart. Each head is divided into `parts` for the threads.
template <typename Where, typename Done>
void attend_heads(Shape s, int64_t keys, float scaling, int64_t parts, Where head, Done done) {
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
                    const Head own = head(b, h);
                    packed.fill(own.key, own.value);
                    for (int64_t i = blocks * part / parts; i < blocks * (part + 1) / parts; i++) {
                        const int64_t first = i * QUERIES, count = std::min(QUERIES, s.length - first);
                        for (int64_t r = 0; r < count; r++)
                            std::copy_n(own.query + (first + r) * own.query_row, s.head_dim, &block.queries[r * block.dims]);
                        block.attend(packed, count, scaling, own.logarithms ? own.logarithms + first : nullptr);
                        done(b, h, first, count, block.context.data);
                    }
                }
    }
}

}  // namespace

#endif

// Attention that is learned, in bf16: softmax(scaling * Q K^T) V and its gradients, head by head, for CPUs that multiply
// bf16 (tiles.h). With P the probabilities, O the result and dO its gradient,
//
//     dV = P^T dO     dS = P * (dO V^T - rowsum(dO * O))     dQ = scaling dS K     dK = scaling dS^T Q
//
// P is made again from the logarithms of its sums (Dao et al. 2022, arXiv 2205.14135), 64 keys times 64 queries at a time,
// keys as rows: so that every product finds its operands packed, and sums of a key stay in the nearest cache.

#include "attend.h"

// One number for each batch, head, row and dimension; dimensions lie side by side.
struct View {
    bf16 *data;
    int64_t batch, head, row;  // how far apart, in elements

    bf16 *at(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)

namespace {

constexpr int64_t BLOCK = 64;
constexpr float LOG2_E = 1.44269504f;

inline void store_bf16(bf16 *to, __m512 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(x));
}

inline __m512 load_bf16(const bf16 *from) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// One thread's place for the gradients of one head; head_dim is a multiple of 32.
struct Gradients {
    int64_t queries, keys, dims;
    Packed question, answer;  // Q and dO, each as columns and as rows
    Buffer<bf16> key_rows, value_rows, key_columns, probs, slopes, slope_pairs;
    Buffer<float> scores, changes, query_sums, key_sums, value_sums, logarithms, dots;

    Gradients(int64_t queries, int64_t keys, int64_t dims)
        : queries(queries), keys(keys), dims(dims), question(queries, dims), answer(queries, dims),
          key_rows(padded(keys, BLOCK) * dims), value_rows(padded(keys, BLOCK) * dims),
          key_columns(padded(keys, BLOCK) * dims), probs(BLOCK * BLOCK), slopes(BLOCK * BLOCK),
          slope_pairs(BLOCK * BLOCK), scores(BLOCK * BLOCK), changes(BLOCK * BLOCK), query_sums(question.rows * dims),
          key_sums(BLOCK * dims), value_sums(BLOCK * dims), logarithms(question.rows), dots(question.rows) {}

    void fill(const bf16 *q, int64_t q_row, const bf16 *k, int64_t k_row, const bf16 *v, int64_t v_row, const bf16 *out,
              int64_t out_row, const bf16 *grad, int64_t grad_row, const float *sums) {
        question.fill({q, q, q_row, q_row, queries}, {q, q, q_row, q_row, queries});
        answer.fill({grad, grad, grad_row, grad_row, queries}, {grad, grad, grad_row, grad_row, queries});
        for (int64_t t = 0; t < keys; t++) {
            std::copy_n(k + t * k_row, dims, &key_rows[t * dims]);
            std::copy_n(v + t * v_row, dims, &value_rows[t * dims]);
        }
        const int64_t width = padded(keys, BLOCK);
        for (int64_t d = 0; d < dims; d++)
            for (int64_t t = 0; t < keys; t++) key_columns[d * width + t] = key_rows[t * dims + d];
        for (int64_t t = 0; t < question.rows; t++) {
            logarithms[t] = t < queries ? sums[t] : 1e30f;  // no query, no probability
            __m512 dot = _mm512_setzero_ps();
            for (int64_t d = 0; t < queries && d < dims; d += 16)
                dot = _mm512_fmadd_ps(load_bf16(grad + t * grad_row + d), load_bf16(out + t * out_row + d), dot);
            dots[t] = _mm512_reduce_add_ps(dot);
        }
        std::memset(query_sums.data, 0, question.rows * dims * sizeof(float));
    }

    // Keys from `key` on: adds to all queries' sums, and leaves those of these keys and values.
    void block(int64_t key, float scaling) {
        const int64_t width = padded(keys, BLOCK);
        std::memset(key_sums.data, 0, BLOCK * dims * sizeof(float));
        std::memset(value_sums.data, 0, BLOCK * dims * sizeof(float));
        for (int64_t query = 0; query < question.rows; query += BLOCK) {
            for (int64_t k = 0; k < BLOCK; k += TILE)
                for (int64_t q = 0; q < BLOCK; q += TILE) {
                    product(&key_rows[(key + k) * dims], dims, &question.keys[(query + q) * dims], 16 * dims, dims,
                            &scores[k * BLOCK + q], BLOCK, false);
                    product(&value_rows[(key + k) * dims], dims, &answer.keys[(query + q) * dims], 16 * dims, dims,
                            &changes[k * BLOCK + q], BLOCK, false);
                }
            // No key, no probability: a query whose own scores are all far below zero would give those of zero infinity.
            for (int64_t k = keys - key; k < BLOCK; k++) std::fill_n(&scores[k * BLOCK], BLOCK, -1e30f);
            slope(query, scaling * LOG2_E);
            for (int64_t d = 0; d < dims; d += TILE)
                for (int64_t t = 0; t < BLOCK; t += TILE) {
                    product(&probs[t * BLOCK], BLOCK, &answer.values[d * answer.rows + query * 16], 16 * answer.rows, BLOCK,
                            &value_sums[t * dims + d], dims, true);
                    product(&slopes[t * BLOCK], BLOCK, &question.values[d * question.rows + query * 16],
                            16 * question.rows, BLOCK, &key_sums[t * dims + d], dims, true);
                    product(&key_columns[d * width + key], width, &slope_pairs[t * BLOCK], 16 * BLOCK, BLOCK,
                            &query_sums[d * question.rows + query + t], question.rows, true);
                }
        }
    }

    // Scores and dO V^T -> P and dS, keys as rows; dS with neighbouring keys interleaved, too.
    void slope(int64_t query, float factor) {
        const __m512 factors = _mm512_set1_ps(factor);
        for (int64_t c = 0; c < BLOCK; c += 16) {
            const __m512 shift = _mm512_loadu_ps(&logarithms[query + c]), dot = _mm512_loadu_ps(&dots[query + c]);
            for (int64_t t = 0; t < BLOCK; t += 2) {
                __m512i both[2];
                for (int64_t e = 0; e < 2; e++) {
                    const int64_t at = (t + e) * BLOCK + c;
                    const __m512 p = power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(&scores[at]), factors, shift));
                    const __m512 ds = _mm512_mul_ps(p, _mm512_sub_ps(_mm512_loadu_ps(&changes[at]), dot));
                    store_bf16(&probs[at], p);
                    const __m256i half = (__m256i)_mm512_cvtneps_pbh(ds);
                    _mm256_storeu_si256(reinterpret_cast<__m256i *>(&slopes[at]), half);
                    both[e] = _mm512_cvtepu16_epi32(half);
                }
                _mm512_storeu_si512(&slope_pairs[c * BLOCK + t * 16], _mm512_or_si512(both[0], _mm512_slli_epi32(both[1], 16)));
            }
        }
    }
};

void write_rows(const float *from, int64_t dims, float factor, bf16 *to, int64_t row, int64_t count) {
    for (int64_t t = 0; t < count; t++)
        for (int64_t d = 0; d < dims; d += 16)
            store_bf16(to + t * row + d, _mm512_mul_ps(_mm512_loadu_ps(from + t * dims + d), _mm512_set1_ps(factor)));
}

}  // namespace

extern "C" {

// query, out: s.length rows of each head; key, value: `keys` rows. logarithms (batch, heads, length): those to base two
// of each query's sum of exponentials.
void learn_attention(View query, View key, View value, Shape s, int64_t keys, float scaling, int64_t parts, View out,
                     float *logarithms) {
    auto head = [&](int64_t b, int64_t h) {
        const bf16 *k = key.at(b, h), *v = value.at(b, h);
        return Head{query.at(b, h), query.row, {k, k, key.row, key.row, keys}, {v, v, value.row, value.row, keys},
                    logarithms + (b * s.heads + h) * s.length};
    };
    attend_heads(s, keys, scaling, parts, head, [&](int64_t b, int64_t h, int64_t first, int64_t count, float *context) {
        write_rows(context, padded(s.head_dim, TILE), 1.0f, out.at(b, h) + first * out.row, out.row, count);
    });
}

// The gradients of query, key and value, in the places of that name, from that of `out`.
void learn_attention_back(View query, View key, View value, View out, View grad, const float *logarithms, Shape s,
                          int64_t keys, float scaling, View query_grad, View key_grad, View value_grad) {
#pragma omp parallel
    {
        [[maybe_unused]] Tiles tiles;
        Gradients g(s.length, keys, s.head_dim);
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t b = 0; b < s.batch; b++)
            for (int64_t h = 0; h < s.heads; h++) {
                g.fill(query.at(b, h), query.row, key.at(b, h), key.row, value.at(b, h), value.row, out.at(b, h), out.row,
                       grad.at(b, h), grad.row, logarithms + (b * s.heads + h) * s.length);
                for (int64_t t = 0; t < keys; t += BLOCK) {
                    const int64_t count = std::min(BLOCK, keys - t);
                    g.block(t, scaling);
                    write_rows(g.key_sums.data, g.dims, scaling, key_grad.at(b, h) + t * key_grad.row, key_grad.row, count);
                    write_rows(g.value_sums.data, g.dims, 1.0f, value_grad.at(b, h) + t * value_grad.row, value_grad.row,
                               count);
                }
                bf16 *to = query_grad.at(b, h);
                for (int64_t t = 0; t < s.length; t++)
                    for (int64_t d = 0; d < g.dims; d++)
                        to[t * query_grad.row + d] = to_bf16(scaling * g.query_sums[d * g.question.rows + t]);
            }
    }
}
}

#endif

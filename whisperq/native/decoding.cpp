// A few queries against a cache of keys (batch, heads, head_dim, capacity) and values (batch, heads, capacity,
// head_dim): keys lie across, so that one load serves sixteen of them without sums across a register. Of int8 codes
// the scales of their channels are left out of both sums: the query is multiplied by the keys', the context by the
// values'.

#include "common.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

namespace {

// sums += the sum over r of factors[r] times rows r of x (count, COLUMNS), `stride` apart.
constexpr int64_t COLUMNS = 64;

#if defined(__AVX512F__)

inline __m512 sixteen(const float *x) { return _mm512_loadu_ps(x); }
inline __m512 sixteen(const bf16 *x) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m512 sixteen(const int8_t *x) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(x))));
}

// In eight registers: as many as hide how long each sum takes. The compiler's own loop stores every one.
template <typename T>
void add_rows(const float *factors, const T *x, int64_t stride, int64_t count, float *sums) {
    __m512 even[4], odd[4];
    for (int c = 0; c < 4; c++) even[c] = _mm512_loadu_ps(sums + 16 * c), odd[c] = _mm512_setzero_ps();
    int64_t r = 0;
    for (; r + 2 <= count; r += 2) {
        const __m512 first = _mm512_set1_ps(factors[r]), second = _mm512_set1_ps(factors[r + 1]);
        for (int c = 0; c < 4; c++) {
            even[c] = _mm512_fmadd_ps(first, sixteen(x + r * stride + 16 * c), even[c]);
            odd[c] = _mm512_fmadd_ps(second, sixteen(x + (r + 1) * stride + 16 * c), odd[c]);
        }
    }
    if (r < count)
        for (int c = 0; c < 4; c++)
            even[c] = _mm512_fmadd_ps(_mm512_set1_ps(factors[r]), sixteen(x + r * stride + 16 * c), even[c]);
    for (int c = 0; c < 4; c++) _mm512_storeu_ps(sums + 16 * c, _mm512_add_ps(even[c], odd[c]));
}

#elif defined(__AVX2__) && defined(__FMA__)

inline __m256 eight(const float *x) { return _mm256_loadu_ps(x); }
inline __m256 eight(const bf16 *x) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline __m256 eight(const int8_t *x) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(x))));
}

template <typename T>
void add_rows(const float *factors, const T *x, int64_t stride, int64_t count, float *sums) {
    __m256 held[8];
    for (int c = 0; c < 8; c++) held[c] = _mm256_loadu_ps(sums + 8 * c);
    for (int64_t r = 0; r < count; r++) {
        const __m256 factor = _mm256_set1_ps(factors[r]);
        for (int c = 0; c < 8; c++) held[c] = _mm256_fmadd_ps(factor, eight(x + r * stride + 8 * c), held[c]);
    }
    for (int c = 0; c < 8; c++) _mm256_storeu_ps(sums + 8 * c, held[c]);
}

#else

template <typename T>
void add_rows(const float *factors, const T *x, int64_t stride, int64_t count, float *sums) {
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < COLUMNS; i++) sums[i] += factors[r] * to_float(x[r * stride + i]);
}

#endif

// The same for any number of columns.
template <typename T>
void add_all(const float *factors, const T *x, int64_t stride, int64_t count, int64_t columns, float *sums) {
    int64_t c = 0;
    for (; c + COLUMNS <= columns; c += COLUMNS) add_rows(factors, x + c, stride, count, sums + c);
    if (c == columns) return;
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = c; i < columns; i++) sums[i] += factors[r] * to_float(x[r * stride + i]);
}

// The scales of a cache's channels, (heads * head_dim) each; none of a cache that holds no codes.
struct Scales {
    const float *keys, *values;
};

// softmax(scaling * query keys) values, of the first `count` entries; scores has room for them.
template <typename T>
void attend(const float *query, const T *keys, const T *values, int64_t capacity, int64_t count, int64_t head_dim,
            float scaling, float *scores, float *context) {
    float greatest = -INFINITY, total = 0;
    std::fill(scores, scores + count, 0.0f);
    add_all(query, keys, capacity, head_dim, count, scores);
    for (int64_t i = 0; i < count; i++) scores[i] *= scaling;
#pragma omp simd reduction(max : greatest)
    for (int64_t i = 0; i < count; i++) greatest = scores[i] > greatest ? scores[i] : greatest;  // as std::max no vector
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < count; i++) {
        scores[i] = exponential(scores[i] - greatest);
        total += scores[i];
    }
    std::fill(context, context + head_dim, 0.0f);
    add_all(scores, values, head_dim, count, head_dim, context);
    for (int64_t d = 0; d < head_dim; d++) context[d] /= total;
}

template <typename Q, typename T>
void attend_all(const Q *query, int64_t row_stride, const T *keys, const T *values, int64_t capacity, int64_t past,
                bool causal, Shape s, float scaling, const Gate &gate, const Out &out, Scales scales = {}) {
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
                    if (scales.keys)
                        for (int64_t d = 0; d < s.head_dim; d++) q[d] *= scales.keys[h * s.head_dim + d];
                    attend(q.data(), keys + cache, values + cache, capacity, causal ? past + i + 1 : past, s.head_dim,
                           scaling, scores.data(), context.data());
                    if (scales.values)
                        for (int64_t d = 0; d < s.head_dim; d++) context[d] *= scales.values[h * s.head_dim + d];
                    apply_gate(context.data(), gate, row, h, s.head_dim);
                    write(out, (row * s.heads + h) * s.head_dim, context.data(), s.head_dim);
                }
            }
    }
}

// One row of one head, its channels from `first` on, as the cache holds it; in `room` where it is not so already.
template <typename T>
const T *stored(const T *x, const float *, int64_t, int64_t, T *) {
    return x;
}
const int8_t *stored(const float *x, const float *scale, int64_t first, int64_t count, int8_t *room) {
    for (int64_t d = 0; d < count; d++)
        room[d] = int8_t(int32_t(std::min(std::max(std::nearbyint(x[d] / scale[first + d]), -127.0f), 127.0f)));
    return room;
}

template <typename X, typename T>
void append_all(const X *key, const X *value, int64_t row_stride, T *keys, T *values, int64_t capacity, int64_t past,
                Shape s, Scales scales = {}) {
#pragma omp parallel for collapse(2) schedule(static) if (s.length > 16)
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++) {
            const int64_t cache = (b * s.heads + h) * capacity * s.head_dim, first = h * s.head_dim;
            std::vector<T> room(s.head_dim);
            for (int64_t i = 0; i < s.length; i++) {
                const int64_t from = (b * s.length + i) * row_stride + first, at = past + i;
                const T *k = stored(key + from, scales.keys, first, s.head_dim, room.data());
                for (int64_t d = 0; d < s.head_dim; d++) keys[cache + d * capacity + at] = k[d];
                const T *v = stored(value + from, scales.values, first, s.head_dim, room.data());
                std::memcpy(values + cache + at * s.head_dim, v, s.head_dim * sizeof(T));
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

// The same of caches of codes.
void append_codes(const float *key, const float *value, int64_t row_stride, int8_t *keys, int8_t *values,
                  int64_t capacity, int64_t past, Shape s, const float *key_scale, const float *value_scale) {
    append_all(key, value, row_stride, keys, values, capacity, past, s, {key_scale, value_scale});
}
void attend_codes_bf16(const bf16 *query, int64_t row_stride, const int8_t *keys, const int8_t *values,
                       int64_t capacity, int64_t past, int32_t causal, Shape s, float scaling, Gate gate, Out out,
                       const float *key_scale, const float *value_scale) {
    attend_all(query, row_stride, keys, values, capacity, past, causal, s, scaling, gate, out, {key_scale, value_scale});
}
void attend_codes_float(const float *query, int64_t row_stride, const int8_t *keys, const int8_t *values,
                        int64_t capacity, int64_t past, int32_t causal, Shape s, float scaling, Gate gate, Out out,
                        const float *key_scale, const float *value_scale) {
    attend_all(query, row_stride, keys, values, capacity, past, causal, s, scaling, gate, out, {key_scale, value_scale});
}
}

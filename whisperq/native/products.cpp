// Integer products whose input is on one grid, of 8 bits or of 16: for the few rows of decoding, or for any number.

#include "many_rows.h"

// How many rows are best multiplied here, if another kernel is at hand for more.
extern "C" int64_t most_rows() {
#if defined(MANY_ROWS)
    return 64;
#elif defined(FEW_ROWS)
    return FEW;
#else
    return 0;
#endif
}

// Whether any number of rows can be multiplied here.
extern "C" int any_rows() {
#if defined(MANY_ROWS)
    return 1;
#else
    return 0;
#endif
}

#if defined(FEW_ROWS)

namespace {

// y (count) += the products of one row, codes high and low (groups, 4), and 16 outputs of add_narrow_product.
#if defined(__AVX512VNNI__)

inline void narrow_add(const uint8_t *high, const uint8_t *low, const int8_t *weights, int64_t groups, int32_t half,
                       int32_t zero_point, const int32_t *sums, const float *weight_scale, int64_t count, float *y) {
    const __mmask16 some = count >= 16 ? 0xffff : (1u << count) - 1;
    const __m512i sum = _mm512_loadu_si512(sums);
    const __m512 factor = _mm512_loadu_ps(weight_scale);
    __m512i highs = _mm512_setzero_si512(), lows = _mm512_setzero_si512();
    for (int64_t g = 0; g < groups; g++) {
        const __m512i w = _mm512_loadu_si512(weights + 64 * g);
        int32_t four;
        std::memcpy(&four, high + 4 * g, 4);
        highs = _mm512_dpbusd_epi32(highs, _mm512_set1_epi32(four), w);
        std::memcpy(&four, low + 4 * g, 4);
        lows = _mm512_dpbusd_epi32(lows, _mm512_set1_epi32(four), w);
    }
    __m512i total = _mm512_add_epi32(_mm512_slli_epi32(highs, half), lows);
    total = _mm512_sub_epi32(total, _mm512_mullo_epi32(sum, _mm512_set1_epi32(zero_point)));
    const __m512 before = _mm512_maskz_loadu_ps(some, y);
    _mm512_mask_storeu_ps(y, some, _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(total), before));
}

#else

// The sums of 16 outputs, from those of four outputs and pairs of channels each.
inline void narrow_sums(const uint8_t *x, const int8_t *weights, int64_t groups, int32_t *totals) {
    __m256i pairs[4];
    for (auto &sums : pairs) sums = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; g++) {
        int32_t four;
        std::memcpy(&four, x + 4 * g, 4);
        const __m256i inputs = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
        for (int i = 0; i < 4; i++)
            pairs[i] = _mm256_add_epi32(pairs[i], _mm256_madd_epi16(inputs, sixteen_codes(weights + 64 * g + 16 * i)));
    }
    for (int i = 0; i < 4; i += 2) {
        const __m256i eight = _mm256_permute4x64_epi64(_mm256_hadd_epi32(pairs[i], pairs[i + 1]), 0b11011000);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(totals + 4 * i), eight);
    }
}

inline void narrow_add(const uint8_t *high, const uint8_t *low, const int8_t *weights, int64_t groups, int32_t half,
                       int32_t zero_point, const int32_t *sums, const float *weight_scale, int64_t count, float *y) {
    int32_t highs[16], lows[16];
    narrow_sums(high, weights, groups, highs);
    narrow_sums(low, weights, groups, lows);
    for (int64_t i = 0; i < count; i++)
        y[i] += weight_scale[i] * float((highs[i] << half) + lows[i] - sums[i] * zero_point);
}

#endif

}  // namespace

// x: codes (rows, inputs). Out: (rows, outputs).
extern "C" void integer_product(const uint8_t *x, int64_t rows, Weight w, int32_t kind, void *out, Grid grid) {
    multiply<1>(x, rows, w, kind, out, grid, [&](const int32_t *total, int64_t n, int64_t) {
        return w.scale[n] * float(*total - w.correction[n]) + w.bias[n];
    });
}

// The same of float32 x (rows, inputs), whose codes of two halves, 2 * half bits, meet the weight together: correction
// is the sum of an output's codes, and totals are exact in 64 bits.
extern "C" void wide_product(const float *x, int64_t rows, float scale, int32_t zero_point, float quant_max,
                             int32_t half, Weight w, int32_t kind, void *out, Grid grid) {
    std::vector<uint8_t> codes(2 * rows * w.inputs);  // of each row the high halves, then the low ones
    const int32_t mask = (1 << half) - 1;
    const Grid on = {scale, float(zero_point), quant_max};
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *high = codes.data() + 2 * r * w.inputs, *low = high + w.inputs;
        for (int64_t i = 0; i < w.inputs; i++) {
            const int32_t code = code_of(x[r * w.inputs + i], on);
            high[i] = uint8_t(code >> half);
            low[i] = uint8_t(code & mask);
        }
    }
    multiply<2>(codes.data(), rows, w, kind, out, grid, [&](const int32_t *totals, int64_t n, int64_t) {
        const int64_t sums = (int64_t(totals[0]) << half) + totals[1];
        return w.scale[n] * float(sums - int64_t(zero_point) * w.correction[n]) + w.bias[n];
    });
}

// Adds the products of a few rows and at most 64 channels of 16 bits: x float32 (rows, channels); packed: codes of 16
// outputs side by side for every 4 channels, (blocks, groups, 16, 4); sums, scale: (16 * blocks); out (rows, outputs).
// So few channels leave no sum to be added across a register, and totals that fit in 32 bits.
extern "C" void add_narrow_product(const float *x, int64_t rows, int64_t channels, float scale, int32_t zero_point,
                                   float quant_max, int32_t half, const int8_t *packed, const int32_t *sums,
                                   const float *weight_scale, int64_t outputs, float *out) {
    const int64_t groups = (channels + 3) / 4;
    std::vector<uint8_t> codes(8 * rows * groups);  // of each row the high halves, then the low ones
    const Grid on = {scale, float(zero_point), quant_max};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < channels; i++) {
            const int32_t code = code_of(x[r * channels + i], on);
            codes[8 * r * groups + i] = uint8_t(code >> half);
            codes[(8 * r + 4) * groups + i] = uint8_t(code & ((1 << half) - 1));
        }
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < (outputs + 15) / 16; block++) {
        const int8_t *weights = packed + block * groups * 64;
        const int64_t count = std::min<int64_t>(16, outputs - 16 * block);
        for (int64_t r = 0; r < rows; r++) {
            const uint8_t *high = codes.data() + 8 * r * groups;
            narrow_add(high, high + 4 * groups, weights, groups, half, zero_point, sums + 16 * block,
                       weight_scale + 16 * block, count, out + r * outputs + 16 * block);
        }
    }
}

#endif

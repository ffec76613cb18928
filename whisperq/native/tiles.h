// Products in bf16 of 32 by 32: on AMX tiles where the compiler was told of them, else on AVX512-BF16, which take the
// same packed operands and sum in float32.
#pragma once

#include <cstdlib>
#include <new>

#include "common.h"

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)

#include <immintrin.h>

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t TILE = 32;

int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// C (32, 32), rows `ldc` apart, = or += A (32, depth), rows `lda` apart, times 32 columns packed as two times
// (depth / 2, 16 columns, 2), `ldb` apart. depth is a multiple of 32.
#if defined(__AMX_BF16__)

struct alignas(64) TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

// Eight tiles of 16 rows of 64 bytes. In constant memory: GCC's intrinsic tells the optimiser of the first bytes
// alone, so that it may leave out the rest of a local one.
const TileConfig OURS = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// The CPU's matrix tiles are also oneDNN's: what it had configured is put back.
struct Tiles {
    TileConfig before;
    Tiles() {
        static const long granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
        (void)granted;
        _tile_storeconfig(&before);
        asm volatile("" ::: "memory");
        _tile_loadconfig(&OURS);
    }
    ~Tiles() {
        asm volatile("" ::: "memory");
        if (before.palette)
            _tile_loadconfig(&before);
        else
            _tile_release();
    }
};

void product(const bf16 *a, int64_t lda, const bf16 *b, int64_t ldb, int64_t depth, float *c, int64_t ldc, bool add) {
    const bf16 *right = b + ldb;
    if (add) {
        _tile_loadd(0, c, ldc * 4);
        _tile_loadd(1, c + 16, ldc * 4);
        _tile_loadd(2, c + 16 * ldc, ldc * 4);
        _tile_loadd(3, c + 16 * ldc + 16, ldc * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < depth; k += 32) {
        _tile_loadd(4, a + k, lda * 2);
        _tile_loadd(6, b + k * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + k * 16, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * lda + k, lda * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
    _tile_stored(2, c + 16 * ldc, ldc * 4);
    _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
}

#else

struct Tiles {};

void product(const bf16 *a, int64_t lda, const bf16 *b, int64_t ldb, int64_t depth, float *c, int64_t ldc, bool add) {
    const bf16 *right = b + ldb;
    for (int64_t row = 0; row < TILE; row += 8) {
        __m512 sums[8][2];
        for (int64_t r = 0; r < 8; r++) {
            sums[r][0] = add ? _mm512_loadu_ps(c + (row + r) * ldc) : _mm512_setzero_ps();
            sums[r][1] = add ? _mm512_loadu_ps(c + (row + r) * ldc + 16) : _mm512_setzero_ps();
        }
        for (int64_t k = 0; k < depth; k += 2) {
            const __m512bh left_columns = (__m512bh)_mm512_loadu_si512(b + k * 16);
            const __m512bh right_columns = (__m512bh)_mm512_loadu_si512(right + k * 16);
            for (int64_t r = 0; r < 8; r++) {
                int32_t two;
                std::memcpy(&two, a + (row + r) * lda + k, 4);
                const __m512bh pair = (__m512bh)_mm512_set1_epi32(two);
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], pair, left_columns);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], pair, right_columns);
            }
        }
        for (int64_t r = 0; r < 8; r++) {
            _mm512_storeu_ps(c + (row + r) * ldc, sums[r][0]);
            _mm512_storeu_ps(c + (row + r) * ldc + 16, sums[r][1]);
        }
    }
}

#endif

// Zeros on cache lines of their own: a tile whose rows straddle two lines loads three times as slowly.
template <typename T>
struct Buffer {
    T *data;
    explicit Buffer(int64_t count) : data(static_cast<T *>(std::aligned_alloc(64, padded(count * sizeof(T), 64)))) {
        if (!data) throw std::bad_alloc();
        std::memset(data, 0, count * sizeof(T));
    }
    Buffer(const Buffer &) = delete;
    ~Buffer() { std::free(data); }
    T &operator[](int64_t i) { return data[i]; }
    const T &operator[](int64_t i) const { return data[i]; }
};

}  // namespace

#endif

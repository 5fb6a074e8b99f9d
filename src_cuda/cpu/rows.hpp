// Row primitives: loops over the neurons of one time step, all in L1.
//
// Cost per padded row of n entries: a few loads, one store and the arithmetic per vector; the event
// extraction reads 64 mask bytes at a time and does work only for the entries that are set.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "../common/portable.hpp"
#include "arguments.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// 64 bytes of lanes whatever the instruction set, so that a reduction has the same order everywhere.
template <class Real>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float type __attribute__((vector_size(64), aligned(4), may_alias));
    static constexpr int count = 16;
};
template <>
struct Lanes<double> {
    typedef double type __attribute__((vector_size(64), aligned(8), may_alias));
    static constexpr int count = 8;
};

template <class Real>
SB_INLINE void fill_row(Real* SB_RESTRICT row, int64_t n, Real value) {
    for (int64_t j = 0; j < n; ++j) row[j] = value;
}

// Copies width entries into a padded row; the tail becomes zero.
template <class Real>
SB_INLINE void load_row(Real* SB_RESTRICT row, const Real* SB_RESTRICT source, int64_t width, int64_t padded) {
    __builtin_memcpy(row, source, size_t(width) * sizeof(Real));
    for (int64_t j = width; j < padded; ++j) row[j] = Real(0);
}

template <class Real>
SB_INLINE void store_row(Real* SB_RESTRICT target, const Real* SB_RESTRICT row, int64_t width) {
    __builtin_memcpy(target, row, size_t(width) * sizeof(Real));
}

template <class Real>
SB_INLINE void add_row(Real* SB_RESTRICT sum, const Real* SB_RESTRICT row, int64_t n) {
    for (int64_t j = 0; j < n; ++j) sum[j] += row[j];
}

template <class Real>
SB_INLINE void add_scaled_row(Real* SB_RESTRICT sum, const Real* SB_RESTRICT row, Real scale, int64_t n) {
    for (int64_t j = 0; j < n; ++j) sum[j] += scale * row[j];
}

// I = W x + b of one row of events. Four rows of W^T per pass: one load and store of the sum for four adds.
template <class Real>
SB_INLINE void gather_current(Real* SB_RESTRICT sum, const LayerView<Real>& layer, int64_t row) {
    const int64_t n = layer.padded;
    const int32_t* idx = layer.input.idx;
    const Real* val = layer.input.val;
    const int64_t end = layer.input.ptr[row + 1];
    int64_t e = layer.input.ptr[row];
    fill_row(sum, n, Real(0));
    const auto weight = [&](int64_t event) { return layer.weight_t + int64_t(idx[event]) * n; };
    if (val) {
        for (; e < end; ++e) add_scaled_row(sum, weight(e), val[e], n);
    } else {
        for (; e + 4 <= end; e += 4) {
            const Real* SB_RESTRICT a = weight(e);
            const Real* SB_RESTRICT b = weight(e + 1);
            const Real* SB_RESTRICT c = weight(e + 2);
            const Real* SB_RESTRICT d = weight(e + 3);
            for (int64_t j = 0; j < n; ++j) sum[j] = (((sum[j] + a[j]) + b[j]) + c[j]) + d[j];
        }
        for (; e < end; ++e) add_row(sum, weight(e), n);
    }
    if (layer.bias) add_row(sum, layer.bias, n);
}

// Bit k of the result: whether mask[k] != 0, for 64 bytes.
SB_INLINE uint64_t nonzero_bits(const uint8_t* mask) {
#if defined(__AVX512BW__)
    const __m512i bytes = _mm512_loadu_si512(mask);
    return _mm512_test_epi8_mask(bytes, bytes);
#elif defined(__AVX2__)
    const __m256i zero = _mm256_setzero_si256();
    const __m256i low = _mm256_loadu_si256((const __m256i*)mask);
    const __m256i high = _mm256_loadu_si256((const __m256i*)(mask + 32));
    const uint32_t a = ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, zero));
    const uint32_t b = ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, zero));
    return (uint64_t(b) << 32) | a;
#elif defined(__SSE2__)
    uint64_t bits = 0;
    for (int part = 0; part < 4; ++part) {
        const __m128i bytes = _mm_loadu_si128((const __m128i*)(mask + 16 * part));
        const int zeros = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
        bits |= uint64_t(uint16_t(~zeros)) << (16 * part);
    }
    return bits;
#else
    uint64_t bits = 0;
    for (int k = 0; k < 64; ++k) bits |= uint64_t(mask[k] != 0) << k;
    return bits;
#endif
}

// Appends the set positions of a byte mask (padded to 64 bytes, tail clear) in ascending order.
SB_INLINE int64_t extract(const uint8_t* mask, int64_t n, int32_t* out) {
    int64_t count = 0;
    for (int64_t base = 0; base < n; base += 64) {
        uint64_t bits = nonzero_bits(mask + base);
        while (bits) {
            out[count++] = int32_t(base + __builtin_ctzll(bits));
            bits &= bits - 1;
        }
    }
    return count;
}

// Dot product of two padded rows in a fixed order of summation.
template <class Real>
SB_INLINE Real dot(const Real* a, const Real* b, int64_t n) {
    typedef typename Lanes<Real>::type Vector;
    constexpr int lanes = Lanes<Real>::count;
    Vector even = {}, odd = {};
    int64_t j = 0;
    for (; j + 2 * lanes <= n; j += 2 * lanes) {
        even += *(const Vector*)(a + j) * *(const Vector*)(b + j);
        odd += *(const Vector*)(a + j + lanes) * *(const Vector*)(b + j + lanes);
    }
    if (j < n) even += *(const Vector*)(a + j) * *(const Vector*)(b + j);
    even += odd;
    Real total[lanes];
    __builtin_memcpy(total, &even, sizeof(total));
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int k = 0; k < half; ++k) total[k] += total[k + half];
    return total[0];
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

// Comparisons of rows as bits, and the positions of set bits as indices.
//
// Cost: one compare per vector, and about ten instructions per word of which at most four bits are set. Words with more
// cost, with AVX-512, a branch-free compress per 16 entries; elsewhere one step per set bit. Compilers do not find
// these forms from a loop.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../common/portable.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Bit k: a[k] > b[k], for 16 entries.
SB_INLINE uint32_t greater16(const float* a, const float* b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_loadu_ps(b), _CMP_GT_OQ);
#elif defined(__AVX__)
    const __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), _CMP_GT_OQ);
    const __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(a + 8), _mm256_loadu_ps(b + 8), _CMP_GT_OQ);
    return uint32_t(_mm256_movemask_ps(low)) | uint32_t(_mm256_movemask_ps(high)) << 8;
#elif defined(__SSE2__)
    uint32_t bits = 0;
    for (int k = 0; k < 16; k += 4)
        bits |= uint32_t(_mm_movemask_ps(_mm_cmpgt_ps(_mm_loadu_ps(a + k), _mm_loadu_ps(b + k)))) << k;
    return bits;
#else
    uint32_t bits = 0;
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] > b[k]) << k;
    return bits;
#endif
}

SB_INLINE uint32_t greater16(const double* a, const double* b) {
    uint32_t bits = 0;
#if defined(__AVX512F__)
    for (int k = 0; k < 16; k += 8)
        bits |= uint32_t(_mm512_cmp_pd_mask(_mm512_loadu_pd(a + k), _mm512_loadu_pd(b + k), _CMP_GT_OQ)) << k;
#elif defined(__AVX__)
    for (int k = 0; k < 16; k += 4) {
        const __m256d above = _mm256_cmp_pd(_mm256_loadu_pd(a + k), _mm256_loadu_pd(b + k), _CMP_GT_OQ);
        bits |= uint32_t(_mm256_movemask_pd(above)) << k;
    }
#elif defined(__SSE2__)
    for (int k = 0; k < 16; k += 2)
        bits |= uint32_t(_mm_movemask_pd(_mm_cmpgt_pd(_mm_loadu_pd(a + k), _mm_loadu_pd(b + k)))) << k;
#else
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] > b[k]) << k;
#endif
    return bits;
}

// Bit k: |a[k] - b[k]| < limit, for 16 entries.
SB_INLINE uint32_t near16(const float* a, const float* b, float limit) {
#if defined(__AVX512F__)
    const __m512 distance = _mm512_abs_ps(_mm512_sub_ps(_mm512_loadu_ps(a), _mm512_loadu_ps(b)));
    return _mm512_cmp_ps_mask(distance, _mm512_set1_ps(limit), _CMP_LT_OQ);
#else
    float distance[16], limits[16];
    for (int k = 0; k < 16; ++k) distance[k] = __builtin_fabsf(a[k] - b[k]);
    for (int k = 0; k < 16; ++k) limits[k] = limit;
    return greater16(limits, distance);
#endif
}

SB_INLINE uint32_t near16(const double* a, const double* b, double limit) {
#if defined(__AVX512F__)
    uint32_t bits = 0;
    for (int k = 0; k < 16; k += 8) {
        const __m512d distance = _mm512_abs_pd(_mm512_sub_pd(_mm512_loadu_pd(a + k), _mm512_loadu_pd(b + k)));
        bits |= uint32_t(_mm512_cmp_pd_mask(distance, _mm512_set1_pd(limit), _CMP_LT_OQ)) << k;
    }
    return bits;
#else
    double distance[16], limits[16];
    for (int k = 0; k < 16; ++k) distance[k] = __builtin_fabs(a[k] - b[k]);
    for (int k = 0; k < 16; ++k) limits[k] = limit;
    return greater16(limits, distance);
#endif
}

// Bit k: a[k] != value, for 16 entries; true for NaN.
SB_INLINE uint32_t differs16(const float* a, float value) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_set1_ps(value), _CMP_NEQ_UQ);
#elif defined(__AVX__)
    const __m256 same = _mm256_set1_ps(value);
    const __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(a), same, _CMP_NEQ_UQ);
    const __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(a + 8), same, _CMP_NEQ_UQ);
    return uint32_t(_mm256_movemask_ps(low)) | uint32_t(_mm256_movemask_ps(high)) << 8;
#elif defined(__SSE2__)
    uint32_t bits = 0;
    for (int k = 0; k < 16; k += 4)
        bits |= uint32_t(_mm_movemask_ps(_mm_cmpneq_ps(_mm_loadu_ps(a + k), _mm_set1_ps(value)))) << k;
    return bits;
#else
    uint32_t bits = 0;
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] != value) << k;
    return bits;
#endif
}

SB_INLINE uint32_t differs16(const double* a, double value) {
    uint32_t bits = 0;
#if defined(__AVX512F__)
    for (int k = 0; k < 16; k += 8)
        bits |= uint32_t(_mm512_cmp_pd_mask(_mm512_loadu_pd(a + k), _mm512_set1_pd(value), _CMP_NEQ_UQ)) << k;
#elif defined(__SSE2__)
    for (int k = 0; k < 16; k += 2)
        bits |= uint32_t(_mm_movemask_pd(_mm_cmpneq_pd(_mm_loadu_pd(a + k), _mm_set1_pd(value)))) << k;
#else
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] != value) << k;
#endif
    return bits;
}

SB_INLINE uint32_t differs16(const uint8_t* a, uint8_t value) {
#if defined(__SSE2__)
    const __m128i bytes = _mm_loadu_si128((const __m128i*)a);
    return uint16_t(~_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(char(value)))));
#else
    uint32_t bits = 0;
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] != value) << k;
    return bits;
#endif
}

template <class Real>
SB_INLINE uint32_t nonzero16(const Real* a) {
    return differs16(a, Real(0));
}

// Bit k: a[k] != value, for 64 entries.
template <class Real>
SB_INLINE uint64_t differs64(const Real* a, Real value) {
    uint64_t bits = 0;
#pragma GCC unroll 4
    for (int k = 0; k < 64; k += 16) bits |= uint64_t(differs16(a + k, value)) << k;
    return bits;
}

#if defined(__AVX512BW__)
SB_INLINE uint64_t differs64(const uint8_t* a, uint8_t value) {
    return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a), _mm512_set1_epi8(char(value)));
}
#endif

// The entries that append_bits and append_entries write whether or not as many bits are set: mostly few are, and a loop
// that ends after one or two iterations is mispredicted at every other word.
constexpr int always_appended = 4;

// Calls entry(e, k) for the e-th set bit k, at least always_appended times; past the last bit, k is 63.
template <class Entry>
SB_INLINE void for_set_bits(uint64_t bits, int64_t count, const Entry& entry) {
    constexpr uint64_t last = uint64_t(1) << 63;
#pragma GCC unroll 4
    for (int e = 0; e < always_appended; ++e, bits &= bits - 1) entry(e, __builtin_ctzll(bits | last));
    for (int64_t e = always_appended; e < count; ++e, bits &= bits - 1) entry(e, __builtin_ctzll(bits | last));
}

#if defined(__AVX512F__)
SB_INLINE void store_compressed(__mmask16 lanes, const float* row, float* out) {
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(lanes, _mm512_loadu_ps(row)));
}

SB_INLINE void store_compressed(__mmask16 lanes, const double* row, double* out) {
    _mm512_storeu_pd(out, _mm512_maskz_compress_pd(__mmask8(lanes), _mm512_loadu_pd(row)));
    out += __builtin_popcount(__mmask8(lanes));
    _mm512_storeu_pd(out, _mm512_maskz_compress_pd(__mmask8(lanes >> 8), _mm512_loadu_pd(row + 8)));
}

// base + k for every set bit k of 16.
SB_INLINE void store_positions(__mmask16 lanes, int32_t base, int32_t* out) {
    const __m512i first = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(lanes, _mm512_add_epi32(first, _mm512_set1_epi32(base))));
}
#endif

// Appends base + k for every set bit k, ascending, and returns their number. May write up to 16 entries past the end.
SB_INLINE int64_t append_bits(uint64_t bits, int32_t base, int32_t* out) {
    const int64_t count = __builtin_popcountll(bits);
#if defined(__AVX512F__)
    if (__builtin_expect(count > always_appended, 0)) {
        for (int k = 0; k < 64; k += 16) {
            store_positions(__mmask16(bits >> k), base + k, out);
            out += __builtin_popcount(__mmask16(bits >> k));
        }
        return count;
    }
#endif
    for_set_bits(bits, count, [&](int64_t e, int k) { out[e] = base + k; });
    return count;
}

// As append_bits, with row[k] to values. Reads no further than row[63].
template <class Real>
SB_INLINE int64_t append_entries(uint64_t bits, int32_t base, const Real* row, int32_t* out, Real* values) {
    const int64_t count = __builtin_popcountll(bits);
#if defined(__AVX512F__)
    if (__builtin_expect(count > always_appended, 0)) {
        for (int k = 0; k < 64; k += 16) {
            const __mmask16 lanes = __mmask16(bits >> k);
            store_positions(lanes, base + k, out);
            store_compressed(lanes, row + k, values);
            out += __builtin_popcount(lanes);
            values += __builtin_popcount(lanes);
        }
        return count;
    }
#endif
    for_set_bits(bits, count, [&](int64_t e, int k) {
        out[e] = base + k;
        values[e] = row[k];
    });
    return count;
}

// Words of 64 bits for a row of n entries, n a multiple of 16.
SB_INLINE int64_t words_of(int64_t n) { return (n + 63) / 64; }

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

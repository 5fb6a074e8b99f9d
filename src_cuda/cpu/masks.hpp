// Comparisons of rows as bits, and the positions of set bits as indices.
//
// Cost: one compare per vector and, with AVX-512, a branch-free compress per 16 entries; elsewhere one step per set
// bit. Compilers do not find either form from a loop.
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

// Bit k: a[k] != 0, for 16 entries; true for NaN.
SB_INLINE uint32_t nonzero16(const float* a) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_setzero_ps(), _CMP_NEQ_UQ);
#elif defined(__AVX__)
    const __m256 zero = _mm256_setzero_ps();
    const __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(a), zero, _CMP_NEQ_UQ);
    const __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(a + 8), zero, _CMP_NEQ_UQ);
    return uint32_t(_mm256_movemask_ps(low)) | uint32_t(_mm256_movemask_ps(high)) << 8;
#elif defined(__SSE2__)
    uint32_t bits = 0;
    for (int k = 0; k < 16; k += 4)
        bits |= uint32_t(_mm_movemask_ps(_mm_cmpneq_ps(_mm_loadu_ps(a + k), _mm_setzero_ps()))) << k;
    return bits;
#else
    uint32_t bits = 0;
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] != 0) << k;
    return bits;
#endif
}

SB_INLINE uint32_t nonzero16(const double* a) {
    uint32_t bits = 0;
#if defined(__AVX512F__)
    for (int k = 0; k < 16; k += 8)
        bits |= uint32_t(_mm512_cmp_pd_mask(_mm512_loadu_pd(a + k), _mm512_setzero_pd(), _CMP_NEQ_UQ)) << k;
#elif defined(__SSE2__)
    for (int k = 0; k < 16; k += 2)
        bits |= uint32_t(_mm_movemask_pd(_mm_cmpneq_pd(_mm_loadu_pd(a + k), _mm_setzero_pd()))) << k;
#else
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] != 0) << k;
#endif
    return bits;
}

SB_INLINE uint32_t nonzero16(const uint8_t* a) {
#if defined(__SSE2__)
    const __m128i bytes = _mm_loadu_si128((const __m128i*)a);
    return uint16_t(~_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128())));
#else
    uint32_t bits = 0;
    for (int k = 0; k < 16; ++k) bits |= uint32_t(a[k] != 0) << k;
    return bits;
#endif
}

// Appends base + k for every set bit k, ascending, and returns their number. May write up to 16 entries past the end.
SB_INLINE int64_t append_bits(uint64_t bits, int32_t base, int32_t* out) {
#if defined(__AVX512F__)
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    int64_t count = 0;
    for (int k = 0; k < 64; k += 16) {
        const __mmask16 part = __mmask16(bits >> k);
        const __m512i positions = _mm512_add_epi32(lanes, _mm512_set1_epi32(base + k));
        _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(part, positions));
        count += __builtin_popcount(part);
    }
    return count;
#else
    int64_t count = 0;
    while (bits) {
        out[count++] = base + __builtin_ctzll(bits);
        bits &= bits - 1;
    }
    return count;
#endif
}

// Entries past the end that append_bits may touch.
constexpr int64_t append_slack = 16;

// Words of 64 bits for a row of n entries, n a multiple of 16.
SB_INLINE int64_t words_of(int64_t n) { return (n + 63) / 64; }

template <class Mask16>
SB_INLINE void fill_words(uint64_t* words, int64_t n, const Mask16& mask16) {
    for (int64_t base = 0; base < n; base += 64) {
        uint64_t bits = 0;
        for (int64_t k = 0; k < 64 && base + k < n; k += 16) bits |= uint64_t(mask16(base + k)) << k;
        words[base / 64] = bits;
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

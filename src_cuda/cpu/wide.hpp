// As many neurons as a vector holds, as one value: the step that is written for a number works for these as well.
//
// Cost: one instruction per operation. Left to the compiler, the same loop is vectorised in one place and not in the
// next, depending on what is inlined where.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "packs.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Real>
struct Wide {
    typedef typename Pack<Real>::type Vector;
    static constexpr int count = Pack<Real>::lanes;

    Vector v;

    Wide() = default;
    SB_INLINE explicit Wide(Vector value) : v(value) {}
    SB_INLINE explicit Wide(Real value) : v(value - Vector{}) {}
    SB_INLINE static Wide load(const Real* from) { return Wide(*(const Vector*)from); }
    // By value: called on a member of a struct, gcc keeps the struct in memory.
    SB_INLINE friend void store(Wide value, Real* to) { *(Vector*)to = value.v; }
    SB_INLINE void store_past_cache(Real* to) const;  // to is aligned to vectors

    SB_INLINE friend Wide operator+(Wide a, Wide b) { return Wide(a.v + b.v); }
    SB_INLINE friend Wide operator-(Wide a, Wide b) { return Wide(a.v - b.v); }
    SB_INLINE friend Wide operator*(Wide a, Wide b) { return Wide(a.v * b.v); }
    SB_INLINE friend Wide operator-(Wide a) { return Wide(-a.v); }

    struct Greater {
        Vector a, b;
    };
    SB_INLINE friend Greater operator>(Wide a, Wide b) { return {a.v, b.v}; }
    SB_INLINE friend Wide choose(Greater when, Wide yes, Wide no) { return Wide(when.a > when.b ? yes.v : no.v); }
};

// Bit k: a > b in lane k.
SB_INLINE uint32_t greater_bits(Wide<float> a, Wide<float> b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_GT_OQ);
#elif defined(__AVX__)
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a.v, (__m256)b.v, _CMP_GT_OQ)));
#elif defined(__SSE2__)
    return uint32_t(_mm_movemask_ps(_mm_cmpgt_ps((__m128)a.v, (__m128)b.v)));
#else
    uint32_t bits = 0;
    for (int k = 0; k < Wide<float>::count; ++k) bits |= uint32_t(a.v[k] > b.v[k]) << k;
    return bits;
#endif
}

SB_INLINE uint32_t greater_bits(Wide<double> a, Wide<double> b) {
#if defined(__AVX512F__)
    return _mm512_cmp_pd_mask((__m512d)a.v, (__m512d)b.v, _CMP_GT_OQ);
#elif defined(__AVX__)
    return uint32_t(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)a.v, (__m256d)b.v, _CMP_GT_OQ)));
#elif defined(__SSE2__)
    return uint32_t(_mm_movemask_pd(_mm_cmpgt_pd((__m128d)a.v, (__m128d)b.v)));
#else
    uint32_t bits = 0;
    for (int k = 0; k < Wide<double>::count; ++k) bits |= uint32_t(a.v[k] > b.v[k]) << k;
    return bits;
#endif
}

// a b + c, rounded once where the machine can.
template <class Real>
SB_INLINE Wide<Real> multiply_add(Wide<Real> a, Wide<Real> b, Wide<Real> c) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4)
        return Wide<Real>((typename Wide<Real>::Vector)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v));
    else
        return Wide<Real>((typename Wide<Real>::Vector)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v));
#elif defined(__FMA__)
    if constexpr (sizeof(Real) == 4)
        return Wide<Real>((typename Wide<Real>::Vector)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v));
    else
        return Wide<Real>((typename Wide<Real>::Vector)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v));
#else
    return a * b + c;
#endif
}

template <class Real>
SB_INLINE void Wide<Real>::store_past_cache(Real* to) const {
#if defined(__AVX512F__)
    _mm512_stream_ps((float*)to, (__m512)v);
#elif defined(__AVX__)
    _mm256_stream_ps((float*)to, (__m256)v);
#elif defined(__SSE2__)
    _mm_stream_ps((float*)to, (__m128)v);
#else
    store(*this, to);
#endif
}

// Before other threads read what was stored past the cache.
SB_INLINE void finish_stores() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

SB_INLINE Wide<float> magnitude(Wide<float> a) {
    typedef int32_t Bits __attribute__((vector_size(vector_bytes)));
    return Wide<float>((Wide<float>::Vector)((Bits)a.v & 0x7FFFFFFF));
}
SB_INLINE Wide<double> magnitude(Wide<double> a) {
    typedef int64_t Bits __attribute__((vector_size(vector_bytes)));
    return Wide<double>((Wide<double>::Vector)((Bits)a.v & 0x7FFFFFFFFFFFFFFF));
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

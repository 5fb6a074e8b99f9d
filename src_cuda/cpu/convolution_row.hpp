// Convolution of one (b, t) row of events, max pooling, and their reverse.
//
// Cost per event: taps x channels / lanes adds, each with two loads and one store; the plane (positions x channels) and
// one input channel's kernel (taps x channels) lie in L1 or L2. Pooling and the change of layout read the plane once.
// Reverse: the same per event for dW, and one dot product of taps x channels per entry whose gradient is wanted.
// The order of summation is that of the events, whatever the instruction set.
#pragma once

#include "convolution_view.hpp"
#include "dots.hpp"
#include "rows.hpp"
#include "transpose.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Splits event indices into channel and position. Neighbouring events mostly share a channel.
struct Plane {
    int64_t size, channel = 0, first = 0;

    SB_INLINE int64_t position(int64_t index) {
        if (index < first || index >= first + size) {
            channel = index / size;
            first = channel * size;
        }
        return index - first;
    }
};

// Calls body(taps begin, taps end, kernel of the event's channel, event) for every event of a row.
template <class Real, class Body>
SB_INLINE void for_events(const ConvolutionView<Real>& c, const int64_t* ptr, const int32_t* idx, int64_t row,
                          const Body& body) {
    Plane plane = {c.in_positions};
    for (int64_t e = ptr[row]; e < ptr[row + 1]; ++e) {
        const int64_t position = plane.position(idx[e]);
        body(c.tap + c.tap_begin[position], c.tap + c.tap_begin[position + 1], plane.channel * c.taps * c.padded, e);
    }
}

// to += value * from. All loads before the stores, so that the compiler need not fear an overlap.
template <bool valued, int vectors, class Real>
SB_INLINE void add_vectors(Real* SB_RESTRICT to, const Real* SB_RESTRICT from, Real value) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
    Vector sum[vectors];
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) {
        sum[k] = *(const Vector*)(from + k * lanes);
        if constexpr (valued) sum[k] *= value;
    }
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) sum[k] += *(const Vector*)(to + k * lanes);
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) *(Vector*)(to + k * lanes) = sum[k];
}

// plane += value * kernel, or kernel += value * plane, over the taps of every event of a row.
template <bool valued, bool to_kernel, int vectors, class Real>
SB_INLINE void add_taps(const ConvolutionView<Real>& c, int64_t row, Real* kernels, Real* plane) {
    for_events(c, c.in_ptr, c.in_idx, row, [&](const Tap* tap, const Tap* end, int64_t channel, int64_t e) {
        const Real value = valued ? c.in_val[e] : Real(1);
        Real* const kernel = kernels + channel;
        for (; tap < end; ++tap) {
            if constexpr (to_kernel)
                add_vectors<valued, vectors>(kernel + tap->kernel, plane + tap->to, value);
            else
                add_vectors<valued, vectors>(plane + tap->to, kernel + tap->kernel, value);
        }
    });
}

template <bool to_kernel, class Real>
void multiply_events(const ConvolutionView<Real>& c, int64_t row, Real* kernels, Real* plane) {
    for_tiles<Real>(c.padded, [&](int64_t column, auto tile) {
        constexpr int vectors = decltype(tile)::count;
        if (c.in_val)
            add_taps<true, to_kernel, vectors>(c, row, kernels + column, plane + column);
        else
            add_taps<false, to_kernel, vectors>(c, row, kernels + column, plane + column);
    });
}

// Vectors of the integers that comparisons of Real give, and the same number of bytes.
template <class Real>
struct Masks;
template <>
struct Masks<float> {
    typedef int32_t entry;
    typedef entry type __attribute__((vector_size(vector_bytes)));
};
template <>
struct Masks<double> {
    typedef int64_t entry;
    typedef entry type __attribute__((vector_size(vector_bytes)));
};
template <class Real>
struct Bytes {
    typedef uint8_t type __attribute__((vector_size(Pack<Real>::lanes)));
};

// The largest member of each window, the first of equals, and which one it was. NaN wins, as in torch.
template <class Real>
SB_INLINE void pool_plane(const ConvolutionView<Real>& c, const Real* plane, Real* pooled, uint8_t* winner) {
    typedef typename Pack<Real>::type Vector;
    typedef typename Masks<Real>::type Mask;
    constexpr int lanes = Pack<Real>::lanes;
    for (int64_t p = 0; p < c.pooled; ++p, pooled += c.padded, winner += c.padded) {
        const int32_t* member = c.members + p * c.window;
        for (int64_t j = 0; j < c.padded; j += lanes) {
            Vector best = *(const Vector*)(plane + member[0] + j);
            Mask which = {};
            for (int64_t w = 1; w < c.window; ++w) {
                const Vector other = *(const Vector*)(plane + member[w] + j);
                const Mask better = (other > best) | (other != other);
                best = better ? other : best;
                which = better ? Mask{} + typename Masks<Real>::entry(w) : which;
            }
            *(Vector*)(pooled + j) = best;
            const auto bytes = __builtin_convertvector(which, typename Bytes<Real>::type);
            __builtin_memcpy(winner + j, &bytes, sizeof(bytes));
        }
    }
}

// The gradient of each window goes to its winner.
template <class Real>
SB_INLINE void unpool_plane(const ConvolutionView<Real>& c, const Real* pooled, const uint8_t* winner, Real* plane) {
    typedef typename Pack<Real>::type Vector;
    typedef typename Masks<Real>::type Mask;
    constexpr int lanes = Pack<Real>::lanes;
    fill_row(plane, c.positions * c.padded, Real(0));
    for (int64_t p = 0; p < c.pooled; ++p, pooled += c.padded, winner += c.padded) {
        const int32_t* member = c.members + p * c.window;
        for (int64_t j = 0; j < c.padded; j += lanes) {
            const Vector g = *(const Vector*)(pooled + j);
            typename Bytes<Real>::type bytes;
            __builtin_memcpy(&bytes, winner + j, sizeof(bytes));
            const Mask which = __builtin_convertvector(bytes, Mask);
            for (int64_t w = 0; w < c.window; ++w)
                *(Vector*)(plane + member[w] + j) += which == Mask{} + typename Masks<Real>::entry(w) ? g : Vector{};
        }
    }
}

template <class Real>
SB_INLINE void fill_plane(const ConvolutionView<Real>& c, Real* plane) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
    for (int64_t j = 0; j < c.padded; j += lanes) {
        const Vector bias = *(const Vector*)(c.bias + j);
        for (int64_t p = 0; p < c.positions; ++p) *(Vector*)(plane + p * c.padded + j) = bias;
    }
}

// winner: [pooled, padded] of this row, absent without pooling.
template <class Real>
void convolve_row(const ConvolutionView<Real>& c, int64_t row, const ConvolutionScratch<Real>& scratch, Real* out,
                  uint8_t* winner) {
    Real* plane = scratch.plane;
    fill_plane(c, plane);
    multiply_events<false>(c, row, const_cast<Real*>(c.weight_t), plane);
    if (c.pooled) pool_plane(c, plane, scratch.pooled, winner);
    transpose(c.pooled ? scratch.pooled : plane, c.padded, c.outputs, c.channels, out, c.outputs, c.outputs);
}

// dL/d plane from dL/d out [channels, outputs]; adds to the bias.
template <class Real>
void expand_row(const ConvolutionView<Real>& c, const Real* g, const uint8_t* winner,
                const ConvolutionScratch<Real>& scratch, Real* plane, Real* bias) {
    const int64_t n = c.padded, outputs = c.outputs;
    Real* at_output = c.pooled ? scratch.pooled : plane;
    transpose(g, outputs, c.channels, outputs, at_output, n, n);
    if (bias)
        for (int64_t p = 0; p < outputs; ++p) add_row(bias, at_output + p * n, n);
    if (c.pooled) unpool_plane(c, at_output, winner, plane);
}

// sum += kernel * at, over 64 bytes.
template <class Real>
SB_INLINE void multiply_lanes(Lanes<Real>& sum, const Real* kernel, const Real* at) {
    typedef typename Pack<Real>::type Vector;
    constexpr int lanes = Pack<Real>::lanes;
#pragma GCC unroll 4
    for (int p = 0; p < Lanes<Real>::parts; ++p)
        sum.part[p] += *(const Vector*)(kernel + p * lanes) * *(const Vector*)(at + p * lanes);
}

// dL/dx of one input entry: its taps' kernel rows times the plane. Two sums, so that additions need not wait.
template <class Real>
SB_INLINE Real dot_taps(const Tap* tap, const Tap* end, const Real* kernels, const Real* plane, int64_t n) {
    constexpr int group = Lanes<Real>::count;
    Lanes<Real> even = {}, odd = {};
    for (; tap < end; ++tap) {
        const Real *kernel = kernels + tap->kernel, *at = plane + tap->to;
        int64_t j = 0;
        for (; j + 2 * group <= n; j += 2 * group) {
            multiply_lanes(even, kernel + j, at + j);
            multiply_lanes(odd, kernel + j + group, at + j + group);
        }
        if (j < n) multiply_lanes(even, kernel + j, at + j);
    }
#pragma GCC unroll 4
    for (int p = 0; p < Lanes<Real>::parts; ++p) even.part[p] += odd.part[p];
    Quad<Real> quad;
    fold(even, quad);
    return (quad[0] + quad[2]) + (quad[1] + quad[3]);
}

template <class Real>
void reverse_row(const ConvolutionView<Real>& c, int64_t row, const Real* plane, const ConvolutionSums<Real>& sums,
                 const ConvolutionLow<Real>& low) {
    if (sums.weight_t) multiply_events<true>(c, row, sums.weight_t, const_cast<Real*>(plane));
    if (!low.ptr) return;
    for_events(c, low.ptr, low.idx, row, [&](const Tap* tap, const Tap* end, int64_t channel, int64_t e) {
        low.out[e] = dot_taps(tap, end, c.weight_t + channel, plane, c.padded);
    });
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

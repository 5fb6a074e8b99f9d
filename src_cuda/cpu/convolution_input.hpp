// The input gradient of a convolution at every entry of one (b, t) row.
//
// Cost: a dense product, positions x channels times channels x (taps x input channels), whose result stays in L2; then
// one add per input position, tap and four input channels, and a change of layout.
#pragma once

#include "convolution_view.hpp"
#include "transpose.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// to = the sum of columns at the taps of an input position. Several sums at once, so that additions need not wait.
template <int groups, class Real>
SB_INLINE void sum_taps(const Real* columns, const int32_t* at, const int32_t* end, Real* to) {
    typedef Real Four __attribute__((vector_size(4 * sizeof(Real)), aligned(sizeof(Real)), may_alias));
    Four sum[groups] = {};
    for (; at < end; ++at)
#pragma GCC unroll 4
        for (int k = 0; k < groups; ++k) sum[k] += *(const Four*)(columns + *at + 4 * k);
#pragma GCC unroll 4
    for (int k = 0; k < groups; ++k) *(Four*)(to + 4 * k) = sum[k];
}

// plane: dL/d plane.  out: dL/dx [input channels, input positions].
template <class Real>
void input_gradient_row(const ConvolutionView<Real>& c, const ConvolutionInput<Real>& input, const Real* plane,
                        Real* columns, Real* rows, Real* out) {
    input.product->multiply(plane, c.padded, c.positions, c.channels, input.kernel, input.columns, columns,
                            input.columns, false);
    for (int64_t p = 0; p < c.in_positions; ++p) {
        const int32_t *column = input.column + c.tap_begin[p], *end = input.column + c.tap_begin[p + 1];
        Real* to = rows + p * input.channels_by_four;
        int64_t i = 0;
        for (; i + 16 <= input.channels_by_four; i += 16) sum_taps<4>(columns + i, column, end, to + i);
        const int64_t left = input.channels_by_four - i;
        if (left == 12) sum_taps<3>(columns + i, column, end, to + i);
        if (left == 8) sum_taps<2>(columns + i, column, end, to + i);
        if (left == 4) sum_taps<1>(columns + i, column, end, to + i);
    }
    transpose(rows, input.channels_by_four, c.in_positions, input.channels, out, c.in_positions, c.in_positions);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

// Rows of lambda = dL/dI are made in pieces that stay in L1, several of which are a chunk that stays in L2; the
// products of a piece or a chunk follow before the next is made.
#pragma once

#include "products.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// scan(b, from, to, rows) makes lambda of steps [from, to) of batch element b. A chunk is several whole elements, or a
// part of one, the last part first, and so are the pieces of an element.
template <class Real, class Scan>
void for_chunks(const LayerView<Real>& layer, const GradientView<Real>& grads, const SlotSums<Real>& sums,
                const ReverseScratch<Real>& scratch, int64_t first, int64_t last, const Scan& scan) {
    const int64_t steps = layer.steps, n = layer.padded, limit = scratch.chunk_rows, piece = scratch.piece_rows;
    const int64_t together = limit > steps ? limit / steps : 1;
    const int64_t parts = (steps + limit - 1) / limit;
    for (int64_t b = first; b < last; b += together) {
        const int64_t end = last - b < together ? last : b + together;
        for (int64_t part = parts - 1; part >= 0; --part) {
            const int64_t from = steps * part / parts, to = steps * (part + 1) / parts;
            for (int64_t c = b; c < end; ++c) {
                Real* lambda = scratch.lambda + (c - b) * steps * n;
                for (int64_t stop = to, start; stop > from; stop = start) {
                    start = stop - from < piece ? from : stop - piece;
                    Real* rows = lambda + (start - from) * n;
                    scan(c, start, stop, rows);
                    row_products(layer, grads, sums, scratch, c, start, stop - start, rows);
                }
            }
            chunk_products(layer, grads, sums, scratch, b * steps + from, (end - b - 1) * steps + to - from);
        }
    }
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

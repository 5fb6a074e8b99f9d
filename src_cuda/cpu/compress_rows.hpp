// Non-zero entries of rows of a dense input.
//
// Cost: one read of the rows (memory bandwidth when the input is large), one compare per vector, and about ten
// instructions per 64 entries, whatever they hold. Rows that lie apart defeat the hardware prefetcher, and where they
// do not it stops at every page; hence the software prefetch.
#pragma once

#include "masks.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// How far ahead of the reader, in bytes.
constexpr int64_t compress_prefetch = 8192;

// `rows` rows of n entries, `stride` apart, one after another; their numbers of events go to counts. Returns the sum.
// val may be null: then only ones may follow, and -1 is returned at the first row with another value. then: the first
// of the rows that will be asked for next, as far apart.
template <class Input, class Value>
int64_t compress_rows(const Input* SB_RESTRICT x, int64_t stride, int64_t rows, int64_t n, const Input* then,
                      int32_t* SB_RESTRICT idx, Value* SB_RESTRICT val, int32_t* SB_RESTRICT counts) {
    constexpr int64_t block = 64, line = 64 / int64_t(sizeof(Input));
    const int64_t row_bytes = n * int64_t(sizeof(Input)), rows_ahead = (compress_prefetch + row_bytes - 1) / row_bytes;
    int64_t count = 0;
    for (int64_t r = 0; r < rows; ++r, x += stride) {
        const int64_t before = count, left = rows - r;
        const Input* ahead = rows_ahead < left ? x + stride * rows_ahead : then + stride * (rows_ahead - left);
        for (int64_t base = 0; base < n; base += block) {
            // The last block of a row overlaps the one before.
            const int64_t skipped = base + block <= n ? 0 : base + block - n;
            const Input* part = x + base - skipped;
            for (int64_t j = 0; j < block; j += line) __builtin_prefetch(ahead + base + j, 0, 3);
            Input short_row[block] = {};
            if (n < block) {
                __builtin_memcpy(short_row + skipped, x, size_t(row_bytes));
                part = short_row;
            }
            const uint64_t bits = differs64(part, Input(0));
            count += append_bits(bits >> skipped, int32_t(base), idx + count);
        }
        counts[r] = int32_t(count - before);
        if (val) {
            for (int64_t e = before; e < count; ++e) val[e] = Value(x[idx[e]]);
            continue;
        }
        bool all_ones = true;
        for (int64_t e = before; e < count; ++e) all_ones &= x[idx[e]] == Input(1);
        if (!all_ones) return -1;
    }
    return count;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

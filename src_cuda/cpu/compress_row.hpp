// Non-zero entries of one dense row.
//
// Cost: one read of the row (memory bandwidth when the input is large), one compare per vector, and work per non-zero
// entry. The next rows of the same batch element lie a batch away each, where no hardware prefetcher looks.
#pragma once

#include "masks.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// val may be null: then only ones may follow. Returns -1 at the first other value.
template <class Input, class Value>
int64_t compress_row(const Input* SB_RESTRICT x, const Input* ahead, int64_t n, int32_t* SB_RESTRICT idx,
                     Value* SB_RESTRICT val) {
    constexpr int64_t block = 64;
    int64_t count = 0;
    uint64_t other = 0;  // neither zero nor one
    for (int64_t base = 0; base < n; base += block) {
        const int64_t size = n - base < block ? n - base : block;
        const Input* part = x + base;
        if (ahead)
            for (int64_t line = 0; line < size * int64_t(sizeof(Input)); line += 64)
                __builtin_prefetch((const char*)(ahead + base) + line, 0, 2);
        Input tail[block];
        if (size < block) {
            for (int64_t j = 0; j < block; ++j) tail[j] = j < size ? part[j] : Input(0);
            part = tail;
        }
        uint64_t bits = 0;
        for (int k = 0; k < block; k += 16) bits |= uint64_t(nonzero16(part + k)) << k;
        if (!bits) continue;
        for (int k = 0; k < block; k += 16) other |= uint64_t(differs16(part + k, Input(1))) << k & bits;
        const int64_t added = append_bits(bits, int32_t(base), idx + count);
        if (val)
            for (int64_t e = count; e < count + added; ++e) val[e] = Value(part[idx[e] - base]);
        else if (other)
            return -1;
        count += added;
    }
    return count;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

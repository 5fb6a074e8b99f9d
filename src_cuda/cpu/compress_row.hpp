// Non-zero entries of one dense row.
//
// Cost: one read of the row (memory bandwidth when the input is large) and work per non-zero entry. The
// next row of the same batch element lies a batch away, where no hardware prefetcher looks.
#pragma once

#include "masks.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Input, class Value>
int64_t compress_row(const Input* SB_RESTRICT x, const Input* next, int64_t n, int32_t* SB_RESTRICT idx,
                     Value* SB_RESTRICT val, bool* all_ones) {
    constexpr int64_t block = 64;
    int64_t count = 0;
    bool ones = true;
    for (int64_t base = 0; base < n; base += block) {
        const int64_t size = n - base < block ? n - base : block;
        const Input* part = x + base;
        if (next)
            for (int64_t line = 0; line < size * int64_t(sizeof(Input)); line += 64)
                __builtin_prefetch((const char*)(next + base) + line, 0, 2);
        Input tail[block];
        if (size < block) {
            for (int64_t j = 0; j < block; ++j) tail[j] = j < size ? part[j] : Input(0);
            part = tail;
        }
        uint64_t bits = 0;
        for (int k = 0; k < block; k += 16) bits |= uint64_t(nonzero16(part + k)) << k;
        if (!bits) continue;
        const int64_t added = append_bits(bits, int32_t(base), idx + count);
        for (int64_t e = count; e < count + added; ++e) {
            val[e] = Value(part[idx[e] - base]);
            ones &= val[e] == Value(1);
        }
        count += added;
    }
    if (!ones) *all_ones = false;
    return count;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

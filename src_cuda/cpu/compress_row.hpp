// Non-zero entries of one dense row.
//
// Cost: one read of the row (memory bandwidth when the input is large) and work per non-zero entry. The
// next row of the same batch element lies a batch away, where no hardware prefetcher looks.
#pragma once

#include "rows.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <class Input, class Value>
int64_t compress_row(const Input* SB_RESTRICT x, const Input* next, int64_t n, int32_t* SB_RESTRICT idx,
                     Value* SB_RESTRICT val, bool* all_ones) {
    constexpr int64_t block = 64;
    int64_t count = 0;
    bool ones = true;
    alignas(64) uint8_t mask[block];
    for (int64_t base = 0; base < n; base += block) {
        const int64_t size = n - base < block ? n - base : block;
        const Input* SB_RESTRICT part = x + base;
        if (next)
            for (int64_t line = 0; line < size * int64_t(sizeof(Input)); line += 64)
                __builtin_prefetch((const char*)(next + base) + line, 0, 2);
        if (size == block) {
            for (int64_t j = 0; j < block; ++j) mask[j] = part[j] != Input(0) ? 1 : 0;
        } else {
            for (int64_t j = 0; j < block; ++j) mask[j] = j < size && part[j] != Input(0) ? 1 : 0;
        }
        uint64_t bits = nonzero_bits(mask);
        while (bits) {
            const int64_t j = __builtin_ctzll(bits);
            idx[count] = int32_t(base + j);
            val[count] = Value(part[j]);
            ones &= part[j] == Input(1);
            ++count;
            bits &= bits - 1;
        }
    }
    if (!ones) *all_ones = false;
    return count;
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

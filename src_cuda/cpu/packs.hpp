// Vectors of the width that the instruction set has, and rows cut into tiles that fit its registers.
//
// Cost: a tile stays in registers while a loop over events runs inside it, so that each event costs one load (or one
// load and one store) per vector and nothing else.
#pragma once

#include "../common/portable.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, tile_vectors = 16;
#elif defined(__AVX__)
constexpr int vector_bytes = 32, tile_vectors = 8;
#else
constexpr int vector_bytes = 16, tile_vectors = 8;
#endif

template <class Real>
struct Pack;
template <>
struct Pack<float> {
    typedef float type __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
    typedef float quad __attribute__((vector_size(16)));
    static constexpr int lanes = vector_bytes / 4;
};
template <>
struct Pack<double> {
    typedef double type __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
    typedef double quad __attribute__((vector_size(32)));
    static constexpr int lanes = vector_bytes / 8;
};

// Keeps gcc from splitting the address into parts that it then adds up again for every vector of the row.
template <class T>
SB_INLINE T* whole(T* address) {
    asm("" : "+r"(address));
    return address;
}

// A number of vectors known to the compiler.
template <int vectors>
struct Vectors {
    static constexpr int count = vectors;
};

template <class Real, int vectors, class Body>
SB_INLINE void last_tile(int64_t column, int64_t left, const Body& body) {
    constexpr int step = 16 / Pack<Real>::lanes;  // rows are padded to 16 entries
    if constexpr (vectors > 0) {
        if (left == vectors * Pack<Real>::lanes)
            body(column, Vectors<vectors>());
        else
            last_tile<Real, vectors - step>(column, left, body);
    }
}

// body(first column, Vectors<count>) for every tile of a padded row of n entries.
template <class Real, int vectors = tile_vectors, class Body>
SB_INLINE void for_tiles(int64_t n, const Body& body) {
    constexpr int64_t size = vectors * Pack<Real>::lanes;
    int64_t column = 0;
    for (; column + size <= n; column += size) body(column, Vectors<vectors>());
    last_tile<Real, vectors>(column, n - column, body);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

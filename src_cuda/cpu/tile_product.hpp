// C = A B in float32 by matrix tiles of bfloat16 (AMX): three terms of eight significant bits, x = x0 + x1 + x2, hold
// all 24 of a number. Of their nine products the six with i + j < 3 are made; the others add up to 2^-24 of |a| |b| at
// most, so that C rounds no worse than in float32. (Two terms in three products have 8 to 40 times its error.)
//
// Cost: six tile products of 16 cycles per 16 x 16 entries of C and 32 of the inner dimension, for which AVX-512 takes
// 256; about a cycle per entry of A and of C for splitting the one and scaling the other.
//
// Tiles flush denormals. So each row of A and each part of B is scaled by a power of two that brings its largest number
// near one: what is flushed is below 2^-100 of the largest of its row or part. Infinite and NaN would not survive the
// split; rows and parts that have any are multiplied by dense_product.hpp. Nothing of a row depends on other rows.
#pragma once

#include <string.h>

#include <new>

#include "dense_product.hpp"
#include "product.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

constexpr int terms = 3;
constexpr int64_t tile_rows = 16, tile_inner = 32, tile_size = tile_rows * tile_inner;
// Two tiles side by side for each term, [term][2][16][32]: rows of A, or columns of B with two rows of B to one of the
// tile, as the tile product takes it.
constexpr int64_t block_width = 2 * tile_rows, block_size = terms * 2 * tile_size;
constexpr int64_t part_columns = 64;  // of B, packed by themselves
constexpr int64_t least_inner = 16;   // with fewer, most of a tile is padding

typedef uint32_t Pair __attribute__((may_alias));  // two entries of a tile

SB_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SB_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
SB_INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
SB_INLINE float power_of_two(int exponent) { return float_of(uint32_t(exponent + 127) << 23); }  // -126 to 127

// The next term of x, in the upper half of a word, which is taken off x. The last one is exact.
SB_INLINE uint32_t next_term(float& x) {
    const uint32_t term = (bits_of(x) + 0x8000) & 0xFFFF0000;
    x -= float_of(term);
    return term;
}

SB_INLINE uint32_t largest(const float* x, int64_t count, uint32_t found = 0) {
    for (int64_t k = 0; k < count; ++k) {
        const uint32_t magnitude = bits_of(x[k]) & 0x7FFFFFFF;
        found = found > magnitude ? found : magnitude;
    }
    return found;
}

struct Scale {
    int32_t exponent;  // numbers are multiplied by 2^-exponent
    int32_t finite;
};

SB_INLINE Scale scale_of(uint32_t largest) {
    const int exponent = int(largest >> 23) - 127;
    return {exponent < -126 ? -126 : exponent > 126 ? 126 : exponent, exponent < 128};
}

SB_INLINE int64_t blocks_of(int64_t inner) { return (inner + tile_inner - 1) / tile_inner; }

// 64 columns of B, packed: for dense_product.hpp, and as terms [block of columns][block of inner][block_size].
struct Part {
    Part(const float* packed, int64_t inner, int64_t column) {
        float* memory = const_cast<float*>(packed) + column / part_columns * size(inner);
        scale = (Scale*)memory;
        panels = memory + 16;
        tiles = (uint16_t*)(panels + part_columns * inner);
    }
    static int64_t size(int64_t inner) {
        return 16 + part_columns * inner + part_columns / block_width * blocks_of(inner) * block_size / 2;
    }

    Scale* scale;
    float* panels;
    uint16_t* tiles;
};

inline int64_t tile_packed_size(int64_t inner, int64_t columns) {
    return (columns + part_columns - 1) / part_columns * Part::size(inner);
}

// Rows [k, k + 2) of 16 columns of B, of which `filled` are there, as a row of a tile of each term.
SB_INLINE void pack_tile_row(const float* b, int64_t b_stride, int64_t rows, int64_t filled, float scale,
                             uint16_t* to) {
    float x[2][tile_rows] = {};
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < filled; ++j) x[r][j] = b[r * b_stride + j] * scale;
    for (int t = 0; t < terms; ++t)
        for (int j = 0; j < tile_rows; ++j)
            ((Pair*)(to + 2 * t * tile_size))[j] = next_term(x[0][j]) >> 16 | next_term(x[1][j]);
}

inline void pack_part(const float* b, int64_t b_stride, int64_t inner, int64_t width, int64_t columns,
                      const Part& part) {
    pack_panels(b, b_stride, inner, width, 0, columns, part.panels);
    uint32_t found = 0;
    for (int64_t k = 0; k < inner; ++k) found = largest(b + k * b_stride, least(width, columns), found);
    *part.scale = scale_of(found);
    const float scale = power_of_two(-part.scale->exponent);
    const int64_t blocks = blocks_of(inner);
    for (int64_t column = 0; column < columns; column += tile_rows) {
        uint16_t* to = part.tiles + column / block_width * blocks * block_size + column / tile_rows % 2 * tile_size;
        const int64_t filled = least(width - column, tile_rows);
        for (int64_t k = 0; k < blocks * tile_inner; k += 2)
            pack_tile_row(b + k * b_stride + column, b_stride, least(inner - k, 2), filled, scale,
                          to + k / tile_inner * block_size + k % tile_inner / 2 * tile_inner);
    }
}

inline void pack_tiles(const float* b, int64_t b_stride, int64_t inner, int64_t width, int64_t first, int64_t columns,
                       float* packed) {
    for (int64_t end = first + columns; first < end; first += part_columns)
        pack_part(b + first, b_stride, inner, width - first, least(end - first, part_columns),
                  Part(packed, inner, first));
}

// A row of A, of `inner` entries, as a row of a tile of each term.
inline Scale split_row(const float* a, int64_t inner, uint16_t* to) {
    const Scale scale = scale_of(largest(a, inner));
    const float factor = power_of_two(-scale.exponent);
    for (int64_t k = 0; k < inner; k += tile_inner, to += block_size) {
        const int64_t filled = least(inner - k, tile_inner);
        float x[tile_inner] = {};
        for (int64_t j = 0; j < filled; ++j) x[j] = a[k + j] * factor;
        for (int t = 0; t < terms; ++t)
            for (int j = 0; j < tile_inner; ++j) to[2 * t * tile_size + j] = uint16_t(next_term(x[j]) >> 16);
    }
    return scale;
}

// A block of C [32, 32]; without low or right its upper or left half. The products come smallest first, in an order in
// which at most one factor changes from each to the next.
template <class Tiles>
SB_INLINE void multiply_block(Tiles& tiles, const uint16_t* a, const uint16_t* b, int64_t blocks, bool low, bool right,
                              float* c) {
    const auto rows = [&](int term) { tiles.load_rows(a + 2 * term * tile_size, low); };
    const auto columns = [&](int term) { tiles.load_columns(b + 2 * term * tile_size, right); };
    const auto add = [&] { tiles.multiply_add(low, right); };
    tiles.zero();
    for (int64_t k = 0; k < blocks; ++k, a += block_size, b += block_size) {
        rows(0), columns(2), add();
        columns(1), add();
        rows(1), add();
        columns(0), add();
        rows(2), add();
        rows(0), add();
    }
    tiles.store(c);
}

// In two steps: their product may be no float.
SB_INLINE void store_scaled(const float* from, int64_t columns, int exponent, float* to, bool past_cache) {
    typedef Wide<float> W;
    const W first(power_of_two(exponent / 2)), second(power_of_two(exponent - exponent / 2));
    for (int64_t j = 0; j < columns; j += W::count) {
        const W scaled = W::load(from + j) * first * second;
        past_cache ? scaled.store_past_cache(to + j) : store(scaled, to + j);
    }
}

// Memory for a block of rows of A, split; a std container would be code that other variants share.
struct SplitRows {
    explicit SplitRows(int64_t inner)
        : tiles((uint16_t*)operator new(size_t(blocks_of(inner) * block_size) * sizeof(uint16_t), alignment)) {}
    SplitRows(const SplitRows&) = delete;
    ~SplitRows() { operator delete(tiles, alignment); }

    static constexpr std::align_val_t alignment{64};
    uint16_t* tiles;
    Scale scales[block_width];
};

// The rows that are not finite are left out.
template <class Tiles>
void multiply_part(Tiles& tiles, const SplitRows& a, int64_t rows, int64_t inner, const Part& part, int64_t columns,
                   float* c, int64_t c_stride, bool past_cache) {
    alignas(64) float block[block_width * block_width];
    const int64_t blocks = blocks_of(inner);
    for (int64_t column = 0; column < columns; column += block_width) {
        const int64_t wide = least(columns - column, block_width);
        multiply_block(tiles, a.tiles, part.tiles + column / block_width * blocks * block_size, blocks,
                       rows > tile_rows, wide > tile_rows, block);
        for (int64_t r = 0; r < rows; ++r)
            if (a.scales[r].finite)
                store_scaled(block + r * block_width, wide, a.scales[r].exponent + part.scale->exponent,
                             c + r * c_stride + column, past_cache);
    }
}

template <class Tiles>
void multiply_tiles(const float* a, int64_t a_stride, int64_t rows, int64_t inner, const float* packed, int64_t columns,
                    float* c, int64_t c_stride, bool past_cache) {
    const auto wide = [&](int64_t column) { return least(columns - column, part_columns); };
    const auto by_vectors = [&](int64_t row, int64_t count, int64_t column) {
        multiply(a + row * a_stride, a_stride, count, inner, Part(packed, inner, column).panels, wide(column),
                 c + row * c_stride + column, c_stride, past_cache);
    };
    if (inner < least_inner) {
        for (int64_t column = 0; column < columns; column += part_columns) by_vectors(0, rows, column);
        return;
    }
    SplitRows split(inner);
    Tiles tiles;
    for (int64_t first = 0; first < rows; first += block_width) {
        const int64_t count = least(rows - first, block_width);
        for (int64_t r = 0; r < count; ++r)
            split.scales[r] = split_row(a + (first + r) * a_stride, inner, split.tiles + r * tile_inner);
        for (int64_t column = 0; column < columns; column += part_columns) {
            const Part part(packed, inner, column);
            if (!part.scale->finite) {
                by_vectors(first, count, column);
                continue;
            }
            multiply_part(tiles, split, count, inner, part, wide(column), c + first * c_stride + column, c_stride,
                          past_cache);
            for (int64_t r = 0; r < count; ++r)
                if (!split.scales[r].finite) by_vectors(first + r, 1, column);
        }
    }
    if (past_cache) finish_stores();
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

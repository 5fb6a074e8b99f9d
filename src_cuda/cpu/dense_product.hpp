// C = A B by register tiles: the input gradient lambda W where it is wanted at every entry, and W x of a dense input.
//
// Cost: one fused multiply-add per vector of C and row of B, at one broadcast per row of a tile and one load per vector
// of B for all rows of a tile. B is packed once into panels as wide as a tile; it is read once per block of rows, A
// once per panel (L1), C is written once, or once per block of k. The sum over k is one chain per entry, or one per
// block, in order, so that no result depends on how rows are shared out.
#pragma once

#include "transpose.hpp"
#include "wide.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

// Sums, one row of B and one entry of A fill the registers.
#if defined(__AVX512F__)
constexpr int product_rows = 6, panel_vectors = 4;
#elif defined(__AVX__)
constexpr int product_rows = 6, panel_vectors = 2;
#else
constexpr int product_rows = 4, panel_vectors = 2;
#endif

// Rows of A that go through all panels before the next: in whole tiles, and B is read seldom enough.
constexpr int64_t block_rows = 8 * product_rows;

// A, and how the sum over k is cut: C is start, or zero, and every `block` products more.
template <class Real>
struct Factor {
    const Real* a;
    int64_t stride, inner, block;
    const Real* start;  // of the tile's columns
    Factor rows_from(int64_t r) const { return {a + r * stride, stride, inner, block, start}; }
};

// A tile of C. past_cache: C is not read again soon, and its rows are aligned to vectors; there is one block.
template <int rows, int vectors, class Real>
void product_tile(const Factor<Real>& shared, const Real* SB_RESTRICT panel, Real* SB_RESTRICT c, int64_t c_stride,
                  bool past_cache) {
    typedef Wide<Real> W;
    const Factor<Real> in = shared;
    for (int64_t k = 0, end; k < in.inner; k = end) {
        end = in.inner - k < in.block ? in.inner : k + in.block;
        W sum[rows][vectors];
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) sum[r][v] = W(Real(0));
        const bool first = k == 0;
        for (int64_t i = k; i < end; ++i, panel += vectors * W::count) {
            W b[vectors];
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) b[v] = W::load(panel + v * W::count);
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r) {
                const W x(in.a[r * in.stride + i]);
#pragma GCC unroll 8
                for (int v = 0; v < vectors; ++v) sum[r][v] = multiply_add(x, b[v], sum[r][v]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) {
                Real* to = c + r * c_stride + v * W::count;
                if (!first)
                    sum[r][v] = W::load(to) + sum[r][v];
                else if (in.start)
                    sum[r][v] = W::load(in.start + v * W::count) + sum[r][v];
                past_cache ? sum[r][v].store_past_cache(to) : store(sum[r][v], to);
            }
    }
}

// A panel's width of C for a block of rows. The last tile begins early enough to be whole: what it computes twice is
// the same sum.
template <int vectors, class Real>
void product_panel(const Factor<Real>& in, int64_t rows, const Real* panel, Real* c, int64_t c_stride,
                   bool past_cache) {
    if (rows < product_rows) {
        for (int64_t r = 0; r < rows; ++r)
            product_tile<1, vectors>(in.rows_from(r), panel, c + r * c_stride, c_stride, past_cache);
        return;
    }
    for (int64_t next = 0; next < rows; next += product_rows) {
        const int64_t r = next + product_rows <= rows ? next : rows - product_rows;
        product_tile<product_rows, vectors>(in.rows_from(r), panel, c + r * c_stride, c_stride, past_cache);
    }
}

// body(first column, Vectors<count>) for every panel of padded columns.
template <class Real, class Body>
SB_INLINE void for_panels(int64_t columns, const Body& body) {
    constexpr int64_t width = panel_vectors * Pack<Real>::lanes;
    int64_t column = 0;
    for (; column + width <= columns; column += width) body(column, Vectors<panel_vectors>());
    const int64_t left = (columns - column) / Pack<Real>::lanes;
    if constexpr (panel_vectors > 2) {
        if (left == 3) body(column, Vectors<3>());
        if (left == 2) body(column, Vectors<2>());
    }
    if (left == 1) body(column, Vectors<1>());
}

template <class Real>
int64_t packed_size(int64_t inner, int64_t columns) {
    return inner * columns;
}

// B [inner, width] as panels, [inner, columns of the panel] each, zero from width on to padded columns: `columns` of
// them from `first` on, a multiple of 64.
template <class Real>
void pack_panels(const Real* b, int64_t b_stride, int64_t inner, int64_t width, int64_t first, int64_t columns,
                 Real* panels) {
    for_panels<Real>(columns, [&](int64_t column, auto panel) {
        constexpr int64_t size = decltype(panel)::count * Pack<Real>::lanes;
        const int64_t from = first + column, filled = width - from < size ? width - from : size;
        Real* to = panels + from * inner;
        for (int64_t k = 0; k < inner; ++k, to += size) {
            const Real* row = b + k * b_stride + from;
            for (int64_t j = 0; j < size; ++j) to[j] = j < filled ? row[j] : Real(0);
        }
    });
}

// W [width, inner], whose rows are the columns of B, as panels: zero from width on to padded columns.
template <class Real>
void pack_transposed(const Real* w, int64_t inner, int64_t width, int64_t columns, Real* panels) {
    for_panels<Real>(columns, [&](int64_t column, auto panel) {
        constexpr int64_t size = decltype(panel)::count * Pack<Real>::lanes;
        const int64_t left = width - column, filled = left < 0 ? 0 : left < size ? left : size;
        transpose(w + column * inner, inner, filled, inner, panels + column * inner, size, size);
    });
}

// C [rows, columns] = start + A [rows, inner] times the panels.
template <class Real>
void multiply_panels(const Factor<Real>& in, int64_t rows, const Real* panels, int64_t columns, Real* c,
                     int64_t c_stride, bool past_cache) {
    for (int64_t r = 0, count; r < rows; r += count) {
        // No block is left with less than a tile where there is more than one.
        count = rows - r < block_rows + product_rows ? rows - r : block_rows;
        for_panels<Real>(columns, [&](int64_t column, auto panel) {
            Factor<Real> factor = in.rows_from(r);
            if (in.start) factor.start += column;
            product_panel<decltype(panel)::count>(factor, count, panels + column * in.inner, c + r * c_stride + column,
                                                  c_stride, past_cache);
        });
    }
    if (past_cache) finish_stores();
}

template <class Real>
void multiply(const Real* a, int64_t a_stride, int64_t rows, int64_t inner, const Real* panels, int64_t columns,
              Real* c, int64_t c_stride, bool past_cache) {
    multiply_panels<Real>({a, a_stride, inner, inner, nullptr}, rows, panels, columns, c, c_stride, past_cache);
}

template <class Real>
void multiply_blocked(const Real* a, int64_t a_stride, int64_t rows, int64_t inner, int64_t block, const Real* panels,
                      int64_t columns, const Real* start, Real* c, int64_t c_stride) {
    multiply_panels<Real>({a, a_stride, inner, block, start}, rows, panels, columns, c, c_stride, false);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

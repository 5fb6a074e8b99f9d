// The product by tiles for processors with AMX: CMake compiles this one file for them. Everything else is x86-64-v4's.
#include "tile_product.hpp"

#include <immintrin.h>

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {
namespace {

// The tiles of this thread, all of 16 rows of 64 bytes. Given back at the end: other libraries configure their own.
class AmxTiles {
  public:
    AmxTiles() {
        struct {
            uint8_t palette, start_row, reserved[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        } shape = {};
        shape.palette = 1;
        for (int tile = 0; tile < 8; ++tile) shape.row_bytes[tile] = 64, shape.rows[tile] = 16;
        finish_writing(&shape);
        _tile_loadconfig(&shape);
    }
    AmxTiles(const AmxTiles&) = delete;
    ~AmxTiles() { _tile_release(); }

    // C in tiles 0 to 3, two and two; rows of A in 4 and 5, columns of B in 6 and 7.
    SB_INLINE void zero() {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    SB_INLINE void load_rows(const uint16_t* from, bool low) {
        finish_writing(from);
        _tile_loadd(4, from, 64);
        if (low) _tile_loadd(5, from + tile_size, 64);
    }
    SB_INLINE void load_columns(const uint16_t* from, bool right) {
        finish_writing(from);
        _tile_loadd(6, from, 64);
        if (right) _tile_loadd(7, from + tile_size, 64);
    }
    SB_INLINE void multiply_add(bool low, bool right) {
        _tile_dpbf16ps(0, 4, 6);
        if (right) _tile_dpbf16ps(1, 4, 7);
        if (low) _tile_dpbf16ps(2, 5, 6);
        if (low && right) _tile_dpbf16ps(3, 5, 7);
    }
    SB_INLINE void store(float* c) {
        constexpr int64_t row = block_width * sizeof(float);
        _tile_stored(0, c, row);
        _tile_stored(1, c + tile_rows, row);
        _tile_stored(2, c + tile_rows * block_width, row);
        _tile_stored(3, c + tile_rows * block_width + tile_rows, row);
    }

  private:
    // gcc's intrinsics do not say that they read memory.
    SB_INLINE static void finish_writing(const void* at) { asm volatile("" : : "r"(at) : "memory"); }
};

}  // namespace

// Constant-initialised, as kernel_set in kernels.cpp.
extern const Product<float> tile_product;
constexpr Product<float> tile_product = {tile_packed_size, pack_tiles, multiply_tiles<AmxTiles>};

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

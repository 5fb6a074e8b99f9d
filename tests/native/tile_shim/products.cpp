// The product by tiles on any machine: tile_product.hpp with tiles in memory, behind a C interface.
#include <cfloat>
#include <cmath>

#include "../../../src_cuda/cpu/tile_check.hpp"
#include "../../../src_cuda/cpu/tile_product.hpp"

namespace {

using namespace sparse_backend;
using namespace sparse_backend::SPARSE_BACKEND_VARIANT;

// What is wrong with the tiles.
enum Fault : int { none, odd_entries_lost, last_row_lost, low_bits_lost, not_a_number };
int fault = none;

float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }
float widened(uint16_t x) { return flushed(float_of(uint32_t(x) << 16)); }

// As Intel's definition of TDPBF16PS has it: even and odd entries are summed apart from zero, with fused multiply-adds
// that round to nearest even and take and give zero for denormals; their sum is added to C. It leaves open which sums
// are tiny (here: after they are rounded as denormals), and hardware need not be bitwise this.
class EmulatedTiles {
  public:
    void zero() { memset(sums_, 0, sizeof sums_); }
    void load_rows(const uint16_t* from, bool low) { memcpy(rows_, from, size(low)); }
    void load_columns(const uint16_t* from, bool right) { memcpy(columns_, from, size(right)); }
    void multiply_add(bool low, bool right) {
        for (int h = 0; h <= low; ++h)
            for (int v = 0; v <= right; ++v)
                for (int m = 0; m < 16; ++m) add_row(rows_[h][m], columns_[v], sums_[h][m][v]);
    }
    void store(float* c) const {
        const size_t kept = fault == last_row_lost ? 31 * 32 : 32 * 32;
        memcpy(c, sums_, kept * sizeof(float));
        for (size_t k = 0; k < kept; ++k) {
            if (fault == low_bits_lost) c[k] = float_of(bits_of(c[k]) & ~0x3Fu);
            if (fault == not_a_number) c[k] = NAN;
        }
    }

  private:
    static size_t size(bool two) { return (two ? 2 : 1) * tile_size * sizeof(uint16_t); }
    static void add_row(const uint16_t* a, const uint16_t (*b)[32], float* c) {
        float sum[32] = {};
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 32; ++n)
                sum[n] = flushed(std::fma(widened(a[2 * k + n % 2]), widened(b[k][n]), sum[n]));
        for (int n = 0; n < 16; ++n) {
            const float odd = fault == odd_entries_lost ? 0.0f : sum[2 * n + 1];
            c[n] = flushed(c[n] + flushed(sum[2 * n] + odd));
        }
    }

    float sums_[2][16][2][16];
    uint16_t rows_[2][16][32], columns_[2][16][32];
};

const Product<float> by_tiles = {tile_packed_size, pack_tiles, multiply_tiles<EmulatedTiles>};
const Product<float> by_vectors = {packed_size<float>, pack_panels<float>, multiply<float>};

}  // namespace

extern "C" {

int64_t product_size(int tiles, int64_t inner, int64_t columns) {
    return (tiles ? by_tiles : by_vectors).packed_size(inner, columns);
}

void product_pack(int tiles, const float* b, int64_t b_stride, int64_t inner, int64_t width, int64_t first,
                  int64_t columns, float* packed) {
    (tiles ? by_tiles : by_vectors).pack(b, b_stride, inner, width, first, columns, packed);
}

void product_multiply(int tiles, const float* a, int64_t a_stride, int64_t rows, int64_t inner, const float* packed,
                      int64_t columns, float* c, int64_t c_stride, int past_cache) {
    (tiles ? by_tiles : by_vectors).multiply(a, a_stride, rows, inner, packed, columns, c, c_stride, past_cache);
}

int product_accepted(int wrong) {
    fault = wrong;
    const bool accepted = products_agree(by_tiles, by_vectors);
    fault = none;
    return accepted;
}
}

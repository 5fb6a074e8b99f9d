#include "tile_check.hpp"

#include <cfloat>
#include <cmath>
#include <vector>

#if defined(SPARSE_BACKEND_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sparse_backend {
namespace {

typedef std::vector<float> Matrix;

// Between -1 and 1, of all 24 bits.
Matrix numbers(int64_t count, uint32_t state) {
    Matrix x(count);
    for (float& value : x) {
        state = state * 1664525 + 1013904223;
        value = float(int32_t(state)) * 0x1p-31f;
    }
    return x;
}

Matrix magnitudes(Matrix x) {
    for (float& value : x) value = std::fabs(value);
    return x;
}

Matrix multiplied(const Product<float>& product, const Matrix& a, const Matrix& b, int64_t rows, int64_t columns) {
    const int64_t inner = int64_t(a.size()) / rows, padded = (columns + 15) / 16 * 16;
    Matrix packed(product.packed_size(inner, padded)), c(rows * padded);
    product.pack(b.data(), columns, inner, columns, 0, padded, packed.data());
    product.multiply(a.data(), inner, rows, inner, packed.data(), padded, c.data(), padded, false);
    return c;
}

bool agree_at(const Product<float>& found, const Product<float>& trusted, int64_t rows, int64_t inner,
              int64_t columns) {
    Matrix a = numbers(rows * inner, uint32_t(rows));
    const Matrix b = numbers(inner * columns, uint32_t(columns));
    for (int64_t k = 0; k < rows * inner; ++k) a[k] = std::ldexp(a[k], int(k / inner * 7 % 180) - 90);  // row by row
    const Matrix x = multiplied(found, a, b, rows, columns), y = multiplied(trusted, a, b, rows, columns);
    const Matrix scale = multiplied(trusted, magnitudes(a), magnitudes(b), rows, columns);
    // More than either rounds (1.2 epsilon here), less than a lost term or entry leaves out.
    for (size_t k = 0; k < x.size(); ++k)
        if (!(std::fabs(x[k] - y[k]) <= 4 * FLT_EPSILON * scale[k])) return false;
    return true;
}

}  // namespace

bool products_agree(const Product<float>& found, const Product<float>& trusted) {
    return agree_at(found, trusted, 1, 16, 1) && agree_at(found, trusted, 16, 32, 16) &&
           agree_at(found, trusted, 17, 33, 49) && agree_at(found, trusted, 65, 70, 97);
}

bool tiles_supported() {
#if defined(SPARSE_BACKEND_AMX)
    unsigned a, b, c, d, enabled, upper;
    constexpr unsigned xsave = 1u << 27, amx_bf16 = 1u << 22, amx_tile = 1u << 24;
    if (!__get_cpuid(1, &a, &b, &c, &d) || ~c & xsave) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (amx_bf16 | amx_tile)) return false;
    constexpr unsigned tile_config = 1u << 17, tile_data = 1u << 18;
    asm("xgetbv" : "=a"(enabled), "=d"(upper) : "c"(0));
    if (~enabled & (tile_config | tile_data)) return false;
    // Linux gives the state of tiles, 8 KiB a thread, only to processes that ask.
    constexpr long request_permission = 0x1023, feature = 18;
    return syscall(SYS_arch_prctl, request_permission, feature) == 0;
#else
    return false;
#endif
}

}  // namespace sparse_backend

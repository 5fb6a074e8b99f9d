// A matrix packed for the product of the instruction set in use, and products of whole arrays with it.
#pragma once

#include "buffer.hpp"
#include "dispatch.hpp"
#include "layer.hpp"

namespace sparse_backend {

// B [inner, width], contiguous, as panels of its columns.
template <class Real>
class Panels {
  public:
    Panels() = default;
    Panels(const Real* b, int64_t inner, int64_t width, int64_t threads)
        : product_(&kernels_for<Real>().product),
          memory_(product_->packed_size(inner, padded_width(width))),
          inner_(inner),
          columns_(padded_width(width)) {
        constexpr int64_t part = 64;
        const int64_t used = inner * width < large ? 1 : threads;
#pragma omp parallel for schedule(static) num_threads(int(used))
        for (int64_t first = 0; first < columns_; first += part)
            product_->pack(b, width, inner, width, first, std::min(part, columns_ - first), memory_.get());
    }

    const Product<Real>* product() const { return product_; }
    const Real* get() const { return memory_.get(); }

    // C [rows, padded width] = A [rows, inner] B.
    void multiply(const Real* a, int64_t a_stride, int64_t rows, Real* c, int64_t c_stride, bool past_cache,
                  int64_t threads) const {
        constexpr int64_t part = 96;  // in whole tiles of every instruction set
        const int64_t used = rows * inner_ * columns_ < large ? 1 : threads;
#pragma omp parallel for schedule(static, 1) num_threads(int(used))  // in turn: the last part is mostly a small one
        for (int64_t r = 0; r < rows; r += part)
            product_->multiply(a + r * a_stride, a_stride, std::min(part, rows - r), inner_, memory_.get(), columns_,
                               c + r * c_stride, c_stride, past_cache);
    }

    // Whether C, written past the cache, is worth it: it is too large to be found there when it is read, and aligned.
    static bool goes_past_cache(const Real* c, int64_t rows, int64_t c_stride) {
        constexpr int64_t bytes = 8 << 20, alignment = 64;
        const int64_t row = c_stride * int64_t(sizeof(Real));
        return rows * row >= bytes && row % alignment == 0 && reinterpret_cast<uintptr_t>(c) % alignment == 0;
    }

  private:
    static constexpr int64_t large = 1 << 16;  // pays for waking the threads

    const Product<Real>* product_ = nullptr;  // what packed, multiplies
    Buffer<Real> memory_;
    int64_t inner_ = 0, columns_ = 0;
};

}  // namespace sparse_backend

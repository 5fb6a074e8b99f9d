// Drivers of dense products: any two matrices, and a Linear in the order of another library's sums.
#include <algorithm>
#include <stdexcept>

#include "panels.hpp"
#include "view.hpp"

namespace sparse_backend {
namespace {

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// A Linear, whose weights are packed a strip of columns at a time.
template <class Real>
class Linear {
  public:
    Linear(const LinearAddress& in, int64_t block)
        : in_(in),
          block_(block),
          product_(kernels_for<Real>().blocked_product),
          columns_(padded_width(in.width)),
          strips_((columns_ + strip - 1) / strip),
          start_(in.bias ? columns_ : 0) {
        if (!in.bias) return;
        std::fill_n(start_.get(), columns_, Real(0));
        std::copy_n(address<Real>(in.bias), in.width, start_.get());
    }

    void run(int64_t threads) const {
        constexpr int64_t few = 512, strips_per_thread = 4;
        if (in_.rows <= few && strips_ >= strips_per_thread * threads)
            run_by_strip(threads);
        else
            run_by_row(threads);
    }

  private:
    static constexpr int64_t strip = 64;

    // Few rows: a thread packs a strip and multiplies all of them by it while it lies in its L2.
    void run_by_strip(int64_t threads) const {
        ParallelErrors errors;
#pragma omp parallel num_threads(int(threads))
        {
            Buffer<Real> packed, edge;
            errors.guard([&] {
                edge.reserve(in_.rows * strip);
                packed.reserve(strip * in_.inputs);
            });
#pragma omp for schedule(dynamic, 1)
            for (int64_t k = 0; k < strips_; ++k) {
                if (!packed.get()) continue;
                pack(k * strip, packed.get());
                multiply(k * strip, packed.get(), 0, in_.rows, edge.get());
            }
        }
        errors.rethrow();
    }
    // Many: all strips are packed first.
    void run_by_row(int64_t threads) const {
        constexpr int64_t part = 48;  // in whole tiles
        const Buffer<Real> packed(in_.inputs * columns_);
        ParallelErrors errors;
#pragma omp parallel num_threads(int(threads))
        {
            Buffer<Real> edge;
            errors.guard([&] { edge.reserve(part * strip); });
#pragma omp for schedule(dynamic, 1)
            for (int64_t k = 0; k < strips_; ++k) pack(k * strip, packed.get() + k * strip * in_.inputs);
#pragma omp for schedule(dynamic, 1)
            for (int64_t row = 0; row < in_.rows; row += part)
                for (int64_t k = 0; k < strips_ && edge.get(); ++k)
                    multiply(k * strip, packed.get() + k * strip * in_.inputs, row, std::min(part, in_.rows - row),
                             edge.get());
        }
        errors.rethrow();
    }

    int64_t filled(int64_t column) const { return std::min(strip, in_.width - column); }
    int64_t padded(int64_t column) const { return std::min(strip, columns_ - column); }
    void pack(int64_t column, Real* packed) const {
        product_.pack(address<Real>(in_.weight) + column * in_.inputs, in_.inputs, filled(column), padded(column),
                      packed);
    }
    // edge: where a strip is made whose last vector would be written over the next row's first.
    void multiply(int64_t column, const Real* packed, int64_t row, int64_t rows, Real* edge) const {
        const bool whole = filled(column) == padded(column);
        Real* out = writable<Real>(in_.out) + row * in_.width + column;
        const int64_t stride = whole ? in_.width : strip;
        product_.multiply(address<Real>(in_.x) + row * in_.x_stride, in_.x_stride, rows, in_.inputs, block_, packed,
                          padded(column), in_.bias ? start_.get() + column : nullptr, whole ? out : edge, stride);
        for (int64_t r = 0; r < rows && !whole; ++r)
            std::copy_n(edge + r * stride, filled(column), out + r * in_.width);
    }

    const LinearAddress in_;
    const int64_t block_;
    const BlockedProduct<Real>& product_;
    const int64_t columns_, strips_;
    const Buffer<Real> start_;
};

}  // namespace

void run_multiply(int64_t a, int64_t a_stride, int64_t rows, int64_t b, int64_t inner, int64_t columns, int64_t c,
                  int dtype, int64_t threads) {
    require(a && b && c && rows > 0 && inner > 0 && columns > 0 && a_stride >= inner && threads > 0,
            "multiply: a, b, c and the sizes must be positive, a_stride at least inner");
    const auto run = [&](auto real) {
        typedef decltype(real) Real;
        const int64_t padded = padded_width(columns);
        const bool past_cache = Panels<Real>::goes_past_cache(address<Real>(c), rows, padded);
        const Panels<Real> panels(address<Real>(b), inner, columns, threads);
        panels.multiply(address<Real>(a), a_stride, rows, writable<Real>(c), padded, past_cache, threads);
    };
    dtype == float64 ? run(double()) : run(float());
}

void run_linear(const LinearAddress& in, int64_t block, int dtype, int64_t threads) {
    require(in.x && in.weight && in.out && in.rows > 0 && in.inputs > 0 && in.width > 0 && in.x_stride >= in.inputs,
            "linear: x, weight, out and the sizes must be positive, x_stride at least inputs");
    require(block > 0 && threads > 0, "linear: block and threads must be positive");
    dtype == float64 ? Linear<double>(in, block).run(threads) : Linear<float>(in, block).run(threads);
}

}  // namespace sparse_backend

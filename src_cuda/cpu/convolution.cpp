// Drivers of the event-driven convolution. Rows (b, t) are independent; sums over rows are taken in a fixed number of
// slots, added up in slot order, so that results do not depend on the number of threads.
#include "convolution.hpp"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "panels.hpp"
#include "view.hpp"

namespace sparse_backend {
namespace {

constexpr int64_t most_slots = 32, slot_bytes = int64_t(1) << 26;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

void check(const Convolution& c) {
    require(c.steps > 0 && c.batch > 0 && c.threads > 0, "steps, batch, threads: must be positive");
    require(c.in_channels > 0 && c.in_height > 0 && c.in_width > 0 && c.channels > 0,
            "in_channels, in_height, in_width, channels: must be positive");
    require(c.kernel_height > 0 && c.kernel_width > 0, "kernel_height, kernel_width: must be positive");
    require(c.stride_y > 0 && c.stride_x > 0 && c.dilation_y > 0 && c.dilation_x > 0,
            "stride_y, stride_x, dilation_y, dilation_x: must be positive");
    require(c.padding_y >= 0 && c.padding_x >= 0, "padding_y, padding_x: must not be negative");
    require(c.pool_height >= 0 && c.pool_height * c.pool_width <= 255, "pool_height, pool_width: at most 255 entries");
    require(!c.pool_height || (c.pool_width > 0 && c.pool_stride_y > 0 && c.pool_stride_x > 0),
            "pool_width, pool_stride_y, pool_stride_x: must be positive");
    require(c.in_ptr && c.weight_t && c.bias, "in_ptr, weight_t, bias: must be given");
    require(c.in_idx || address<int64_t>(c.in_ptr)[c.steps * c.batch] == 0, "in_idx: must be given");
    require(!c.pool_height || c.winner, "winner: must be given with pooling");
}

// How many places a window of `size`, moved by `stride`, has on `length` entries.
int64_t places(int64_t length, int64_t size, int64_t stride) {
    return length < size ? 0 : (length - size) / stride + 1;
}

// A ConvolutionView and the tables behind it.
template <class Real>
class Geometry {
  public:
    explicit Geometry(const Convolution& c)
        : height_(places(c.in_height + 2 * c.padding_y, (c.kernel_height - 1) * c.dilation_y + 1, c.stride_y)),
          width_(places(c.in_width + 2 * c.padding_x, (c.kernel_width - 1) * c.dilation_x + 1, c.stride_x)),
          view() {
        require(height_ > 0 && width_ > 0, "kernel_height, kernel_width: larger than the padded input");
        view.steps = c.steps, view.batch = c.batch;
        view.in_positions = c.in_height * c.in_width, view.taps = c.kernel_height * c.kernel_width;
        view.channels = c.channels, view.padded = padded_width(c.channels), view.positions = height_ * width_;
        view.in_ptr = address<int64_t>(c.in_ptr), view.in_idx = address<int32_t>(c.in_idx);
        view.in_val = address<Real>(c.in_val);
        view.weight_t = address<Real>(c.weight_t), view.bias = address<Real>(c.bias);
        lay_taps(c);
        if (c.pool_height) lay_windows(c);
        view.outputs = view.pooled ? view.pooled : view.positions;
    }
    Geometry(const Geometry&) = delete;

  private:
    void lay_taps(const Convolution& c) {
        begin_.push_back(0);
        for (int64_t y = 0; y < c.in_height; ++y)
            for (int64_t x = 0; x < c.in_width; ++x) {
                for (int64_t ky = 0; ky < c.kernel_height; ++ky)
                    for (int64_t kx = 0; kx < c.kernel_width; ++kx) {
                        const int64_t from_y = y + c.padding_y - ky * c.dilation_y;
                        const int64_t from_x = x + c.padding_x - kx * c.dilation_x;
                        if (from_y < 0 || from_x < 0 || from_y % c.stride_y || from_x % c.stride_x) continue;
                        const int64_t to_y = from_y / c.stride_y, to_x = from_x / c.stride_x;
                        if (to_y >= height_ || to_x >= width_) continue;
                        taps_.push_back({int32_t((to_y * width_ + to_x) * view.padded),
                                         int32_t((ky * c.kernel_width + kx) * view.padded)});
                    }
                begin_.push_back(int32_t(taps_.size()));
            }
        view.tap_begin = begin_.data(), view.tap = taps_.data();
    }

    void lay_windows(const Convolution& c) {
        const int64_t rows = places(height_, c.pool_height, c.pool_stride_y);
        const int64_t columns = places(width_, c.pool_width, c.pool_stride_x);
        require(rows > 0 && columns > 0, "pool_height, pool_width: larger than the convolution's output");
        for (int64_t y = 0; y < rows; ++y)
            for (int64_t x = 0; x < columns; ++x)
                for (int64_t wy = 0; wy < c.pool_height; ++wy)
                    for (int64_t wx = 0; wx < c.pool_width; ++wx) {
                        const int64_t at = (y * c.pool_stride_y + wy) * width_ + x * c.pool_stride_x + wx;
                        members_.push_back(int32_t(at * view.padded));
                    }
        view.pooled = rows * columns, view.window = c.pool_height * c.pool_width;
        view.members = members_.data();
    }

    int64_t height_, width_;
    std::vector<int32_t> begin_, members_;
    std::vector<Tap> taps_;

  public:
    ConvolutionView<Real> view;
};

// The input gradient at every entry, if it is wanted.
template <class Real>
class InputGradientOfConvolution {
  public:
    InputGradientOfConvolution(const Convolution& c, const ConvolutionGradients& g, const ConvolutionView<Real>& view)
        : out_(writable<Real>(g.d_input)) {
        if (!out_) return;
        const int64_t by_four = (c.in_channels + 3) / 4 * 4, columns = padded_width(view.taps * by_four);
        panels_ = Panels<Real>(address<Real>(g.kernel), c.channels, view.taps * by_four, c.threads);
        for (int64_t k = 0; k < view.tap_begin[view.in_positions]; ++k)
            column_.push_back(
                int32_t(view.tap[k].to / view.padded * columns + view.tap[k].kernel / view.padded * by_four));
        input_ = {panels_.product(), panels_.get(), columns, c.in_channels, by_four, column_.data()};
    }
    InputGradientOfConvolution(const InputGradientOfConvolution&) = delete;

    // Entries of a thread's scratch memory.
    int64_t room(const ConvolutionView<Real>& view) const {
        return out_ ? view.positions * input_.columns + view.in_positions * input_.channels_by_four : 0;
    }
    void run(const ConvolutionView<Real>& view, int64_t row, const Real* plane, Real* scratch) const {
        if (!out_) return;
        kernels_for<Real>().convolution_input(view, input_, plane, scratch, scratch + view.positions * input_.columns,
                                              out_ + row * input_.channels * view.in_positions);
    }

  private:
    Real* out_;
    Panels<Real> panels_;
    std::vector<int32_t> column_;
    ConvolutionInput<Real> input_ = {};
};

template <class Real>
class Planes {
  public:
    explicit Planes(const ConvolutionView<Real>& view) : memory_((view.positions + view.pooled) * view.padded) {
        scratch = {memory_.get(), memory_.get() + view.positions * view.padded};
    }

  private:
    Buffer<Real> memory_;

  public:
    ConvolutionScratch<Real> scratch;
};

// Where the winners of a row's windows lie.
template <class Real>
uint8_t* winners(const Convolution& c, const ConvolutionView<Real>& view, int64_t row) {
    return c.winner ? writable<uint8_t>(c.winner) + row * view.pooled * view.padded : nullptr;
}

template <class Real>
void forward(const Convolution& c, const Strided<Real>& out) {
    const Geometry<Real> geometry(c);
    const ConvolutionView<Real>& view = geometry.view;
    const int64_t rows = c.steps * c.batch;
    ParallelErrors errors;
#pragma omp parallel num_threads(int(std::min(c.threads, rows)))
    errors.guard([&] {
        const Planes<Real> planes(view);
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t b = row / c.steps, t = row % c.steps;
            Real* to = out.data + t * out.stride_t + b * out.stride_b;
            kernels_for<Real>().convolve(view, row, planes.scratch, to, winners(c, view, row));
        }
    });
    errors.rethrow();
}

// Adds up the slots' sums, [slots, size], in slot order.
template <class Real>
void add_slots(const Real* sums, int64_t slots, int64_t size, Real* total) {
    std::copy(sums, sums + size, total);
    for (int64_t s = 1; s < slots; ++s) kernels_for<Real>().add_rows(total, sums + s * size, size);
}

template <class Real>
void backward(const Convolution& c, const ConvolutionGradients& g) {
    const Geometry<Real> geometry(c);
    const ConvolutionView<Real>& view = geometry.view;
    const int64_t rows = c.steps * c.batch, size = c.in_channels * view.taps * view.padded;
    const int64_t by_memory = slot_bytes / (size * int64_t(sizeof(Real)));
    const int64_t slots = std::min(rows, std::clamp<int64_t>(by_memory, 4, most_slots));
    Buffer<Real> weights(g.d_weight_t ? slots * size : 0), biases(slots * view.padded);
    const Strided<const Real> gradient = {address<Real>(g.g), g.g_stride_t, g.g_stride_b};
    const ConvolutionLow<Real> low = {g.d_low ? address<int64_t>(g.low_ptr) : nullptr, address<int32_t>(g.low_idx),
                                      writable<Real>(g.d_low)};
    const InputGradientOfConvolution<Real> input(c, g, view);
    ParallelErrors errors;
#pragma omp parallel num_threads(int(std::min(c.threads, slots)))
    errors.guard([&] {
        const Planes<Real> planes(view);
        const Buffer<Real> columns(input.room(view));
#pragma omp for schedule(static, 1) nowait
        for (int64_t s = 0; s < slots; ++s) {
            const ConvolutionSums<Real> sums = {g.d_weight_t ? weights.get() + s * size : nullptr,
                                                biases.get() + s * view.padded};
            if (sums.weight_t) std::fill(sums.weight_t, sums.weight_t + size, Real(0));
            std::fill(sums.bias, sums.bias + view.padded, Real(0));
            for (int64_t row = rows * s / slots; row < rows * (s + 1) / slots; ++row) {
                const int64_t b = row / c.steps, t = row % c.steps;
                const Real* from = gradient.data + t * gradient.stride_t + b * gradient.stride_b;
                Real* plane = planes.scratch.plane;
                kernels_for<Real>().expand(view, from, winners(c, view, row), planes.scratch, plane, sums.bias);
                kernels_for<Real>().convolve_back(view, row, plane, sums, low);
                input.run(view, row, plane, columns.get());
            }
        }
    });
    errors.rethrow();
    if (g.d_weight_t) add_slots(weights.get(), slots, size, writable<Real>(g.d_weight_t));
    if (g.d_bias) add_slots(biases.get(), slots, view.padded, writable<Real>(g.d_bias));
}

}  // namespace

void run_convolution(const Convolution& c, int64_t out, int64_t out_stride_t, int64_t out_stride_b) {
    check(c);
    require(out, "out: must be given");
    if (c.dtype == float64)
        forward<double>(c, {writable<double>(out), out_stride_t, out_stride_b});
    else
        forward<float>(c, {writable<float>(out), out_stride_t, out_stride_b});
}

void run_convolution_backward(const Convolution& c, const ConvolutionGradients& g) {
    check(c);
    require(g.g, "g: must be given");
    require(!g.d_low || g.low_ptr, "d_low: needs low_ptr and low_idx");
    require(!g.d_input || g.kernel, "d_input: needs kernel");
    if (c.dtype == float64)
        backward<double>(c, g);
    else
        backward<float>(c, g);
}

}  // namespace sparse_backend

// Drivers between dense tensors and event lists: compress, scatter, gather, transpose.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "view.hpp"

namespace sparse_backend {
namespace {

// Kernels append in whole vectors, a little past the end.
constexpr int64_t slack = 16;

// A dense input [T, B, Nin] and the kernel that reads its rows. Byte inputs leave float values.
template <class Input>
struct DenseInput {
    typedef std::conditional_t<std::is_same_v<Input, uint8_t>, float, Input> Value;
    const Input* data;
    int64_t steps, batch, width, stride_t, stride_b;

    const Input* row(int64_t b, int64_t t) const { return data + t * stride_t + b * stride_b; }
    // Without val: -1 where an entry is not one.
    int64_t compress(int64_t b, int64_t t, int32_t* idx, Value* val) const {
        const Input* ahead = t + distance < steps && stride_t ? row(b, t + distance) : nullptr;
        if constexpr (std::is_same_v<Input, uint8_t>)
            return kernels().compress_bytes(row(b, t), ahead, width, idx, val);
        else
            return kernels_for<Input>().compress_row(row(b, t), ahead, width, idx, val);
    }
    static constexpr int64_t distance = 2;  // rows ahead that are prefetched
};

// Whether a sample of rows, spread over the tensor, is far denser than the limit: then reading the rest
// would be wasted. Fixed rows, so that the answer depends on the data alone.
template <class Input>
bool looks_dense(const DenseInput<Input>& x, double limit) {
    typedef typename DenseInput<Input>::Value Value;
    const int64_t rows = x.steps * x.batch, sampled = std::min<int64_t>(rows, 32);
    Buffer<int32_t> idx(x.width + slack);
    Buffer<Value> val(x.width + slack);
    int64_t count = 0;
    for (int64_t k = 0; k < sampled; ++k) {
        const int64_t row = rows * k / sampled + (rows / sampled) / 2;
        count += x.compress(row / x.steps, row % x.steps, idx.get(), val.get());
    }
    return double(count) > 2 * limit * double(sampled) * double(x.width);
}

// The events of a range of the batch. Values are kept from the first one that is not one.
template <class Input>
class CompressedRange {
  public:
    typedef typename DenseInput<Input>::Value Value;

    // Returns the number of events of batch element b.
    int64_t add(const DenseInput<Input>& x, int64_t b, int64_t* row_counts) {
        const int64_t before = count_;
        for (int64_t t = 0; t < x.steps; ++t) {
            idx_.reserve(count_ + x.width + slack, count_);
            if (valued_) val_.reserve(idx_.capacity(), count_);
            int64_t added = x.compress(b, t, idx_.get() + count_, valued_ ? val_.get() + count_ : nullptr);
            if (added < 0) {
                valued_ = true;
                val_.reserve(idx_.capacity());
                std::fill(val_.get(), val_.get() + count_, Value(1));
                added = x.compress(b, t, idx_.get() + count_, val_.get() + count_);
            }
            row_counts[b * x.steps + t] = added;
            count_ += added;
        }
        return count_ - before;
    }

    bool all_ones() const { return !valued_; }

    void finish(EventPieces::Piece& piece, bool with_values) {
        piece.idx.assign(idx_.get(), idx_.get() + count_);
        if (!with_values) return;
        piece.values.resize(size_t(count_) * sizeof(Value));
        Value* values = reinterpret_cast<Value*>(piece.values.data());
        if (valued_)
            std::copy(val_.get(), val_.get() + count_, values);
        else
            std::fill(values, values + count_, Value(1));
    }

  private:
    Buffer<int32_t> idx_;
    Buffer<Value> val_;
    int64_t count_ = 0;
    bool valued_ = false;
};

template <class Input>
std::unique_ptr<Compressed> compress_typed(const DenseInput<Input>& x, double limit, int64_t threads) {
    typedef typename DenseInput<Input>::Value Value;
    if (limit < 1 && looks_dense(x, limit)) return nullptr;
    auto result = std::make_unique<Compressed>();
    const int64_t ranges = std::min(threads, x.batch), rows = x.steps * x.batch;
    const double most = limit * double(rows) * double(x.width);
    result->value_dtype = std::is_same_v<Value, double> ? float64 : float32;
    result->entries = rows * x.width;
    EventPieces& events = result->events;
    events.pieces.resize(size_t(ranges));
    events.row_counts.resize(size_t(rows));
    std::vector<CompressedRange<Input>> parts(static_cast<size_t>(ranges));
    std::atomic<int64_t> total{0};
    ParallelErrors errors;
#pragma omp parallel for schedule(static, 1) num_threads(int(ranges))
    for (int64_t r = 0; r < ranges; ++r)
        errors.guard([&] {
            const int64_t to = x.batch * (r + 1) / ranges;
            for (int64_t b = x.batch * r / ranges; b < to; ++b) {
                const int64_t added = parts[size_t(r)].add(x, b, events.row_counts.data());
                // The total can only grow: past the limit the outcome is certain, whoever notices first.
                if (double(total += added) > most) break;
            }
        });
    errors.rethrow();
    if (double(total) > most) return nullptr;
    events.count = total;
    for (const CompressedRange<Input>& part : parts) result->all_ones = result->all_ones && part.all_ones();
    for (size_t r = 0; r < parts.size(); ++r) parts[r].finish(events.pieces[r], !result->all_ones);
    return result;
}

template <class Real>
void scatter_typed(const EventList<Real>& events, const Strided<Real>& out, int64_t steps, int64_t batch, int64_t width,
                   int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t t = 0; t < steps; ++t) {
            Real* to = out.data + t * out.stride_t + b * out.stride_b;
            std::fill(to, to + width, Real(0));
            const int64_t row = b * steps + t;
            for (int64_t e = events.ptr[row]; e < events.ptr[row + 1]; ++e)
                to[events.idx[e]] = events.val ? events.val[e] : Real(1);
        }
}

template <class Real>
void gather_typed(const EventList<Real>& events, const Strided<const Real>& source, int64_t steps, int64_t batch,
                  Real* out, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t t = 0; t < steps; ++t) {
            const Real* from = source.data + t * source.stride_t + b * source.stride_b;
            const int64_t row = b * steps + t;
            for (int64_t e = events.ptr[row]; e < events.ptr[row + 1]; ++e) out[e] = from[events.idx[e]];
        }
}

template <class Real>
void transpose_typed(const Real* source, Real* target, int64_t rows, int64_t columns, int64_t source_stride,
                     int64_t threads) {
    constexpr int64_t block = 64;
    const int64_t blocks = (columns + block - 1) / block, n = padded_width(rows);
#pragma omp parallel for schedule(static) num_threads(int(threads))
    for (int64_t k = 0; k < blocks; ++k) {
        const int64_t from = k * block, count = std::min(block, columns - from);
        kernels_for<Real>().transpose(source + from, source_stride, rows, count, target + from * n, n, n);
    }
}

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

}  // namespace

std::unique_ptr<Compressed> run_compress(int64_t x, int64_t steps, int64_t batch, int64_t inputs, int64_t stride_t,
                                         int64_t stride_b, int dtype, double limit, int64_t threads) {
    require(x && steps > 0 && batch > 0 && inputs > 0 && threads > 0,
            "compress: x, steps, batch, inputs and threads must be positive");
    switch (dtype) {
    case float32:
        return compress_typed<float>({address<float>(x), steps, batch, inputs, stride_t, stride_b}, limit, threads);
    case float64:
        return compress_typed<double>({address<double>(x), steps, batch, inputs, stride_t, stride_b}, limit, threads);
    case uint8:
    case boolean:
        return compress_typed<uint8_t>({address<uint8_t>(x), steps, batch, inputs, stride_t, stride_b}, limit, threads);
    }
    throw std::invalid_argument("dtype=" + std::to_string(dtype) + " must be FLOAT32, FLOAT64, UINT8 or BOOL");
}

void run_scatter(int64_t ptr, int64_t idx, int64_t val, int64_t steps, int64_t batch, int64_t width, int64_t out,
                 int64_t stride_t, int64_t stride_b, int dtype, int64_t threads) {
    require(ptr && out && threads > 0, "scatter: ptr, out and threads must be positive");
    if (dtype == float64)
        scatter_typed<double>({address<int64_t>(ptr), address<int32_t>(idx), address<double>(val)},
                              {writable<double>(out), stride_t, stride_b}, steps, batch, width, threads);
    else
        scatter_typed<float>({address<int64_t>(ptr), address<int32_t>(idx), address<float>(val)},
                             {writable<float>(out), stride_t, stride_b}, steps, batch, width, threads);
}

void run_gather(int64_t ptr, int64_t idx, int64_t steps, int64_t batch, int64_t source, int64_t stride_t,
                int64_t stride_b, int64_t out, int dtype, int64_t threads) {
    require(ptr && source && threads > 0, "gather: ptr, source and threads must be positive");
    if (dtype == float64)
        gather_typed<double>({address<int64_t>(ptr), address<int32_t>(idx), nullptr},
                             {address<double>(source), stride_t, stride_b}, steps, batch, writable<double>(out),
                             threads);
    else
        gather_typed<float>({address<int64_t>(ptr), address<int32_t>(idx), nullptr},
                            {address<float>(source), stride_t, stride_b}, steps, batch, writable<float>(out), threads);
}

void run_transpose(int64_t source, int64_t target, int64_t rows, int64_t columns, int64_t source_stride, int dtype,
                   int64_t threads) {
    require(source && target && rows > 0 && columns > 0 && threads > 0,
            "transpose_weight: src, dst, width, inputs and threads must be positive");
    if (dtype == float64)
        transpose_typed(address<double>(source), writable<double>(target), rows, columns, source_stride, threads);
    else
        transpose_typed(address<float>(source), writable<float>(target), rows, columns, source_stride, threads);
}

}  // namespace sparse_backend

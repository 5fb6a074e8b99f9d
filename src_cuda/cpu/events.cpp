// Drivers between dense tensors and event lists: compress, scatter, gather, transpose.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <type_traits>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "view.hpp"

namespace sparse_backend {
namespace {

// Evenly spaced rows of a dense input.
template <class Input>
struct EvenRows {
    const Input* first;
    int64_t stride, count;
};

// A dense input [T, B, Nin], its rows in the order of memory. Byte inputs leave float values.
template <class Input>
class DenseInput {
  public:
    typedef std::conditional_t<std::is_same_v<Input, uint8_t>, float, Input> Value;

    DenseInput(int64_t address, int64_t steps, int64_t batch, int64_t width, int64_t stride_t, int64_t stride_b)
        : width(width),
          visits{steps, batch, 1, stride_t >= stride_b ? batch : 1},
          data_(sparse_backend::address<Input>(address)),
          inner_(stride_t >= stride_b ? batch : steps),
          inner_stride_(stride_t >= stride_b ? stride_b : stride_t),
          outer_stride_(stride_t >= stride_b ? stride_t : stride_b) {}

    // Rows from a visit on, no more than `most`.
    EvenRows<Input> rows(int64_t visit, int64_t most) const {
        const int64_t outer = visit / inner_, inner = visit % inner_;
        const bool even = outer_stride_ == inner_ * inner_stride_;
        return {data_ + outer * outer_stride_ + inner * inner_stride_, inner_stride_,
                even ? most : std::min(most, inner_ - inner)};
    }

    // Without val: -1 where an entry is not one.
    int64_t compress(const EvenRows<Input>& rows, int32_t* idx, Value* val, int32_t* counts) const {
        if constexpr (std::is_same_v<Input, uint8_t>)
            return kernels().compress_bytes(rows.first, rows.stride, rows.count, width, idx, val, counts);
        else
            return kernels_for<Input>().compress_rows(rows.first, rows.stride, rows.count, width, idx, val, counts);
    }

    const int64_t width;
    const Visits visits;

  private:
    const Input* data_;
    int64_t inner_, inner_stride_, outer_stride_;
};

// The events of a range of visits. Values are kept from the first one that is not one.
template <class Input>
class CompressedRange {
  public:
    typedef typename DenseInput<Input>::Value Value;

    CompressedRange(EventPiece& piece, int64_t from, int64_t room) : piece_(piece) {
        piece.first = from;
        piece.idx.reserve(room);
    }

    // Returns the number of events added.
    int64_t add(const DenseInput<Input>& x, const EvenRows<Input>& rows, int32_t* counts) {
        make_room(rows.count * x.width);
        int64_t added = x.compress(rows, next_idx(), valued_ ? next_value() : nullptr, counts);
        if (added < 0) {
            valued_ = true;
            piece_.values.reserve(size(piece_.idx.capacity()));
            piece_.fill(Value(1));
            added = x.compress(rows, next_idx(), next_value(), counts);
        }
        piece_.count += added;
        return added;
    }

    bool all_ones() const { return !valued_; }

  private:
    static int64_t size(int64_t count) { return count * int64_t(sizeof(Value)); }
    int32_t* next_idx() const { return piece_.idx.get() + piece_.count; }
    Value* next_value() const { return reinterpret_cast<Value*>(piece_.values.get()) + piece_.count; }
    void make_room(int64_t entries) {
        const int64_t needed = piece_.count + entries + append_room;
        piece_.idx.reserve(needed, piece_.count);
        if (valued_) piece_.values.reserve(size(piece_.idx.capacity()), size(piece_.count));
    }

    EventPiece& piece_;
    bool valued_ = false;
};

// The density of a sample of rows, spread over the tensor. Fixed rows, so that the answer depends on the data alone.
template <class Input>
double sample_density(const DenseInput<Input>& x) {
    typedef typename DenseInput<Input>::Value Value;
    const int64_t rows = x.visits.rows(), sampled = std::min<int64_t>(rows, 32);
    Buffer<int32_t> idx(x.width + append_room);
    Buffer<Value> val(x.width + append_room);
    int64_t count = 0;
    for (int64_t k = 0; k < sampled; ++k) {
        int32_t found;
        count += x.compress(x.rows(rows * k / sampled + (rows / sampled) / 2, 1), idx.get(), val.get(), &found);
    }
    return double(count) / (double(sampled) * double(x.width));
}

template <class Input>
std::unique_ptr<Compressed> compress_typed(const DenseInput<Input>& x, double limit, int64_t threads) {
    typedef typename DenseInput<Input>::Value Value;
    constexpr int64_t chunk = 32768;  // entries between two looks at the limit
    const double density = sample_density(x);
    // Far above the limit reading the rest would be wasted.
    if (limit < 1 && density > 2 * limit) return nullptr;
    auto result = std::make_unique<Compressed>();
    const int64_t rows = x.visits.rows(), ranges = std::min(threads, rows);
    const double most = limit * double(rows) * double(x.width);
    result->value_dtype = std::is_same_v<Value, double> ? float64 : float32;
    result->entries = rows * x.width;
    result->threads = threads;
    EventPieces& events = result->events;
    events.prepare(x.visits, ranges);
    std::vector<char> all_ones(size_t(ranges), true);
    std::atomic<int64_t> total{0};
    ParallelErrors errors;
#pragma omp parallel for schedule(static, 1) num_threads(int(ranges))
    for (int64_t r = 0; r < ranges; ++r)
        errors.guard([&] {
            const int64_t from = rows * r / ranges, to = rows * (r + 1) / ranges;
            const int64_t room = int64_t(1.1 * density * double((to - from) * x.width));
            CompressedRange<Input> range(events.pieces[size_t(r)], from, room);
            for (int64_t visit = from; visit < to;) {
                const EvenRows<Input> part = x.rows(visit, std::min(to - visit, std::max(chunk / x.width, int64_t(1))));
                total += range.add(x, part, events.counts() + visit);
                visit += part.count;
                // The total can only grow: past the limit the outcome is certain, whoever notices first.
                if (double(total) > most) break;
            }
            all_ones[size_t(r)] = range.all_ones();
        });
    errors.rethrow();
    if (double(total) > most) return nullptr;
    result->all_ones = std::count(all_ones.begin(), all_ones.end(), false) == 0;
    for (int64_t r = 0; r < ranges && !result->all_ones; ++r)
        if (all_ones[size_t(r)]) events.pieces[size_t(r)].fill(Value(1));
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
    case float32: return compress_typed<float>({x, steps, batch, inputs, stride_t, stride_b}, limit, threads);
    case float64: return compress_typed<double>({x, steps, batch, inputs, stride_t, stride_b}, limit, threads);
    case uint8:
    case boolean: return compress_typed<uint8_t>({x, steps, batch, inputs, stride_t, stride_b}, limit, threads);
    }
    throw std::invalid_argument("dtype=" + std::to_string(dtype) + " must be FLOAT32, FLOAT64, UINT8 or BOOL");
}

void Compressed::write(int64_t ptr, int64_t idx, int64_t val) const {
    require(ptr, "write: ptr must be given");
    const int64_t size = value_dtype == float64 ? 8 : 4;
    events.write(writable<int64_t>(ptr), {EventTarget::idx(idx), EventTarget::values(size, all_ones ? 0 : val)},
                 threads);
    if (val && all_ones && value_dtype == float64) std::fill_n(writable<double>(val), events.total(), 1.0);
    if (val && all_ones && value_dtype == float32) std::fill_n(writable<float>(val), events.total(), 1.0f);
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

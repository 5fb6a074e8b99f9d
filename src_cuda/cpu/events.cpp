// Drivers between dense tensors and event lists: compress, scatter, gather, transpose.
#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "growing_piece.hpp"
#include "view.hpp"

namespace sparse_backend {
namespace {

// A dense input [T, B, Nin].
template <class Input>
struct DenseInput {
    const Input* data;
    int64_t steps, batch, width, stride_t, stride_b;

    const Input* row(int64_t t, int64_t b) const { return data + t * stride_t + b * stride_b; }
};

// The density of a sample of rows, spread over the tensor. Fixed rows, so that the answer depends on the data alone.
template <class Input>
double sample_density(const DenseInput<Input>& x) {
    typedef EventValue<Input> Value;
    const int64_t rows = x.steps * x.batch, sampled = std::min<int64_t>(rows, 32);
    const Buffer<int32_t> idx(x.width + append_room);
    const Buffer<Value> val(x.width + append_room);
    int64_t count = 0;
    for (int64_t k = 0; k < sampled; ++k) {
        const int64_t row = rows * k / sampled + (rows / sampled) / 2;
        int32_t found;
        count += compress_rows<Input>({x.row(row / x.batch, row % x.batch), 0, 1, x.data}, x.width, idx.get(),
                                      val.get(), &found);
    }
    return double(count) / (double(sampled) * double(x.width));
}

// Reads a dense input in the order of its memory, and stops when it has found too much.
template <class Input>
class Reader {
  public:
    // most: events.
    Reader(const DenseInput<Input>& x, double density, double most) : x_(x), density_(density), most_(most) {}

    // Steps t .. t + steps - 1 of all chunks, a piece of each; and all of one.
    void read_steps(const Chunks& chunks, int64_t t, int64_t steps, std::vector<EventPiece>& results);
    void read_chunk(const Chunk& chunk, EventPiece& result);

    // The total can only grow: past the limit the outcome is certain, whoever notices first.
    bool stopped() const { return double(total_) > most_; }

  private:
    static constexpr int64_t at_once = 32768;  // entries between two looks at the limit

    GrowingPiece<Input> start(int64_t t, int64_t steps, int64_t elements) const {
        const int64_t rows = steps * elements;
        return {t, rows, int64_t(1.1 * density_ * double(rows * x_.width))};
    }

    const DenseInput<Input> x_;
    const double density_, most_;
    std::atomic<int64_t> total_{0};
};

template <class Input>
void Reader<Input>::read_steps(const Chunks& chunks, int64_t t, int64_t steps, std::vector<EventPiece>& results) {
    std::vector<GrowingPiece<Input>> found;
    for (int64_t k = 0; k < chunks.count(); ++k) found.push_back(start(t, steps, chunks[k].elements));
    for (const int64_t end = t + steps; t < end; ++t)
        for (int64_t k = 0; k < chunks.count(); ++k) {
            const Chunk chunk = chunks[k], then = chunks[(k + 1) % chunks.count()];
            const Input* next = x_.row(t + (then.b == 0), then.b);
            total_ += found[size_t(k)].add({x_.row(t, chunk.b), x_.stride_b, chunk.elements, next}, x_.width);
            if (stopped()) return;
        }
    for (int64_t k = 0; k < chunks.count(); ++k) results.push_back(found[size_t(k)].finish(steps));
}

template <class Input>
void Reader<Input>::read_chunk(const Chunk& chunk, EventPiece& result) {
    GrowingPiece<Input> found = start(0, chunk.steps, 1);
    const int64_t most = std::max(at_once / x_.width, int64_t(1));
    for (int64_t t = 0; t < chunk.steps; t += most) {
        const int64_t rows = std::min(most, chunk.steps - t);
        const Input* first = x_.row(chunk.t + t, chunk.b);
        total_ += found.add({first, x_.stride_t, rows, first + rows * x_.stride_t}, x_.width);
        if (stopped()) return;
    }
    result = found.finish(chunk.steps);
}

// Several batch elements that lie together at each step: read in stretches of time, one per thread, and collected in
// chunks of elements.
template <class Input>
void compress_by_step(const DenseInput<Input>& x, Reader<Input>& reader, int64_t threads, CollectedEvents& list) {
    constexpr int64_t most_elements = 32;
    const int64_t stretches = std::min(threads, x.steps);
    const int64_t elements = std::clamp(x.batch / (2 * threads), int64_t(1), most_elements);
    const Chunks chunks(x.batch, x.steps, elements);
    list.prepare(chunks, stretches, Order::by_step, sizeof(EventValue<Input>));
    std::vector<std::vector<EventPiece>> found(static_cast<size_t>(stretches));
    const int64_t count = chunks.count();
    ParallelErrors errors;
#pragma omp parallel num_threads(int(threads))
    {
#pragma omp for schedule(static, 1)
        for (int64_t k = 0; k < stretches; ++k)
            errors.guard([&] {
                const int64_t t = x.steps * k / stretches, end = x.steps * (k + 1) / stretches;
                reader.read_steps(chunks, t, end - t, found[size_t(k)]);
            });
#pragma omp for schedule(dynamic, 1)
        for (int64_t k = 0; k < count; ++k)
            errors.guard([&] {
                for (int64_t s = 0; s < stretches && !reader.stopped(); ++s)
                    list.add(k, s, std::move(found[size_t(s)].at(size_t(k))));
            });
    }
    errors.rethrow();
}

// Batch elements one after the other, or stretches of them.
template <class Input>
void compress_by_element(const DenseInput<Input>& x, Reader<Input>& reader, int64_t threads, CollectedEvents& list) {
    constexpr int64_t least_entries = 32768;
    const int64_t parts = (4 * threads + x.batch - 1) / x.batch, least = (least_entries + x.width - 1) / x.width;
    const int64_t stretch = std::clamp((x.steps + parts - 1) / parts, std::min(least, x.steps), x.steps);
    const Chunks chunks(x.batch, x.steps, 1, stretch);
    list.prepare(chunks, 1, Order::by_element, sizeof(EventValue<Input>));
    const int64_t count = chunks.count();
    ParallelErrors errors;
#pragma omp parallel for schedule(dynamic, 1) num_threads(int(std::min(threads, count)))
    for (int64_t k = 0; k < count; ++k)
        errors.guard([&] {
            EventPiece piece;
            if (!reader.stopped()) reader.read_chunk(chunks[k], piece);
            if (!reader.stopped()) list.add(k, 0, std::move(piece));
        });
    errors.rethrow();
}

template <class Input>
std::unique_ptr<CollectedEvents> compress_typed(const DenseInput<Input>& x, double limit, int64_t threads) {
    const double density = sample_density(x);
    // Far above the limit reading the rest would be wasted.
    if (limit < 1 && density > 2 * limit) return nullptr;
    auto list = std::make_unique<CollectedEvents>();
    Reader<Input> reader(x, density, limit * double(x.steps * x.batch) * double(x.width));
    if (x.batch > 1 && x.stride_t >= x.stride_b)
        compress_by_step(x, reader, threads, *list);
    else
        compress_by_element(x, reader, threads, *list);
    if (reader.stopped()) list.reset();
    return list;
}

template <class Real>
void scatter_typed(const EventList<Real>& events, const Strided<Real>& out, int64_t steps, int64_t batch, int64_t width,
                   int64_t threads) {
    // Narrow rows that lie one after the other are zeroed as one; most of them have no event.
    constexpr int64_t narrow = 32;
    const bool by_step = out.stride_b == width && width <= narrow;
#pragma omp parallel num_threads(int(threads))
    {
        if (by_step)
#pragma omp for schedule(static)
            for (int64_t t = 0; t < steps; ++t) std::fill_n(out.data + t * out.stride_t, batch * width, Real(0));
#pragma omp for schedule(static)
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t t = 0; t < steps; ++t) {
                Real* to = out.data + t * out.stride_t + b * out.stride_b;
                if (!by_step) std::fill_n(to, width, Real(0));
                const int64_t row = b * steps + t;
                for (int64_t e = events.ptr[row]; e < events.ptr[row + 1]; ++e)
                    to[events.idx[e]] = events.val ? events.val[e] : Real(1);
            }
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

std::unique_ptr<CollectedEvents> run_compress(int64_t x, int64_t steps, int64_t batch, int64_t inputs, int64_t stride_t,
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

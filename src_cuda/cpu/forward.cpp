// Driver of the forward scan: contiguous ranges of the batch, one per thread.
#include <algorithm>
#include <stdexcept>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace sparse_backend {

void EventPieces::write_ptr(int64_t* ptr) const {
    int64_t total = 0;
    for (size_t row = 0; row < row_counts.size(); ++row) {
        ptr[row] = total;
        total += row_counts[row];
    }
    ptr[row_counts.size()] = total;
}

namespace {

template <class Out, class Member>
void concatenate(const EventPieces& events, Out* out, Member member) {
    for (const EventPieces::Piece& piece : events.pieces)
        out = std::copy(member(piece).begin(), member(piece).end(), out);
}

template <class T>
void assign(std::vector<char>& bytes, const T* values, int64_t count) {
    const char* begin = reinterpret_cast<const char*>(values);
    bytes.assign(begin, begin + size_t(count) * sizeof(T));
}

// Kernels append in whole vectors, a little past the end.
constexpr int64_t slack = 16;

// One list of events while it grows.
template <class Real>
struct GrowingList {
    Buffer<int32_t> idx;
    Buffer<Real> values, extras;

    void make_room(EventSink& sink, int64_t width, bool with_values, int64_t extra_count) {
        const int64_t needed = sink.count + width + slack;
        idx.reserve(needed, sink.count);
        if (with_values) values.reserve(idx.capacity(), sink.count);
        if (extra_count) extras.reserve(idx.capacity() * extra_count, sink.count * extra_count);
        sink.idx = idx.get();
        sink.capacity = idx.capacity();
    }

    void finish(const EventSink& sink, EventPieces::Piece& piece, bool with_values, int64_t extra_count) {
        piece.idx.assign(idx.get(), idx.get() + sink.count);
        if (with_values) assign(piece.values, values.get(), sink.count);
        if (extra_count) assign(piece.extras, extras.get(), sink.count * extra_count);
    }
};

template <class Real>
void scan_range(const LayerView<Real>& view, int64_t from, int64_t to, size_t piece, ForwardResult& result) {
    ForwardScratch<Real> scratch(view);
    ForwardCursor<Real>& cursor = scratch.cursor;
    GrowingList<Real> spikes, active, resets;
    // Room for one entry in sixteen at first; doubling does the rest.
    const int64_t start = view.width + (to - from) * view.steps * view.width / 16;
    if (view.want_spikes) spikes.idx.reserve(start);
    if (view.want_active) active.idx.reserve(start);
    cursor.spike_sink.row_counts = result.spikes.row_counts.data();
    cursor.active_sink.row_counts = result.active.row_counts.data();
    cursor.reset_sink.row_counts = result.resets.row_counts.data();
    for (int64_t b = from; b < to; ++b) {
        cursor.b = b;
        cursor.t = 0;
        do {
            if (view.want_spikes) spikes.make_room(cursor.spike_sink, view.width, false, 0);
            if (view.want_resets) resets.make_room(cursor.reset_sink, view.width, false, 0);
            if (view.want_active) active.make_room(cursor.active_sink, view.width, true, view.carrier_count);
            cursor.active_u = active.values.get();
            cursor.active_carriers = active.extras.get();
        } while (!kernels_for<Real>().forward(view, cursor));
    }
    if (view.want_spikes) spikes.finish(cursor.spike_sink, result.spikes.pieces[piece], false, 0);
    if (view.want_resets) resets.finish(cursor.reset_sink, result.resets.pieces[piece], false, 0);
    if (view.want_active) active.finish(cursor.active_sink, result.active.pieces[piece], true, view.carrier_count);
}

template <class Real>
std::unique_ptr<ForwardResult> forward_typed(const Layer& layer) {
    check_input(layer);
    const TypedLayer<Real> typed(layer);
    const LayerView<Real>& view = typed.view;
    auto result = std::make_unique<ForwardResult>();
    const int64_t ranges = std::min(layer.threads, view.batch), rows = view.batch * view.steps;
    result->dtype = layer.dtype;
    result->graded.assign(view.coefficients.graded, view.coefficients.graded + view.width);
    const auto prepare = [&](EventPieces& events, bool wanted) {
        events.pieces.resize(size_t(ranges));
        if (wanted) events.row_counts.resize(size_t(rows));
    };
    prepare(result->spikes, view.want_spikes);
    prepare(result->active, view.want_active);
    prepare(result->resets, view.want_resets);
    ParallelErrors errors;
#pragma omp parallel for schedule(static, 1) num_threads(int(ranges))
    for (int64_t r = 0; r < ranges; ++r)
        errors.guard(
            [&] { scan_range(view, view.batch * r / ranges, view.batch * (r + 1) / ranges, size_t(r), *result); });
    errors.rethrow();
    for (EventPieces* events : {&result->spikes, &result->active, &result->resets})
        for (const EventPieces::Piece& piece : events->pieces) events->count += int64_t(piece.idx.size());
    return result;
}

}  // namespace

void EventPieces::write_idx(int32_t* idx) const {
    concatenate(*this, idx, [](const Piece& piece) -> const std::vector<int32_t>& { return piece.idx; });
}

void EventPieces::write_values(void* values) const {
    concatenate(*this, static_cast<char*>(values),
                [](const Piece& piece) -> const std::vector<char>& { return piece.values; });
}

void EventPieces::write_extras(void* extras) const {
    concatenate(*this, static_cast<char*>(extras),
                [](const Piece& piece) -> const std::vector<char>& { return piece.extras; });
}

std::unique_ptr<ForwardResult> run_forward(const Layer& layer) {
    if (layer.carriers && !layer.want_active)
        throw std::invalid_argument("carriers=" + std::to_string(layer.carriers) + " needs want_active");
    return layer.dtype == float64 ? forward_typed<double>(layer) : forward_typed<float>(layer);
}

}  // namespace sparse_backend

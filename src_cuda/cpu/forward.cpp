// Driver of the forward scan: contiguous ranges of strips, one per thread.
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace sparse_backend {

namespace {

// The work in strips: some neurons of some batch elements, through all time steps. A wide layer is cut into tiles of
// neurons; of a narrow one several elements lie together in a row. Strips are numbered tile by tile, so that a thread
// stays with one tile's weights. The results do not depend on how strips are cut.
struct Strips {
    int64_t width, tile, batch, together;

    int64_t tiles() const { return (width + tile - 1) / tile; }
    int64_t groups() const { return (batch + together - 1) / together; }
    int64_t count() const { return tiles() * groups(); }
};

// Whether a row of several batch elements is one in the memory of all dense arrays.
bool side_by_side(const Layer& layer) {
    return (!layer.current || layer.current_stride_b == layer.width) &&
           (!layer.spikes || layer.spikes_stride_b == layer.width) &&
           (!layer.membrane_out || layer.membrane_stride_b == layer.width);
}

// Wide tiles read the events less often; narrower ones keep their rows of W^T in L2 (about cache_size) while the batch
// passes. Narrow rows waste a part of their vectors, and as parts of lines that lie a whole step apart they are slow to
// write. All threads are to have some strips.
Strips choose_strips(const Layer& layer) {
    constexpr int64_t cache_size = int64_t(1) << 20, narrowest = 64, narrowest_for_cache = 128, strips_per_thread = 4;
    constexpr int64_t row_of_several = 640;
    const int64_t size = layer.dtype == float64 ? 8 : 4, neuron_bytes = layer.current ? 0 : layer.inputs * size;
    const int64_t enough = strips_per_thread * layer.threads;
    Strips strips = {layer.width, padded_width(layer.width), layer.batch, 1};
    while ((strips.tile > narrowest_for_cache && strips.tile * neuron_bytes > cache_size) ||
           (strips.tile > narrowest && strips.count() < enough))
        strips.tile = (strips.tile / 2 + narrowest - 1) / narrowest * narrowest;
    while (side_by_side(layer) && strips.tile <= narrowest && strips.tiles() == 1 &&
           2 * strips.together * layer.width <= row_of_several && strips.together < Visits::most_together &&
           strips.count() >= 2 * enough)
        strips.together *= 2;
    return strips;
}

// One of a thread's lists while it grows.
template <class Real>
class GrowingList {
  public:
    // room: for how many events at first.
    GrowingList(bool wanted, EventPieces& events, size_t piece, int64_t first_visit, int64_t room)
        : wanted_(wanted), events_(events), piece_(wanted ? &events.pieces[piece] : nullptr) {
        sink.last = std::numeric_limits<int64_t>::max();
        if (!wanted) return;
        piece_->first = first_visit;
        piece_->idx.reserve(room);
    }

    // values and extras: how many there are of an event.
    void make_room(int64_t width, int64_t values, int64_t extras) {
        if (!wanted_) return;
        piece_->idx.reserve(sink.count + width + append_room, sink.count);
        const int64_t capacity = piece_->idx.capacity();
        piece_->values.reserve(bytes(capacity * values), bytes(sink.count * values));
        piece_->extras.reserve(bytes(capacity * extras), bytes(sink.count * extras));
        sink.idx = piece_->idx.get();
        sink.last = capacity - width - append_room;
    }
    void start_strip(int64_t visit) {
        if (wanted_) sink.row_counts = events_.counts() + visit;
    }
    void finish() const {
        if (wanted_) piece_->count = sink.count;
    }
    Real* values() const { return wanted_ ? reinterpret_cast<Real*>(piece_->values.get()) : nullptr; }
    Real* extras() const { return wanted_ ? reinterpret_cast<Real*>(piece_->extras.get()) : nullptr; }

    EventSink sink = {};

  private:
    static int64_t bytes(int64_t count) { return count * int64_t(sizeof(Real)); }

    bool wanted_;
    EventPieces& events_;
    EventPiece* piece_;
};

// The strips of one thread and the events that they leave.
template <class Real>
class StripRange {
  public:
    // rows: how many rows of neurons there are from visit `first` on, of about `width` neurons each.
    StripRange(const LayerView<Real>& view, ForwardResult& result, size_t piece, int64_t first, int64_t rows,
               int64_t width)
        : next_visit_(first),
          room_(width + rows * width / 16),  // one entry in sixteen; doubling does the rest
          spikes_(view.want_spikes, result.spikes, piece, next_visit_, room_),
          active_(view.want_active, result.active, piece, next_visit_, room_),
          resets_(view.want_resets, result.resets, piece, next_visit_, room_) {}

    // Batch elements from .. to - 1 of a view, in rows of as many as it has together.
    void scan(const LayerView<Real>& view, int64_t from, int64_t to) {
        ForwardScratch<Real> scratch(view);
        ForwardCursor<Real>& cursor = scratch.cursor;
        for (cursor.b = from; cursor.b < to; cursor.b += view.together) {
            for (GrowingList<Real>* list : {&spikes_, &active_, &resets_}) list->start_strip(next_visit_);
            cursor.t = 0;
            while (!advance(view, cursor)) continue;
            next_visit_ += view.steps * view.together;
        }
    }
    void finish() const {
        for (const GrowingList<Real>* list : {&spikes_, &active_, &resets_}) list->finish();
    }

  private:
    // Until the sequence ends or a list is full.
    bool advance(const LayerView<Real>& tile, ForwardCursor<Real>& cursor) {
        spikes_.make_room(tile.width, 0, 0);
        active_.make_room(tile.width, 1, tile.carrier_count);
        resets_.make_room(tile.width, 0, 0);
        cursor.spike_sink = spikes_.sink;
        cursor.active_sink = active_.sink;
        cursor.reset_sink = resets_.sink;
        cursor.active_u = active_.values();
        cursor.active_carriers = active_.extras();
        const bool done = kernels_for<Real>().forward(tile, cursor);
        spikes_.sink = cursor.spike_sink;
        active_.sink = cursor.active_sink;
        resets_.sink = cursor.reset_sink;
        return done;
    }

    int64_t next_visit_, room_;
    GrowingList<Real> spikes_, active_, resets_;
};

// Strips from .. to - 1.
template <class Real>
void scan_strips(const TypedLayer<Real>& typed, const Strips& strips, ForwardResult& result, size_t piece, int64_t from,
                 int64_t to) {
    const LayerView<Real>& view = typed.view;
    const int64_t steps = view.steps, batch = view.batch, together = strips.together, groups = strips.groups();
    const auto element = [&](int64_t group) { return std::min(group * together, batch); };
    const int64_t first_visit = (from / groups * batch + element(from % groups)) * steps;
    StripRange<Real> range(view, result, piece, first_visit, (to - from) * steps * together,
                           std::min(strips.tile, view.columns));
    for (int64_t strip = from; strip < to;) {
        const int64_t k = strip / groups, first = k * strips.tile, end = std::min(to, (k + 1) * groups);
        const int64_t b = element(strip - k * groups), last = element(end - k * groups), rest = (last - b) % together;
        if (together == 1) {
            range.scan(typed.tile(first, std::min(strips.tile, view.width - first)), b, last);
        } else {
            range.scan(view, b, last - rest);
            if (rest) range.scan(typed.with_together(rest), last - rest, last);
        }
        strip = end;
    }
    range.finish();
}

template <class Real>
std::unique_ptr<ForwardResult> forward_typed(const Layer& layer) {
    check_layer(layer);
    check_input(layer);
    const Strips strips = choose_strips(layer);
    const TypedLayer<Real> typed(layer, strips.together);
    const LayerView<Real>& view = typed.view;
    const int64_t ranges = std::min(layer.threads, strips.count());
    auto result = std::make_unique<ForwardResult>();
    result->dtype = layer.dtype;
    result->threads = layer.threads;
    result->carrier_count = view.carrier_count;
    result->graded.assign(view.coefficients.graded, view.coefficients.graded + view.columns);
    const Visits visits = {view.steps, view.batch, strips.tiles(), strips.together};
    if (view.want_spikes) result->spikes.prepare(visits, ranges);
    if (view.want_active) result->active.prepare(visits, ranges);
    if (view.want_resets) result->resets.prepare(visits, ranges);
    ParallelErrors errors;
#pragma omp parallel for schedule(static, 1) num_threads(int(ranges))
    for (int64_t r = 0; r < ranges; ++r)
        errors.guard([&] {
            scan_strips(typed, strips, *result, size_t(r), strips.count() * r / ranges,
                        strips.count() * (r + 1) / ranges);
        });
    errors.rethrow();
    return result;
}

// The values of spikes: graded, per neuron.
template <class Real>
void fill_spike_values(const ForwardResult& result, const int32_t* idx, Real* val, int64_t from, int64_t to) {
    for (int64_t e = from; e < to; ++e) val[e] = Real(result.graded[size_t(idx[e])]);
}

}  // namespace

void ForwardResult::write_spikes(int64_t ptr, int64_t idx, int64_t val) const {
    const auto finish = [&](int64_t from, int64_t to) {
        if (val && dtype == float64)
            fill_spike_values(*this, address<int32_t>(idx), writable<double>(val), from, to);
        else if (val)
            fill_spike_values(*this, address<int32_t>(idx), writable<float>(val), from, to);
    };
    spikes.write(writable<int64_t>(ptr), {EventTarget::idx(idx)}, threads, finish);
}

void ForwardResult::write_active(int64_t ptr, int64_t idx, int64_t u, int64_t carriers) const {
    const int64_t size = dtype == float64 ? 8 : 4;
    active.write(
        writable<int64_t>(ptr),
        {EventTarget::idx(idx), EventTarget::values(size, u), EventTarget::extras(size * carrier_count, carriers)},
        threads);
}

void ForwardResult::write_resets(int64_t ptr, int64_t idx) const {
    resets.write(writable<int64_t>(ptr), {EventTarget::idx(idx)}, threads);
}

std::unique_ptr<ForwardResult> run_forward(const Layer& layer) {
    if (layer.carriers && !layer.want_active)
        throw std::invalid_argument("carriers=" + std::to_string(layer.carriers) + " needs want_active");
    return layer.dtype == float64 ? forward_typed<double>(layer) : forward_typed<float>(layer);
}

}  // namespace sparse_backend

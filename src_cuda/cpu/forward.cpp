// Driver of the forward scan: contiguous ranges of strips, one per thread.
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace sparse_backend {

namespace {

// The neurons in tiles, and the work in strips: a tile of one batch element, through all time steps. Strips are
// numbered tile by tile, so that a thread stays with one tile's weights. A strip's results do not depend on how tiles
// are cut.
struct Tiling {
    int64_t width, tile, batch;

    int64_t tiles() const { return (width + tile - 1) / tile; }
    int64_t strips() const { return tiles() * batch; }
};

// Wide tiles read the events less often; narrower ones keep their rows of W^T in L2 (about cache_size) while the batch
// passes, and give every thread some strips.
template <class Real>
Tiling choose_tiling(const LayerView<Real>& view, int64_t threads) {
    constexpr int64_t cache_size = int64_t(1) << 20, narrowest = 64, narrowest_for_cache = 128, strips_per_thread = 4;
    const int64_t neuron_bytes = view.current.data ? 0 : view.inputs * int64_t(sizeof(Real));
    Tiling tiling = {view.width, view.padded, view.batch};
    while ((tiling.tile > narrowest_for_cache && tiling.tile * neuron_bytes > cache_size) ||
           (tiling.tile > narrowest && tiling.strips() < strips_per_thread * threads))
        tiling.tile = (tiling.tile / 2 + narrowest - 1) / narrowest * narrowest;
    return tiling;
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
    void start_element(int64_t visit) {
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
    // `count` strips from `first` on.
    StripRange(const LayerView<Real>& view, ForwardResult& result, size_t piece, int64_t first, int64_t count,
               int64_t tile)
        : next_visit_(first * view.steps),
          room_(tile + count * view.steps * tile / 16),  // one entry in sixteen; doubling does the rest
          spikes_(view.want_spikes, result.spikes, piece, next_visit_, room_),
          active_(view.want_active, result.active, piece, next_visit_, room_),
          resets_(view.want_resets, result.resets, piece, next_visit_, room_) {}

    // Batch elements from .. to - 1 of a tile.
    void scan(const LayerView<Real>& tile, int64_t from, int64_t to) {
        ForwardScratch<Real> scratch(tile);
        ForwardCursor<Real>& cursor = scratch.cursor;
        for (cursor.b = from; cursor.b < to; ++cursor.b) {
            for (GrowingList<Real>* list : {&spikes_, &active_, &resets_}) list->start_element(next_visit_);
            cursor.t = 0;
            while (!advance(tile, cursor)) continue;
            next_visit_ += tile.steps;
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

template <class Real>
std::unique_ptr<ForwardResult> forward_typed(const Layer& layer) {
    check_input(layer);
    const TypedLayer<Real> typed(layer);
    const LayerView<Real>& view = typed.view;
    const Tiling tiling = choose_tiling(view, layer.threads);
    const int64_t ranges = std::min(layer.threads, tiling.strips());
    auto result = std::make_unique<ForwardResult>();
    result->dtype = layer.dtype;
    result->threads = layer.threads;
    result->carrier_count = view.carrier_count;
    result->graded.assign(view.coefficients.graded, view.coefficients.graded + view.width);
    result->threshold.assign(view.coefficients.threshold, view.coefficients.threshold + view.width);
    const Visits visits = {view.steps, view.batch, tiling.tiles()};
    if (view.want_spikes) result->spikes.prepare(visits, ranges);
    if (view.want_active) result->active.prepare(visits, ranges);
    if (view.want_resets) result->resets.prepare(visits, ranges);
    ParallelErrors errors;
#pragma omp parallel for schedule(static, 1) num_threads(int(ranges))
    for (int64_t r = 0; r < ranges; ++r)
        errors.guard([&] {
            const int64_t from = tiling.strips() * r / ranges, to = tiling.strips() * (r + 1) / ranges;
            StripRange<Real> range(view, *result, size_t(r), from, to - from, tiling.tile);
            for (int64_t strip = from; strip < to;) {
                const int64_t k = strip / view.batch, first = k * tiling.tile;
                const int64_t end = std::min(to, (k + 1) * view.batch);
                range.scan(typed.tile(first, std::min(tiling.tile, view.width - first)), strip - k * view.batch,
                           end - k * view.batch);
                strip = end;
            }
            range.finish();
        });
    errors.rethrow();
    return result;
}

template <class Real>
void fill_spike_values(const ForwardResult& result, const int32_t* idx, Real* val) {
    const int64_t count = result.spikes.total();
#pragma omp parallel for schedule(static) num_threads(int(result.threads))
    for (int64_t e = 0; e < count; ++e) val[e] = Real(result.graded[size_t(idx[e])]);
}

template <class Real>
void fill_outputs(const ForwardResult& result, const int32_t* idx, const Real* u, Real* z) {
    const int64_t count = result.active.total();
#pragma omp parallel for schedule(static) num_threads(int(result.threads))
    for (int64_t e = 0; e < count; ++e) {
        const size_t j = size_t(idx[e]);
        z[e] = u[e] > Real(result.threshold[j]) ? Real(result.graded[j]) : Real(0);
    }
}

}  // namespace

void ForwardResult::write_spikes(int64_t ptr, int64_t idx, int64_t val) const {
    spikes.write_idx(spikes.place(writable<int64_t>(ptr), threads), writable<int32_t>(idx));
    if (val && dtype == float64) fill_spike_values(*this, address<int32_t>(idx), writable<double>(val));
    if (val && dtype == float32) fill_spike_values(*this, address<int32_t>(idx), writable<float>(val));
}

void ForwardResult::write_active(int64_t ptr, int64_t idx, int64_t u, int64_t carriers, int64_t z) const {
    const Buffer<int64_t> begin = active.place(writable<int64_t>(ptr), threads);
    const int64_t size = dtype == float64 ? 8 : 4;
    active.write_idx(begin, writable<int32_t>(idx));
    active.write_values(begin, size, writable<char>(u));
    if (carriers) active.write_extras(begin, size * carrier_count, writable<char>(carriers));
    if (z && dtype == float64) fill_outputs(*this, address<int32_t>(idx), address<double>(u), writable<double>(z));
    if (z && dtype == float32) fill_outputs(*this, address<int32_t>(idx), address<float>(u), writable<float>(z));
}

void ForwardResult::write_resets(int64_t ptr, int64_t idx) const {
    resets.write_idx(resets.place(writable<int64_t>(ptr), threads), writable<int32_t>(idx));
}

std::unique_ptr<ForwardResult> run_forward(const Layer& layer) {
    if (layer.carriers && !layer.want_active)
        throw std::invalid_argument("carriers=" + std::to_string(layer.carriers) + " needs want_active");
    return layer.dtype == float64 ? forward_typed<double>(layer) : forward_typed<float>(layer);
}

}  // namespace sparse_backend

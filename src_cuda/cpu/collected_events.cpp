#include "collected_events.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace sparse_backend {
namespace {

// Most rows have few events, if any: for them a call of the C library costs more than the copy.
template <class T>
void copy_few(const T* from, int64_t count, T* to) {
    constexpr int64_t few = 16;
    if (count > few)
        std::memcpy(to, from, size_t(count) * sizeof(T));
    else
        for (int64_t k = 0; k < count; ++k) to[k] = from[k];
}

// The same a block at a time, up to one past the end of `from`, and of `to` where `room` words are left there: what
// lies there is written later. Rows differ in length, and a branch on it is mispredicted at every other one.
void copy_blocks(const int32_t* from, int64_t words, int32_t* to, int64_t room) {
    constexpr int64_t block = append_room;
    if (room < words + block)
        std::memcpy(to, from, size_t(words) * sizeof(int32_t));
    else
        for (int64_t k = 0; k < words; k += block) std::memcpy(to + k, from + k, block * sizeof(int32_t));
}

// Copies what belongs to `count` events, in words of four bytes, and moves on in the source.
class Stream {
  public:
    Stream(const char* from, char* to, int64_t size)
        : from_(reinterpret_cast<const int32_t*>(from)),
          to_(reinterpret_cast<int32_t*>(to)),
          words_(from ? size / 4 : 0) {}

    void copy(int64_t count, int64_t first) {
        copy_few(from_, count * words_, to_ + first * words_);
        from_ += count * words_;
    }

  private:
    const int32_t* from_;
    int32_t* to_;
    int64_t words_;
};

}  // namespace

int64_t CollectedEvents::Part::count() const {
    return std::accumulate(pieces.begin(), pieces.end(), int64_t(0),
                           [](int64_t sum, const EventPiece& piece) { return sum + piece.count; });
}

bool CollectedEvents::Part::valued() const {
    return std::any_of(pieces.begin(), pieces.end(),
                       [](const EventPiece& piece) { return piece.count && piece.values.get(); });
}

void CollectedEvents::prepare(const Chunks& chunks, int64_t pieces, Order order, int64_t value_size,
                              int64_t extra_size) {
    chunks_ = chunks;
    order_ = order;
    value_size_ = value_size;
    extra_size_ = extra_size;
    ptr.reserve(chunks.rows() + 1);
    parts_.resize(size_t(chunks.count()));
    for (Part& part : parts_) {
        part.pieces.resize(size_t(pieces));
        part.missing = pieces;
    }
}

void CollectedEvents::expect(int64_t count, bool valued) {
    idx.reserve(count);
    if (valued) {
        values.reserve(count * value_size_);
        extras.reserve(count * extra_size_);
    }
    room_ = count;
    valued_ = valued;
}

void CollectedEvents::add(int64_t chunk, int64_t number, EventPiece piece) {
    int64_t from, to;  // the chunks whose turn has come
    {
        const std::lock_guard<std::mutex> lock(turn_);
        Part& part = parts_[size_t(chunk)];
        part.pieces[size_t(number)] = std::move(piece);
        --part.missing;
        for (from = to = next_; to < chunks_.count() && !parts_[size_t(to)].missing; ++to) place(parts_[size_t(to)]);
        next_ = to;
    }
    for (; from < to; ++from) {
        Part& part = parts_[size_t(from)];
        const std::shared_lock<std::shared_mutex> lock(arrays_);
        copy(part, chunks_[from]);
        part.pieces.clear();
    }
}

// The next events are those of the part. Without memory for them nothing has changed: other threads go on.
void CollectedEvents::place(Part& part) {
    const int64_t total = count_ + part.count();
    make_room(total, part.valued());
    part.first = count_;
    count_ = total;
    if (++next_ == chunks_.count()) ptr.get()[chunks_.rows()] = count_;
}

// For so many events, of which count_ are there, and for as many more as the chunks so far lead to expect.
void CollectedEvents::make_room(int64_t total, bool valued) {
    const bool begins = valued && !valued_;
    if (total <= room_ && !begins) return;
    const std::unique_lock<std::shared_mutex> lock(arrays_);
    int64_t room = room_;
    if (total > room) {
        const double expected = 1.25 * double(total) * double(chunks_.count()) / double(next_ + 1);
        room = next_ + 1 == chunks_.count() ? total : int64_t(expected) + append_room;
    }
    idx.reserve(room, count_);
    if (valued_ || valued) {
        values.reserve(room * value_size_, valued_ ? count_ * value_size_ : 0);
        extras.reserve(room * extra_size_, valued_ ? count_ * extra_size_ : 0);
    }
    room_ = room;
    valued_ |= valued;
    if (begins) fill_ones(0, count_);
}

void CollectedEvents::fill_ones(int64_t from, int64_t to) {
    if (value_size_ == sizeof(double))
        std::fill(reinterpret_cast<double*>(values.get()) + from, reinterpret_cast<double*>(values.get()) + to, 1.0);
    else
        std::fill(reinterpret_cast<float*>(values.get()) + from, reinterpret_cast<float*>(values.get()) + to, 1.0f);
}

void CollectedEvents::copy(const Part& part, const Chunk& chunk) {
    int64_t* begin = ptr.get() + chunks_.row(chunk);
    if (order_ == Order::by_step) return copy_steps(part, chunk, begin);
    const auto lacks_values = [](const EventPiece& piece) { return piece.count && !piece.values.get(); };
    if (valued_ && std::any_of(part.pieces.begin(), part.pieces.end(), lacks_values))
        fill_ones(part.first, part.first + part.count());
    if (part.pieces.size() == 1 && order_ == Order::by_element) {
        const EventPiece& piece = part.pieces.front();
        const int32_t* counts = piece.counts.get();
        int64_t next = part.first;
        for (int64_t row = 0; row < chunk.rows(); ++row) {
            begin[row] = next;
            next += counts[row];
        }
        copy_piece(piece, part.first);
    } else if (order_ == Order::by_event) {
        copy_events(part.pieces.front(), part.first, chunk, begin);
    } else {
        copy_rows(part, chunk, begin);
    }
}

void CollectedEvents::copy_piece(const EventPiece& piece, int64_t first) {
    if (!piece.count) return;
    std::memcpy(idx.get() + first, piece.idx.get(), size_t(piece.count) * sizeof(int32_t));
    for (const auto& [from, to, size] :
         {std::tuple(&piece.values, &values, value_size_), std::tuple(&piece.extras, &extras, extra_size_)})
        if (from->get() && size) std::memcpy(to->get() + first * size, from->get(), size_t(piece.count * size));
}

// Pieces of other steps each. Written in the order of the format, whatever lies behind a row is overwritten.
void CollectedEvents::copy_steps(const Part& part, const Chunk& chunk, int64_t* begin) {
    std::vector<Buffer<int64_t>> starts;  // of each visit, in its piece
    for (const EventPiece& piece : part.pieces) {
        const int64_t visits = piece.steps * chunk.elements;
        int64_t sum = 0, *start = starts.emplace_back(visits).get();
        for (int64_t k = 0; k < visits; ++k) {
            start[k] = sum;
            sum += piece.counts.get()[k];
        }
    }
    const int64_t end = part.first + part.count(), words = value_size_ / 4;
    int64_t next = part.first;
    for (int64_t e = 0; e < chunk.elements; ++e)
        for (size_t k = 0; k < part.pieces.size(); ++k) {
            const EventPiece& piece = part.pieces[k];
            const int32_t* from = reinterpret_cast<const int32_t*>(piece.values.get());
            for (int64_t visit = e; visit < piece.steps * chunk.elements; visit += chunk.elements) {
                const int64_t count = piece.counts.get()[visit], start = starts[k].get()[visit];
                copy_blocks(piece.idx.get() + start, count, idx.get() + next, end - next);
                if (from)
                    copy_blocks(from + start * words, count * words,
                                reinterpret_cast<int32_t*>(values.get()) + next * words, (end - next) * words);
                else if (valued_)
                    fill_ones(next, next + count);
                *begin++ = next;
                next += count;
            }
        }
}

// Pieces of other neurons each.
void CollectedEvents::copy_rows(const Part& part, const Chunk& chunk, int64_t* begin) {
    std::vector<const int32_t*> counts;
    std::vector<Stream> streams;
    for (const EventPiece& piece : part.pieces) {
        counts.push_back(piece.counts.get());
        streams.emplace_back(reinterpret_cast<const char*>(piece.idx.get()), reinterpret_cast<char*>(idx.get()), 4);
        streams.emplace_back(piece.values.get(), values.get(), value_size_);
        streams.emplace_back(piece.extras.get(), extras.get(), extra_size_);
    }
    int64_t next = part.first;
    for (int64_t row = 0; row < chunk.rows(); ++row) {
        begin[row] = next;
        for (size_t k = 0; k < counts.size(); ++k) {
            for (size_t s = 3 * k; s < 3 * k + 3; ++s) streams[s].copy(counts[k][row], next);
            next += counts[k][row];
        }
    }
}

void CollectedEvents::copy_events(const EventPiece& piece, int64_t first, const Chunk& chunk, int64_t* begin) {
    const Buffer<int64_t> memory(chunk.rows());
    int64_t *next = memory.get(), sum = first;
    std::fill_n(next, chunk.rows(), 0);
    const int32_t* rows = piece.rows.get();
    for (int64_t e = 0; e < piece.count; ++e) ++next[rows[e]];
    for (int64_t row = 0; row < chunk.rows(); ++row) {
        const int64_t count = next[row];
        begin[row] = next[row] = sum;
        sum += count;
    }
    Stream streams[] = {{reinterpret_cast<const char*>(piece.idx.get()), reinterpret_cast<char*>(idx.get()), 4},
                        {piece.values.get(), values.get(), value_size_},
                        {piece.extras.get(), extras.get(), extra_size_}};
    for (int64_t e = 0; e < piece.count; ++e) {
        const int64_t to = next[rows[e]]++;
        for (Stream& stream : streams) stream.copy(1, to);
    }
}

}  // namespace sparse_backend

// The events of an input of which one step after the other is shown, and nothing is kept but them.
//
// Cost per step: one read of it, in one parallel region; at the end the events are copied into the format.
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "growing_piece.hpp"

namespace sparse_backend {

class GrowingEvents {
  public:
    // dtype: float32 or float64.  threads: how many are expected.
    GrowingEvents(int64_t batch, int64_t inputs, int dtype, int64_t threads);

    // Step t, [B, Nin], its rows stride_b entries apart; the steps from t on that were there before are forgotten, as
    // those of a caller who was interrupted. Returns the number of events so far. Without memory for them the steps
    // before t remain.
    int64_t add(int64_t t, int64_t x, int64_t stride_b, int64_t threads);
    // Step t, to be written to [B, Nin] without gaps.
    void write_step(int64_t t, int64_t out) const;
    // The first steps, once; nothing can be added or read any more.
    std::unique_ptr<CollectedEvents> finish(int64_t steps, int64_t threads);

  private:
    template <class Real>
    using Pieces = std::vector<GrowingPiece<Real>>;  // one per chunk

    template <class Real>
    void start();
    void check_there() const;
    void check_step(int64_t t, int64_t end, int64_t address) const;
    void keep(int64_t steps);
    // Of whole batch elements: how they are cut does not depend on the number of steps.
    Chunks chunks(int64_t steps = 1) const { return {batch_, steps, elements_}; }

    int64_t batch_, inputs_, elements_, steps_ = 0;
    bool taken_ = false;
    std::variant<Pieces<float>, Pieces<double>> pieces_;
};

}  // namespace sparse_backend

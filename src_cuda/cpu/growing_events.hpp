// The events of an input of which one step after the other is shown, and nothing is kept but them.
//
// Cost per step: one read of it, in one parallel region; at the end the events are copied into the format.
#pragma once

#include <algorithm>
#include <memory>
#include <variant>
#include <vector>

#include "growing_piece.hpp"

namespace sparse_backend {

class GrowingEvents {
  public:
    // dtype: float32 or float64.
    GrowingEvents(int64_t batch, int64_t inputs, int dtype, int64_t threads);

    // A step [B, Nin], its rows stride_b entries apart. Returns the number of events so far. Without memory for them
    // nothing has changed.
    int64_t add(int64_t x, int64_t stride_b);
    // All of them, once.
    std::unique_ptr<CollectedEvents> finish();

  private:
    template <class Real>
    using Pieces = std::vector<GrowingPiece<Real>>;  // one per chunk

    template <class Real>
    void start();
    // Of whole batch elements: how they are cut does not depend on the number of steps.
    Chunks chunks() const { return {batch_, std::max(steps_, int64_t(1)), elements_}; }

    int64_t batch_, inputs_, threads_, elements_, steps_ = 0, count_ = 0;
    std::variant<Pieces<float>, Pieces<double>> pieces_;
};

}  // namespace sparse_backend

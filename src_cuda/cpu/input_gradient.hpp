// The input gradient at every entry: made by the scan from lambda in cache, or afterwards where the scan is tiled.
#pragma once

#include "panels.hpp"
#include "view.hpp"

namespace sparse_backend {

template <class Real>
class InputGradient {
  public:
    // Adds to grads what the scan has to do.
    InputGradient(const LayerView<Real>& view, const Gradients& gradients, int64_t tiles, int64_t threads,
                  GradientView<Real>& grads)
        : rows_(view.batch * view.steps),
          columns_(padded_width(view.inputs)),
          threads_(threads),
          out_(writable<Real>(gradients.d_input)),
          fused_(tiles == 1) {
        if (!out_) return;
        panels_ = Panels<Real>(address<Real>(gradients.weight), view.width, view.inputs, threads);
        past_cache_ = Panels<Real>::goes_past_cache(out_, rows_, columns_);
        if (fused_) {
            grads.input_product = {panels_.product(), panels_.get(), out_, columns_, past_cache_};
            return;
        }
        if (!grads.d_current.data) {
            lambda_.reserve(rows_ * view.padded);
            grads.d_current = {lambda_.get(), view.padded, view.steps * view.padded};
        }
        current_ = grads.d_current;
    }

    void finish() const {
        if (out_ && !fused_)
            panels_.multiply(current_.data, current_.stride_t, rows_, out_, columns_, past_cache_, threads_);
    }

  private:
    int64_t rows_, columns_, threads_;
    Real* out_;
    bool fused_, past_cache_ = false;
    Panels<Real> panels_;
    Buffer<Real> lambda_;
    Strided<Real> current_ = {};  // batch-major
};

}  // namespace sparse_backend

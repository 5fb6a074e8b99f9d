// From the binding's untyped Layer to the typed view that kernels take: checks, defaults, padded rows.
#pragma once

#include <vector>

#include "layer.hpp"

namespace sparse_backend {

// Throws std::invalid_argument naming the field for anything a kernel could not run on.
void check_layer(const Layer& layer);
// The sparse reverse scan runs from saved events; the other scans evaluate the layer's input.
void check_input(const Layer& layer);

template <class Real>
const Real* address(int64_t value) {
    return reinterpret_cast<const Real*>(value);
}
template <class Real>
Real* writable(int64_t value) {
    return reinterpret_cast<Real*>(value);
}

// A LayerView and the memory behind its padded rows.
template <class Real>
class TypedLayer {
  public:
    // together: batch elements of a row.
    explicit TypedLayer(const Layer& layer, int64_t together = 1);
    TypedLayer(const TypedLayer&) = delete;

    LayerView<Real> view;
    // The neurons from `first` on, a multiple of 16.
    LayerView<Real> tile(int64_t first, int64_t width) const;
    // With fewer batch elements to a row.
    LayerView<Real> with_together(int64_t elements) const;
    const Real* decay() const { return rows_.data() + 8 * view.padded; }

  private:
    Real* row(int index) { return rows_.data() + index * view.padded; }
    void set_row(int index, const Coefficient& coefficient, Real fallback, Real padding);

    std::vector<Real> rows_;  // seven coefficients, bias, decay
};

extern template class TypedLayer<float>;
extern template class TypedLayer<double>;

}  // namespace sparse_backend

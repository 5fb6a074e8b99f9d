// Whether the product by tiles can be used here.
#pragma once

#include "product.hpp"

namespace sparse_backend {

// The processor has the instructions, and the system lets this process use them.
bool tiles_supported();
// Whether two products give the same, to rounding, on a few fixed matrices.
bool products_agree(const Product<float>& found, const Product<float>& trusted);

}  // namespace sparse_backend

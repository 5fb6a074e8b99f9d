// Which copy of the kernels runs on this machine.
#pragma once

#include <string>
#include <vector>

#include "arguments.hpp"

namespace sparse_backend {

// The kernels in use: the widest set the processor supports, or the one that was forced.
const KernelSet& kernels();
std::string current_isa();
std::vector<std::string> available_isas();
// Of an instruction set that this machine has and that is not used; empty if there is none.
std::string dispatch_warning();
// "auto" or one of available_isas(); throws std::invalid_argument for anything else.
void force_isa(const std::string& name);

template <class Real>
const Kernels<Real>& kernels_for();
template <>
inline const Kernels<float>& kernels_for<float>() {
    return kernels().float32;
}
template <>
inline const Kernels<double>& kernels_for<double>() {
    return kernels().float64;
}

}  // namespace sparse_backend

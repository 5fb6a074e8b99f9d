// The neuron family as data: the numbers that Python passes for a spec's structure.
#pragma once

namespace sparse_backend {

enum class Integrator : int { decay = 0, euler = 1 };

// What the detached reset does before the membrane is compared with the threshold.
enum class Pre : int { none = 0, subtract = 1, cut_leak = 2, wipe = 3 };

// What a spike does to the membrane that is carried on.
enum class Post : int { none = 0, subtract = 1, zero = 2, value = 3, subtract_all = 4 };

enum class Surrogate : int {
    zero = 0,
    atan = 1,
    fast_sigmoid = 2,
    sigmoid = 3,
    triangular = 4,
    straight_through = 5,
    sfs = 6,
    triangle = 7,
    tanh = 8,
    circ = 9,
    heavi_erfc = 10
};
constexpr int surrogate_kinds = 11;

enum class Gradient : int { none = 0, exact = 1, window = 2, sampled = 3 };

// Learnable parameters whose gradient needs a carrier; the bits of Layer.carriers.
enum Carrier : int { carrier_membrane = 1, carrier_gain = 2, carrier_synapse = 4 };

}  // namespace sparse_backend

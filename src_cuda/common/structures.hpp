// From the numbers of a spec's structure to the compile-time structure: one list for every kernel of the family.
#pragma once

#include "portable.hpp"
#include "spec.hpp"

namespace sparse_backend {
namespace SPARSE_BACKEND_VARIANT {

template <Integrator integrator, int poles, Pre pre, class Visitor>
auto with_post(Post post, const Visitor& visitor) {
    switch (post) {
    case Post::subtract: return visitor.template run<integrator, poles, pre, Post::subtract>();
    case Post::zero: return visitor.template run<integrator, poles, pre, Post::zero>();
    case Post::value: return visitor.template run<integrator, poles, pre, Post::value>();
    case Post::subtract_all: return visitor.template run<integrator, poles, pre, Post::subtract_all>();
    case Post::none: break;
    }
    return visitor.template run<integrator, poles, pre, Post::none>();
}

template <Integrator integrator, int poles, class Visitor>
auto with_pre(Pre pre, Post post, const Visitor& visitor) {
    switch (pre) {
    case Pre::subtract: return with_post<integrator, poles, Pre::subtract>(post, visitor);
    case Pre::cut_leak: return with_post<integrator, poles, Pre::cut_leak>(post, visitor);
    case Pre::wipe: return with_post<integrator, poles, Pre::wipe>(post, visitor);
    case Pre::none: break;
    }
    return with_post<integrator, poles, Pre::none>(post, visitor);
}

// Calls visitor.run<integrator, poles, pre, post>() for the structure and returns its result.
template <class Visitor>
auto with_structure(Integrator integrator, int poles, Pre pre, Post post, const Visitor& visitor) {
    if (integrator == Integrator::decay)
        return poles == 2 ? with_pre<Integrator::decay, 2>(pre, post, visitor)
                          : with_pre<Integrator::decay, 1>(pre, post, visitor);
    return poles == 2 ? with_pre<Integrator::euler, 2>(pre, post, visitor)
                      : with_pre<Integrator::euler, 1>(pre, post, visitor);
}

}  // namespace SPARSE_BACKEND_VARIANT
}  // namespace sparse_backend

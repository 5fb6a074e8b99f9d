// Modes of torch: those under which nothing is recorded, and those that a recording is bound to.
#pragma once

#include "question.hpp"

namespace recording {

inline Question grad_enabled{"grad_enabled"}, inference_enabled{"inference_enabled"};

// Takes torch_private.MODES and whether `a_look_tells` of them; false with a Python error where they are not of that
// form.
bool take_modes(PyObject* questions, PyObject* tells);

// Whether the thread is seen to be in no mode but perhaps `no_grad`: a look at torch's own variables, without a call of
// Python's.
bool at_rest();

// Whether no mode is on under which an operation has to run at once: see torch_private.must_run_now.
bool no_mode_matters();

// Whether the gradient and inference modes are those of the recording.
bool same_modes(PyObject* segment);

}  // namespace recording

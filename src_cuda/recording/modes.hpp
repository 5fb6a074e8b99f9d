// Modes of torch: those under which nothing is recorded, and those that a recording is bound to.
#pragma once

#include "question.hpp"

namespace recording {

inline Question grad_enabled{"grad_enabled"}, inference_enabled{"inference_enabled"};

// Takes torch_private.MODE_QUESTIONS; false with a Python error where it is not of that form.
bool take_modes(PyObject* questions);

// Whether no mode is on under which an operation has to run at once: see torch_private.must_run_now.
bool no_mode_matters();

// Whether the gradient and inference modes are those of the recording.
bool same_modes(PyObject* segment);

}  // namespace recording

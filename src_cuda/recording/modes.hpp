// Modes of torch: those under which nothing is recorded, and those that a recording is bound to.
#pragma once

#include "question.hpp"

namespace recording {

inline Question grad_enabled{"grad_enabled"}, inference_enabled{"inference_enabled"};

// Takes torch_private.KEY_MODES, OTHER_MODES and what `keys_tell` found; false with a Python error where they are not
// of that form.
bool take_modes(PyObject* key_modes, PyObject* other_modes, PyObject* keys_tell);

// Whether the thread's dispatch keys are known, and those of a thread in no mode but perhaps `no_grad`.
bool keys_at_rest();

// Whether no mode is on under which an operation has to run at once: see torch_private.must_run_now.
bool no_mode_matters();

// Whether the gradient and inference modes are those of the recording.
bool same_modes(PyObject* segment);

}  // namespace recording

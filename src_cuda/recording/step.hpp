// One more step of a stream: its deferred tensors, made or handed out again, and then all of it taken up at once.
#pragma once

#include "python.hpp"

namespace recording {

// Whether `tensor` is what the stream's last step returned in this slot, not detached since.
bool is_latest(PyObject* tensor, PyObject* stream, Py_ssize_t slot);

class Step {
  public:
    Step(PyObject* stream, PyObject* segment) : stream_(stream), segment_(segment) {}

    // Makes ready what the step needs; false where it cannot be taken up here.
    bool prepare();

    // Nothing in it can fail or give up the GIL.
    void commit();

    // What the step returns in this slot.
    Ref take(Py_ssize_t slot) { return std::move(made_[slot]); }

  private:
    PyObject *stream_, *segment_;
    Py_ssize_t count_ = 0;
    Ref made_[3], next_;
};

}  // namespace recording

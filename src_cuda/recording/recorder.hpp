// What the recorder's Python part is made of, and what it hands over when it connects.
#pragma once

#include "python.hpp"
#include "question.hpp"

namespace recording {

inline Slot stream_segment{"Stream", "segment"}, stream_children{"Stream", "children"};
inline Slot stream_count{"Stream", "count"}, stream_wrappers{"Stream", "wrappers"}, stream_source{"Stream", "source"};
inline Slot stream_blanks{"Stream", "blanks"}, stream_watch{"Stream", "watch"}, stream_whole{"Stream", "whole"};
inline Slot stream_requires_grad{"Stream", "requires_grad"};
inline Slot segment_closed{"Segment", "closed"}, segment_grad{"Segment", "grad"}, segment_entries{"Segment", "entries"};
inline Slot segment_inference{"Segment", "inference"}, segment_limit{"Segment", "limit"};
inline Slot segment_thread{"Segment", "thread"};
inline Slot wrappers_older{"Wrappers", "older"}, wrappers_newer{"Wrappers", "newer"};
inline Slot wrappers_blank{"Wrappers", "blank"}, wrappers_escaped{"Wrappers", "escaped"};
inline Slot wrappers_slot{"Wrappers", "slot"};
inline Slot watch_attributes{"Watch", "attributes"}, watch_tensors{"Watch", "tensors"};
inline Slot inputs_base{"Inputs", "_base"}, inputs_alias{"Inputs", "_alias"}, inputs_place{"Inputs", "_place"};
inline Slot inputs_runs{"Inputs", "_runs"}, inputs_shape{"Inputs", "shape"}, inputs_dtype{"Inputs", "dtype"};
inline Slot inputs_requires_grad{"Inputs", "requires_grad"};
inline Slot run_alias{"Run", "alias"}, run_count{"Run", "count"}, run_start{"Run", "start"};
inline Slot run_spacing{"Run", "spacing"}, run_strides{"Run", "strides"}, run_first{"Run", "first"};

// An object that `connect` is given under this name.
struct Known {
    const char* name;
    PyObject* object = nullptr;
};

inline Known deferred{"Deferred"}, feed_stream{"FeedStream"}, neuron_stream{"NeuronStream"}, inputs_type{"Inputs"};
inline Known plain_tensor{"Tensor"}, absent{"ABSENT"}, thread{"thread"}, wrap{"wrap"}, link{"link"};
inline Known hooks{"hooks"}, module_class{"Module"}, module_call{"module_call"}, module_getattr{"module_getattr"};

// Torch's answers about a tensor.
inline Question place_of{"place"}, base_of{"base"}, requires_grad_of{"requires_grad"}, dtype_of{"dtype"};
inline Question shape_of{"shape"}, offset_of{"offset"}, strides_of{"strides"};
inline Question is_neg_of{"is_neg"};

// Interned name of an attribute, and where it was found last among those of an object: all of a class mostly have it
// there.
struct Name {
    const char* text = nullptr;
    PyObject* object = nullptr;
    Py_ssize_t position = 0;
    int moves = 0;

    // Its value in `attributes`, borrowed; null where there is none.
    PyObject* in(PyObject* attributes) {
        PyObject *key, *value;
        Py_ssize_t next = position;
        if (PyDict_Next(attributes, &next, &key, &value) && key == object) return value;
        return search(attributes);
    }

  private:
    PyObject* search(PyObject* attributes);
};

inline Name name_source{"_source"}, name_step{"_step"}, name_slot{"_slot"}, name_cut{"_cut"}, name_segment{"segment"};
inline Name name_call{"__call__"}, name_init_hidden{"init_hidden"}, name_output{"output"}, name_buffers{"_buffers"};
inline Name name_parameters{"_parameters"}, name_modules{"_modules"};
inline Name name_getattr{"__getattr__"}, name_getattribute{"__getattribute__"};
inline Name name_mem{"mem"}, name_previous{"previous"};
inline Name module_hooks[] = {{"_forward_hooks"}, {"_forward_pre_hooks"}, {"_backward_hooks"}, {"_backward_pre_hooks"}};

constexpr Py_ssize_t fresh = 3;  // attributes of a deferred tensor to which nothing has happened

bool intern_names();

// connect(objects): a dict with everything above, and the classes of all slots.
PyObject* connect(PyObject*, PyObject* objects);

}  // namespace recording

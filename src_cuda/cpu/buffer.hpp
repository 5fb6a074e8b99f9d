// Memory of the drivers: aligned, uninitialised, growable.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

namespace sparse_backend {

template <class T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(int64_t size) { reserve(size); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    T* get() const { return data_; }
    int64_t capacity() const { return capacity_; }

    // Keeps the first `used` entries; at least doubles, so that appending stays linear.
    void reserve(int64_t size, int64_t used = 0) {
        if (size <= capacity_) return;
        const int64_t grown = std::max(size, 2 * capacity_);
        const size_t bytes = (size_t(grown) * sizeof(T) + 127) / 64 * 64;
        T* fresh = static_cast<T*>(std::aligned_alloc(64, bytes));
        if (!fresh) throw std::bad_alloc();
        if (used) std::memcpy(fresh, data_, size_t(used) * sizeof(T));
        std::free(data_);
        data_ = fresh;
        capacity_ = grown;
    }

  private:
    T* data_ = nullptr;
    int64_t capacity_ = 0;
};

// Hands out consecutive padded rows of one buffer.
template <class T>
class Rows {
  public:
    Rows(int64_t count, int64_t padded) : memory_(count * padded), next_(memory_.get()), padded_(padded) {
        std::fill(next_, next_ + count * padded, T(0));
    }
    T* take(int64_t count = 1) {
        T* row = next_;
        next_ += count * padded_;
        return row;
    }

  private:
    Buffer<T> memory_;
    T* next_;
    int64_t padded_;
};

// Carries the first exception out of a parallel region, where throwing would end the process.
class ParallelErrors {
  public:
    template <class Body>
    void guard(Body&& body) {
        try {
            body();
        } catch (...) {
#pragma omp critical(sparse_backend_errors)
            if (!error_) error_ = std::current_exception();
        }
    }
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

  private:
    std::exception_ptr error_;
};

}  // namespace sparse_backend

// Memory of the drivers: aligned, uninitialised, growable.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <utility>

#include "memory.hpp"

namespace sparse_backend {

template <class T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(int64_t size) { reserve(size); }
    Buffer(Buffer&& other) noexcept : block_(std::move(other.block_)), capacity_(std::exchange(other.capacity_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        block_ = std::move(other.block_);
        capacity_ = std::exchange(other.capacity_, 0);
        return *this;
    }

    T* get() const { return static_cast<T*>(block_.data()); }
    int64_t capacity() const { return capacity_; }
    // Leaves nothing behind.
    Block take() {
        capacity_ = 0;
        return std::move(block_);
    }

    // Keeps the first `used` entries; at least doubles, so that appending stays linear.
    void reserve(int64_t size, int64_t used = 0) {
        if (size <= capacity_) return;
        Block fresh(size_t(std::max(size, 2 * capacity_)) * sizeof(T));
        if (used) std::memcpy(fresh.data(), block_.data(), size_t(used) * sizeof(T));
        block_ = std::move(fresh);
        capacity_ = int64_t(block_.size() / sizeof(T));
    }

  private:
    Block block_;
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
    explicit operator bool() const { return bool(error_); }
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

  private:
    std::exception_ptr error_;
};

}  // namespace sparse_backend

#include "memory.hpp"

#include <cstdint>
#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <tuple>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace sparse_backend {
namespace {

constexpr size_t alignment = 64, pooled_from = size_t(1) << 20, far_larger = 4;
// A huge page is in memory as soon as a byte of it is, and lists that grow fill their blocks only in part.
constexpr size_t huge_page = size_t(1) << 21, huge_from = 4 * huge_page;

// Pooled sizes lie an eighth to a quarter apart, so that similar requests meet the same blocks. Never 0, and always
// more than was asked for: kernels may read a little past the end.
size_t rounded(size_t bytes) {
    if (bytes > size_t(PTRDIFF_MAX) / 2) throw std::bad_alloc();
    size_t step = alignment;
    while (bytes >= pooled_from && 8 * step < bytes) step *= 2;
    return bytes / step * step + step;
}

void* from_system(size_t bytes) {
    const size_t unit = bytes < huge_from ? alignment : huge_page;
    void* data = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (!data) throw std::bad_alloc();
    if (unit == huge_page) prefer_huge_pages(data, bytes);
    return data;
}

class Pool {
  public:
    // The smallest kept block of at least so many bytes, of equal ones the last used; null if all are smaller or far
    // larger. Of a larger one the rest lies idle, which costs less memory than a further block.
    std::pair<void*, size_t> take(size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        auto best = kept_.end();
        for (auto block = kept_.begin(); block != kept_.end(); ++block)
            if (block->second >= bytes && block->second <= far_larger * bytes &&
                (best == kept_.end() || block->second <= best->second))
                best = block;
        if (best == kept_.end()) return {nullptr, 0};
        const std::pair<void*, size_t> found = *best;
        total_ -= found.second;
        kept_.erase(best);
        return found;
    }

    // Keeps the block, unless it is larger than all that may be kept; returns whether it does.
    bool give(void* data, size_t bytes) noexcept try {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (bytes > limit_) return false;
        kept_.emplace_back(data, bytes);
        total_ += bytes;
        shrink(limit_);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }

    void limit(size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        limit_ = bytes;
        shrink(limit_);
    }

    void drop() {
        const std::lock_guard<std::mutex> lock(mutex_);
        shrink(0);
    }

    size_t total() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return total_;
    }

  private:
    // The longest unused go first.
    void shrink(size_t limit) {
        while (total_ > limit) {
            std::free(kept_.front().first);
            total_ -= kept_.front().second;
            kept_.pop_front();
        }
    }

    std::mutex mutex_;
    std::list<std::pair<void*, size_t>> kept_;  // oldest first
    size_t total_ = 0, limit_ = size_t(1) << 29;
};

// Never destroyed: a tensor may give its block back after everything else has ended.
Pool& pool() {
    static Pool& instance = *new Pool;
    return instance;
}

}  // namespace

Block::Block(size_t bytes) {
    const size_t size = rounded(bytes);
    if (size >= pooled_from) std::tie(data_, size_) = pool().take(size);
    if (!data_) data_ = from_system(size_ = size);
}

Block::~Block() {
    if (!data_) return;
    if (size_ < pooled_from || !pool().give(data_, size_)) std::free(data_);
}

void Block::swap(Block& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
}

void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
    constexpr uintptr_t page = 4096;
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data), first = (begin + page - 1) & ~(page - 1);
    if (begin + bytes <= first) return;
    madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_HUGEPAGE);  // refused, it is as good
#endif
}

bool keep_freed_memory([[maybe_unused]] size_t mapped, [[maybe_unused]] size_t kept) {
#if defined(__GLIBC__)
    // Either alone would end the allocator's own adjustment of the other.
    return mallopt(M_MMAP_THRESHOLD, int(mapped)) && mallopt(M_TRIM_THRESHOLD, int(kept));
#else
    return false;
#endif
}

size_t pooled_memory() { return pool().total(); }
void limit_pooled_memory(size_t bytes) { pool().limit(bytes); }
void drop_pooled_memory() { pool().drop(); }

}  // namespace sparse_backend

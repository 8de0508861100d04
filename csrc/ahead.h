// Memory that is asked for before it is needed, while something else is multiplied.
#pragma once

#include <cstdint>

namespace compt_fast {

constexpr int64_t kLine = 64;  // bytes of a cache line

// Asks for the memory of a panel that will be packed, line by line, while another one is multiplied.
class Ahead {
 public:
  Ahead() = default;

  // `rows` pieces of `bytes` bytes, `step` bytes apart.
  Ahead(const void* data, int64_t rows, int64_t bytes, int64_t step)
      : line_(static_cast<const char*>(data)), end_(line_ + bytes), rows_(rows), bytes_(bytes), step_(step) {}

  void operator()() {
    if (rows_ == 0) {
      return;
    }
    __builtin_prefetch(line_);
    line_ += kLine;
    if (line_ >= end_) {
      end_ += step_;
      line_ = end_ - bytes_;
      --rows_;
    }
  }

 private:
  const char* line_ = nullptr;
  const char* end_ = nullptr;
  int64_t rows_ = 0;
  int64_t bytes_ = 0;
  int64_t step_ = 0;
};

}  // namespace compt_fast

// The assembly on the CPU: plain loops that the compiler vectorises. Threads are the caller's
// business: each call writes one range of rows, and ranges do not touch each other.
#include "assembly_cpu.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace compt_fast {
namespace {

template <typename F>
void with_type(Float type, F&& f) {
  switch (type) {
    case Float::f32:
      return f(float{});
    case Float::f64:
      return f(double{});
    case Float::bf16:
      return f(c10::BFloat16{});
    case Float::f16:
      return f(c10::Half{});
  }
}

template <typename To, typename From>
void copy_row(To* __restrict to, const From* __restrict from, int64_t width) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, width * sizeof(To));
  } else {
    for (int64_t i = 0; i < width; ++i) {
      to[i] = static_cast<To>(from[i]);
    }
  }
}

// Rows that are asked for before they are copied: no processor guesses where the table's next one is.
constexpr int64_t kAhead = 2;
constexpr int64_t kCacheLine = 64;

// A copy, line by line, that asks for the same line of a row to come: many at once would wait for each other.
template <typename T>
void copy_row_and_fetch(T* __restrict to, const T* __restrict from, const T* to_come, int64_t width) {
  constexpr int64_t kStep = kCacheLine / sizeof(T);
  int64_t i = 0;
  for (; i + kStep <= width; i += kStep) {
    __builtin_prefetch(to_come + i);
    std::memcpy(to + i, from + i, kCacheLine);
  }
  std::memcpy(to + i, from + i, (width - i) * sizeof(T));
}

template <typename T>
T* row_of(const Matrix& matrix, int64_t row) {
  return static_cast<T*>(matrix.data) + row * matrix.stride;
}

// The piece of ascending `cu_seqlens` (n + 1 of them) that holds `index`; empty pieces hold none.
int64_t piece_of(const int64_t* cu_seqlens, int64_t n, int64_t index) {
  return std::upper_bound(cu_seqlens, cu_seqlens + n + 1, index) - cu_seqlens - 1;
}

template <typename P, typename E>
class Writer {
 public:
  explicit Writer(const Assembly& job) : job_(job) {}

  // Packed rows begin ... end - 1, all of batch row b.
  void batch_row(int64_t b, int64_t begin, int64_t end) const {
    const Layout& at = job_.layout;
    const int64_t slot = at.slots[b];
    const int64_t first = at.packed_cu_seqlens[b];
    const int64_t prompt = at.prompt_cu_seqlens[slot];
    const int64_t prompt_length = at.prompt_cu_seqlens[slot + 1] - prompt;
    const int64_t text = job_.input_cu_seqlens[b];
    const int64_t text_length = job_.input_cu_seqlens[b + 1] - text;
    const int64_t prompt_at = first + (at.prepend ? 0 : text_length);
    const int64_t text_at = first + (at.prepend ? prompt_length : 0);
    for (int64_t t = std::max(begin, prompt_at); t < std::min(end, prompt_at + prompt_length); ++t) {
      copy_row(row_of<E>(job_.packed, t), row_of<const P>(job_.prompts, prompt + t - prompt_at), at.width);
    }
    for (int64_t t = std::max(begin, text_at); t < std::min(end, text_at + text_length); ++t) {
      const int64_t* id = job_.token_ids + text + t - text_at;
      const int64_t to_come = std::min(t + kAhead, text_at + text_length - 1) - t;
      copy_row_and_fetch(row_of<E>(job_.packed, t), row_of<const E>(job_.embedding, id[0]),
                         row_of<const E>(job_.embedding, id[to_come]), at.width);
    }
  }

  void slack(int64_t begin, int64_t end) const {
    for (int64_t t = begin; t < end; ++t) {
      std::memset(static_cast<void*>(row_of<E>(job_.packed, t)), 0, job_.layout.width * sizeof(E));
    }
  }

 private:
  const Assembly& job_;
};

template <typename P, typename E>
void assemble_as(const Assembly& job, int64_t begin, int64_t end) {
  const Layout& at = job.layout;
  const Writer<P, E> writer(job);
  const int64_t used = at.packed_cu_seqlens[at.rows];
  int64_t t = begin;
  for (int64_t b = piece_of(at.packed_cu_seqlens, at.rows, begin); t < std::min(end, used); ++b) {
    const int64_t stop = std::min(end, at.packed_cu_seqlens[b + 1]);
    writer.batch_row(b, t, stop);
    t = stop;
  }
  writer.slack(t, end);
}

template <typename E>
void reduce_as(const Reduction& job, const RowsOfSlots& by_slot, int64_t begin, int64_t end) {
  using Sum = std::conditional_t<std::is_same_v<E, double>, double, float>;
  const Layout& at = job.layout;
  int64_t slot = piece_of(at.prompt_cu_seqlens, at.slot_count, begin);
  for (int64_t p = begin; p < end; ++p) {
    while (p >= at.prompt_cu_seqlens[slot + 1]) {
      ++slot;
    }
    Sum* __restrict out = static_cast<Sum*>(job.out) + p * at.width;
    std::fill_n(out, at.width, Sum{0});
    // Rows outside, in the batch's order: no sum depends on the threads. Columns inside: they are contiguous.
    for (int64_t i = by_slot.starts[slot]; i < by_slot.starts[slot + 1]; ++i) {
      const int64_t b = by_slot.rows[i];
      // Counted from the row's start, or from its end where the prompt stands behind the text.
      const int64_t t = at.prepend ? at.packed_cu_seqlens[b] + p - at.prompt_cu_seqlens[slot]
                                   : at.packed_cu_seqlens[b + 1] + p - at.prompt_cu_seqlens[slot + 1];
      const E* __restrict grad = row_of<const E>(job.grad, t);
      for (int64_t j = 0; j < at.width; ++j) {
        out[j] += static_cast<Sum>(grad[j]);
      }
    }
  }
}

}  // namespace

RowsOfSlots rows_of_slots(const Layout& layout) {
  RowsOfSlots found;
  found.starts.assign(layout.slot_count + 1, 0);
  found.rows.resize(layout.rows);
  for (int64_t b = 0; b < layout.rows; ++b) {
    ++found.starts[layout.slots[b] + 1];
  }
  for (int64_t s = 0; s < layout.slot_count; ++s) {
    found.starts[s + 1] += found.starts[s];
  }
  std::vector<int64_t> next(found.starts.begin(), found.starts.end() - 1);
  for (int64_t b = 0; b < layout.rows; ++b) {
    found.rows[next[layout.slots[b]]++] = b;
  }
  return found;
}

void assemble_rows(const Assembly& job, int64_t begin, int64_t end) {
  with_type(job.prompts.type, [&](auto p) {
    with_type(job.packed.type, [&](auto e) { assemble_as<decltype(p), decltype(e)>(job, begin, end); });
  });
}

void reduce_rows(const Reduction& job, const RowsOfSlots& by_slot, int64_t begin, int64_t end) {
  with_type(job.grad.type, [&](auto e) { reduce_as<decltype(e)>(job, by_slot, begin, end); });
}

}  // namespace compt_fast

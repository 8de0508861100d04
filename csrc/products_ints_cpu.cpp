// Products of integers: the rows are rounded once, then meet one panel of the matrix after the other, whose sums are scaled
// back to floats while they are near.
#include "products_ints_cpu.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "ahead.h"
#include "operands.h"

namespace compt_fast {
namespace {

constexpr int64_t kBlock = 4 * kTileRows;  // rows that meet a panel at a time
constexpr int64_t kChunk = 16 * kBlock;    // rows of a task at most
constexpr int64_t kTasks = 8;              // that a thread has at least, where there are rows for them
constexpr int64_t kRounded = 16;           // rows that a thread rounds at a time

int64_t parts(int64_t n, int64_t of) {
  return (n + of - 1) / of;
}

// Sums (rows, kIntPanel) from row `row` and a group's column `column` on, scaled, into their places.
template <typename Dot, typename T>
void finish(const IntProduct<Dot, T>& job, const float* sums, int64_t row, int64_t rows, int64_t group, int64_t column) {
  const int64_t columns = std::min(kIntPanel, job.columns - column);
  const float* __restrict steps = job.steps + group * job.columns + column;
  for (int64_t i = 0; i < rows; ++i) {
    const auto* __restrict from = reinterpret_cast<const StoredInt*>(sums + i * kIntPanel);
    const int64_t at = (row + i) * job.groups + group;
    const auto [step, excess] = job.row_steps[at];
    T* __restrict y = job.y + at * job.columns + column;
    const auto each = [&](auto&& change) {
      for (int64_t j = 0; j < columns; ++j) {
        // Unsigned: the sums may wrap around before the excess is taken away, what is left never does.
        const auto sum = static_cast<int32_t>(static_cast<uint32_t>(from[j]) - static_cast<uint32_t>(excess));
        y[j] = static_cast<T>(change(static_cast<float>(sum) * step * steps[j], j));
      }
    };
    switch (job.after) {
      case After::kRelu:
        each([](float value, int64_t) { return value < 0 ? 0 : value; });
        break;
      case After::kAdd:
        each([&](float value, int64_t j) { return static_cast<float>(y[j]) + value; });
        break;
      default:
        each([](float value, int64_t) { return value; });
    }
  }
}

// A panel of all groups' ones, and the rows from `first` to `last`.
template <typename Dot, typename T>
void multiply_panel(const IntProduct<Dot, T>& job, int64_t panel, int64_t first, int64_t last) {
  thread_local Buffer scratch, wide;
  float* sums = scratch.of<float>(kBlock * kIntPanel);
  const int64_t units = int_units<Dot>(job.inner);
  const int64_t panels = parts(job.columns, kIntPanel);
  const int64_t group = panel / panels;
  const auto* weight = job.weight + panel * units * kIntPanel;
  // The next panel, which is multiplied next, on its way while this one meets its rows.
  const bool is_last = panel + 1 == job.groups * panels;
  Ahead ahead(weight + units * kIntPanel, is_last ? 0 : units, kIntPanel * sizeof(*weight), kIntPanel * sizeof(*weight));
  const auto meet = [&](const auto* right) {
    for (int64_t row = first; row < last; row += kBlock) {
      const int64_t count = std::min(kBlock, last - row);
      sums_of_panel<Dot>(job.q + (row * job.groups + group) * units, job.groups * units, count, units, right, sums,
                         ahead);
      finish(job, sums, row, count, group, panel % panels * kIntPanel);
    }
  };
  if constexpr (sizeof(*weight) < sizeof(Unit)) {
    if (last - first > kBlock) {
      Unit* widened = wide.of<Unit>(units * kIntPanel);
      widen(weight, units, widened);
      return meet(widened);
    }
  }
  meet(weight);
}

}  // namespace

template <typename Dot, typename T>
void multiply(const IntProduct<Dot, T>& job) {
  if (job.rows == 0 || job.groups == 0 || job.columns == 0) {
    return;
  }
  const int64_t units = int_units<Dot>(job.inner);
  at::parallel_for(0, job.rows * job.groups, kRounded, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      auto* q = reinterpret_cast<typename Dot::Entry*>(job.q + row * units);
      job.row_steps[row] = round_row<Dot>(job.x + row * job.inner, job.inner, q);
    }
  });
  const int64_t panels = job.groups * parts(job.columns, kIntPanel);
  const int64_t wanted = parts(kTasks * at::get_num_threads(), panels);
  const int64_t chunk = std::min(kChunk, round_up(parts(job.rows, wanted), kBlock));
  const int64_t chunks = parts(job.rows, chunk);
  // Panels inside: the rows of a chunk stay in cache while all panels come by.
  at::parallel_for(0, panels * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / panels * chunk;
      multiply_panel(job, task % panels, first, std::min(job.rows, first + chunk));
    }
  });
}

template void multiply(const IntProduct<ByteDot, float>&);
template void multiply(const IntProduct<ByteDot, c10::BFloat16>&);
template void multiply(const IntProduct<WordDot, float>&);
template void multiply(const IntProduct<WordDot, c10::BFloat16>&);

}  // namespace compt_fast

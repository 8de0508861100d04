// Products in int8: the rows are rounded once, then meet one panel of the matrix after the other, whose sums are scaled
// back to floats while they are near.
#include "products_int8_cpu.h"

#include <ATen/Parallel.h>

#include <algorithm>

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

// Sums (rows, kInt8Panel) from row `row` and column `column` on, scaled, into their places.
template <typename T>
void finish(const ProductInt8<T>& job, const float* sums, int64_t row, int64_t rows, int64_t column) {
  const int64_t columns = std::min(kInt8Panel, job.columns - column);
  const float* __restrict steps = job.steps + column;
  for (int64_t i = 0; i < rows; ++i) {
    const auto* __restrict from = reinterpret_cast<const StoredInt*>(sums + i * kInt8Panel);
    const auto [step, excess] = job.row_steps[row + i];
    T* __restrict y = job.y + (row + i) * job.columns + column;
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

template <typename T>
void multiply_panel(const ProductInt8<T>& job, int64_t panel, int64_t first, int64_t last) {
  thread_local Buffer scratch;
  float* sums = scratch.of<float>(kBlock * kInt8Panel);
  const int64_t units = parts(job.inner, kBytes);
  const Unit* weight = job.weight + panel * units * kInt8Panel;
  for (int64_t row = first; row < last; row += kBlock) {
    const int64_t count = std::min(kBlock, last - row);
    sums_of_panel(job.q + row * units, count, units, weight, sums);
    finish(job, sums, row, count, panel * kInt8Panel);
  }
}

}  // namespace

template <typename T>
void multiply(const ProductInt8<T>& job) {
  if (job.rows == 0 || job.columns == 0) {
    return;
  }
  const int64_t units = parts(job.inner, kBytes);
  at::parallel_for(0, job.rows, kRounded, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      job.row_steps[row] =
          round_row(job.x + row * job.inner, job.inner, reinterpret_cast<int8_t*>(job.q + row * units));
    }
  });
  const int64_t panels = parts(job.columns, kInt8Panel);
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

template void multiply(const ProductInt8<float>&);
template void multiply(const ProductInt8<c10::BFloat16>&);

}  // namespace compt_fast

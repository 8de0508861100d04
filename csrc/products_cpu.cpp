// Products with a frozen matrix that lies in memory once, as the checkpoint has it, and serves both ways:
// a panel of its columns is packed into a core's cache when it is needed, and meets all rows there.
#include "products_cpu.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "ahead.h"
#include "few_rows.h"
#include "ints.h"
#include "operands.h"

namespace compt_fast {
namespace {

constexpr int64_t kPanel = kTileColumns * kLanes;  // columns that are packed at a time
constexpr int64_t kDeep = 1536;                    // units of the inner dimension that are: 384 KiB of cache at most
constexpr int64_t kSum = 384;                      // units that are summed up before they join the others: it rounds less
constexpr int64_t kBlock = 2 * kTileRows;          // rows that meet a panel at a time
constexpr int64_t kWide = 768;                     // columns that a few rows meet at a time, backward
constexpr int64_t kChunk = 86 * kBlock;            // rows of a task at most
constexpr int64_t kTasks = 8;                      // that a thread has at least, where there are rows for them

int64_t parts(int64_t n, int64_t of) {
  return (n + of - 1) / of;
}

struct Workspace {
  Buffer panel, rows, sums;
};

Workspace& workspace() {
  thread_local Workspace scratch;
  return scratch;
}

// One of a product's matrices, and where its parts of the rows lie.
template <typename T>
struct OfGroup : Product<T> {
  OfGroup(const Product<T>& job, int64_t group)
      : Product<T>(job), x_step(job.groups * job.inner), y_step(job.groups * job.columns) {
    this->x += group * job.inner;
    this->weight += group * job.inner * job.columns;
    this->y += group * job.columns;
    this->other += job.other ? group * job.columns : 0;
  }

  int64_t x_step;  // between rows
  int64_t y_step;
};

// Columns `first` to `first + count` of the matrix that x is multiplied with, `size` elements of its inner
// dimension from `from` on, as the right side of a product.
template <typename T>
const Unit* pack(const OfGroup<T>& job, int64_t first, int64_t count, int64_t from, int64_t size) {
  using Dot = DotOf<T>;
  Workspace& scratch = workspace();
  if (job.back) {
    return pairs_of(job.weight + from * job.columns + first, job.columns, Sizes<Dot>{size, count}, scratch.panel);
  }
  const Sizes<Dot> panel{count, size};
  const Units rows = rows_of(job.weight + first * job.inner + from, job.inner, panel, scratch.rows);
  return transposed(rows, panel, scratch.panel);
}

template <typename T>
Ahead ahead_of(const OfGroup<T>& job, int64_t first, int64_t from) {
  const int64_t count = std::min(kPanel, job.columns - first);
  const int64_t size = std::min(kDeep * DotOf<T>::kPerUnit, job.inner - from);
  const int64_t item = sizeof(T);
  if (count <= 0) {
    return {};
  }
  return job.back ? Ahead(job.weight + from * job.columns + first, size, count * item, job.columns * item)
                  : Ahead(job.weight + first * job.inner + from, count, size * item, job.inner * item);
}

// Sums (rows, columns), `step` between rows, from row `row` and column `column` on, into their places.
template <typename T>
void finish(const OfGroup<T>& job, const float* sums, int64_t step, int64_t row, int64_t rows, int64_t column,
            int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* __restrict from = sums + i * step;
    const int64_t at = (row + i) * job.y_step + column;
    T* __restrict y = job.y + at;
    const auto each = [&](auto&& change) {
      for (int64_t j = 0; j < columns; ++j) {
        y[j] = static_cast<T>(change(j));
      }
    };
    switch (job.after) {
      case After::kNothing:
        each([&](int64_t j) { return from[j]; });
        break;
      case After::kRelu:
        each([&](int64_t j) { return from[j] < 0 ? 0 : from[j]; });
        break;
      case After::kWhere:
        each([&](int64_t j) { return static_cast<float>(job.other[at + j]) <= 0 ? 0 : from[j]; });
        break;
      case After::kAdd:
        each([&](int64_t j) { return static_cast<float>(y[j]) + from[j]; });
        break;
    }
  }
}

// A panel's columns, and the rows from `first` to `last`. `packed` is the panel that this thread has packed.
template <typename T>
void multiply_panel(const OfGroup<T>& job, int64_t panel, int64_t first, int64_t last, int64_t& packed) {
  using Dot = DotOf<T>;
  constexpr int64_t kDeepElements = kDeep * Dot::kPerUnit;
  Workspace& scratch = workspace();
  const int64_t column = panel * kPanel;
  const int64_t columns = std::min(kPanel, job.columns - column);
  const int64_t wide = round_up(columns, kLanes);
  const bool whole = job.inner <= kDeepElements;
  // Sums of all rows, where one part of the inner dimension after the other is added to them.
  float* sums = scratch.sums.of<float>((whole ? kBlock : last - first) * kPanel);
  const Unit* right = scratch.panel.of<Unit>(0);
  // Parts of the inner dimension outside and rows inside: each part of the panel is packed once, stays in cache, and
  // meets all rows. Parts are added in ascending order.
  for (int64_t from = 0; from < job.inner; from += kDeepElements) {
    const int64_t size = std::min(kDeepElements, job.inner - from);
    if (!whole || packed != panel) {
      right = pack(job, column, columns, from, size);
      packed = panel;
    }
    const bool through = from + size == job.inner;
    Ahead ahead = through ? ahead_of(job, column + kPanel, 0) : ahead_of(job, column, from + size);
    for (int64_t row = first; row < last; row += kBlock) {
      const int64_t count = std::min(kBlock, last - row);
      const Sizes<Dot> block{count, size};
      const Units left = rows_of(job.x + row * job.x_step + from, job.x_step, block, scratch.rows);
      float* here = whole ? sums : sums + (row - first) * kPanel;
      for (int64_t unit = 0; unit < block.units_of_width(); unit += kSum) {
        const Units part{left.data + unit * left.inner_step, left.row_step, left.inner_step};
        const int64_t units = std::min(kSum, block.units_of_width() - unit);
        product<Dot>(part, count, units, right + unit * wide, wide, wide, here, kPanel, from > 0 || unit > 0,
                     ahead);
      }
      if (through) {
        finish(job, here, kPanel, row, count, column, columns);
      }
    }
  }
}

// Whether the matrix can be multiplied where it lies: it has whole units and, backward, whole vectors of columns.
template <typename T>
bool is_readable(const Product<T>& job) {
  using Dot = DotOf<T>;
  const bool aligned = reinterpret_cast<uintptr_t>(job.weight) % sizeof(Unit) == 0;
  const bool whole = job.back ? Dot::kPerUnit == 1 && job.columns % kLanes == 0 : job.inner % Dot::kPerUnit == 0;
  return std::is_same_v<T, typename Dot::Element> && aligned && whole;
}

// `columns` columns from `column` on, kWide at most, and all rows, which are few.
template <typename T>
void multiply_few(const OfGroup<T>& job, int64_t column, int64_t columns) {
  using Dot = DotOf<T>;
  Workspace& scratch = workspace();
  const int64_t units = job.inner / Dot::kPerUnit;
  const int64_t wide = round_up(columns, kLanes);
  float* sums = scratch.sums.of<float>(2 * kFew * kWide);
  const Units left = rows_of(job.x, job.x_step, Sizes<Dot>{job.rows, job.inner}, scratch.rows);
  const auto* matrix = reinterpret_cast<const Unit*>(job.weight);
  if (job.back) {
    float* part = sums + kFew * kWide;
    for (int64_t unit = 0; unit < units; unit += kSum) {
      const Units from{left.data + unit * left.inner_step, left.row_step, left.inner_step};
      const Unit* right = matrix + unit * job.columns + column;
      few_rows_on<Dot>(from, job.rows, std::min(kSum, units - unit), right, job.columns, wide, unit ? part : sums);
      for (int64_t i = 0; unit > 0 && i < job.rows * wide; ++i) {
        sums[i] += part[i];
      }
    }
  } else {
    for (int64_t at = 0; at < columns; at += kLanes) {
      const Columns part{matrix + (column + at) * units, units, std::min(kLanes, columns - at), units};
      few_rows<Dot>(left, job.rows, part, kSum, sums + at, wide);
    }
  }
  finish(job, sums, wide, 0, job.rows, column, columns);
}

template <typename T>
void multiply_few(const Product<T>& job) {
  const int64_t wide = job.back ? kWide : kPanel;
  const int64_t pieces = parts(job.columns, wide);
  at::parallel_for(0, job.groups * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t column = task % pieces * wide;
      multiply_few(OfGroup<T>(job, task / pieces), column, std::min(wide, job.columns - column));
    }
  });
}

}  // namespace

template <typename T>
void multiply(const Product<T>& job) {
  if (job.rows == 0 || job.groups == 0 || job.columns == 0) {
    return;
  }
  const int64_t panels = parts(job.columns, kPanel);
  if (job.rows <= kFew && is_readable(job)) {
    multiply_few(job);
    return;
  }
  const int64_t wanted = parts(kTasks * at::get_num_threads(), job.groups * panels);
  const int64_t chunk = std::min(kChunk, round_up(parts(job.rows, wanted), kBlock));
  const int64_t chunks = parts(job.rows, chunk);  // the last one may be shorter, and none is empty
  // Chunks of rows inside: a thread that goes on to the next chunk of a panel finds it packed.
  at::parallel_for(0, job.groups * panels * chunks, 1, [&](int64_t begin, int64_t end) {
    int64_t packed = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / chunks / panels;
      if (task % (panels * chunks) == 0) {
        packed = -1;  // another matrix's panels
      }
      const int64_t first = task % chunks * chunk;
      multiply_panel(OfGroup<T>(job, group), task / chunks % panels, first, std::min(job.rows, first + chunk), packed);
    }
  });
}

bool has_products(at::ScalarType type) {
  if (type == at::kChar) {
#ifdef __AMX_INT8__
    return false;
#else
    return kHasVnni;
#endif
  }
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
  return type == at::kFloat || type == at::kBFloat16;
#elif defined(__AVX512F__)
  return type == at::kFloat;
#else
  (void)type;
  return false;
#endif
}

template void multiply(const Product<float>&);
template void multiply(const Product<c10::BFloat16>&);

}  // namespace compt_fast

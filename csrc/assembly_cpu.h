#pragma once

#include <vector>

#include "assembly.h"

namespace compt_fast {

// The rows of the batch by slot: those of slot s are rows[starts[s]] ... rows[starts[s + 1] - 1],
// ascending.
struct RowsOfSlots {
  std::vector<int64_t> starts;
  std::vector<int64_t> rows;
};

RowsOfSlots rows_of_slots(const Layout& layout);

// Write the packed rows begin ... end - 1. Everything in `job` has been checked.
void assemble_rows(const Assembly& job, int64_t begin, int64_t end);

// Write rows begin ... end - 1 of the prompts' gradient. Everything in `job` has been checked.
void reduce_rows(const Reduction& job, const RowsOfSlots& by_slot, int64_t begin, int64_t end);

}  // namespace compt_fast

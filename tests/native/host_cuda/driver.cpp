// driver CASES RESULTS: what csrc/assembly_cuda.cu makes of each case, forward and backward, on the host.
//
// Every case runs once under each schedule of blocks and threads, into results that were filled with
// other garbage before; the results must agree to the bit. tests/helpers/host_cuda.py writes the cases.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "assembly_cuda.h"
#include "host_cuda.h"

namespace {

using namespace compt_fast;

constexpr int64_t kAligned = 64;

// Memory of exactly `bytes`, `shift` bytes behind a boundary: AddressSanitizer sees a step over its end.
class Memory {
 public:
  explicit Memory(int64_t bytes, int64_t shift = 0) : bytes_(bytes) {
    void* whole = nullptr;
    if (posix_memalign(&whole, kAligned, bytes + shift) != 0) {
      std::abort();
    }
    whole_ = static_cast<char*>(whole);
    data_ = whole_ + shift;
  }
  ~Memory() { std::free(whole_); }
  Memory(const Memory&) = delete;

  void fill(int garbage) { std::memset(data_, garbage, bytes_); }
  char* data() const { return data_; }
  int64_t* index() const { return reinterpret_cast<int64_t*>(data_); }
  std::string copy() const { return {data_, static_cast<size_t>(bytes_)}; }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  char* whole_;
  char* data_;
};

// In the order in which they stand in the file, each in 8 bytes.
struct Header {
  int64_t prompt_type, trunk_type, prepend;
  int64_t slot_count, rows, total, width, prompt_rows, vocabulary, tokens;
  int64_t prompt_stride, embedding_stride, grad_stride;  // in elements
  int64_t prompt_shift, embedding_shift, grad_shift;     // in bytes
  int64_t prompt_bytes, embedding_bytes, grad_bytes;
};

int64_t size_of(int64_t type) {
  constexpr int64_t kSizes[] = {4, 8, 2, 2};
  return kSizes[type];
}

void need(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    std::fprintf(stderr, "driver: %s: error %d\n", what, error);
    std::exit(4);
  }
}

struct Case {
  const Header h;
  Memory prompt_cu_seqlens, slots, input_cu_seqlens, token_ids, prompts, embedding, grad;

  Case(const Header& h, std::istream& in)
      : h(h),
        prompt_cu_seqlens((h.slot_count + 1) * 8),
        slots(h.rows * 8),
        input_cu_seqlens((h.rows + 1) * 8),
        token_ids(h.tokens * 8),
        prompts(h.prompt_bytes, h.prompt_shift),
        embedding(h.embedding_bytes, h.embedding_shift),
        grad(h.grad_bytes, h.grad_shift) {
    for (Memory* memory : {&prompt_cu_seqlens, &slots, &input_cu_seqlens, &token_ids, &prompts, &embedding, &grad}) {
      in.read(memory->data(), memory->bytes());
    }
  }

  // packed_cu_seqlens, the packed input and the prompts' gradient, one after the other.
  std::string run(host_cuda::Schedule schedule, int garbage) const {
    host_cuda::choose(schedule);
    const Float trunk = static_cast<Float>(h.trunk_type);
    Memory cu_seqlens((h.rows + 1) * 8);
    Memory packed(h.total * h.width * size_of(h.trunk_type));
    Memory out(h.prompt_rows * h.width * (trunk == Float::f64 ? 8 : 4));
    for (Memory* memory : {&cu_seqlens, &packed, &out}) {
      memory->fill(garbage);
    }
    need(packed_cu_seqlens_cuda(prompt_cu_seqlens.index(), h.slot_count, slots.index(), input_cu_seqlens.index(),
                                h.rows, cu_seqlens.index(), nullptr),
         "packed_cu_seqlens_cuda");
    const Layout layout{prompt_cu_seqlens.index(), slots.index(), cu_seqlens.index(), h.slot_count,
                        h.rows, h.total, h.width, h.prepend != 0};
    if (packed.bytes() > 0) {
      const Assembly job{layout,
                         {prompts.data(), static_cast<Float>(h.prompt_type), h.prompt_stride},
                         {embedding.data(), trunk, h.embedding_stride},
                         {packed.data(), trunk, h.width},
                         token_ids.index(), input_cu_seqlens.index(), h.prompt_rows, h.vocabulary, h.tokens};
      need(assemble_cuda(job, nullptr), "assemble_cuda");
    }
    if (out.bytes() > 0) {
      const Reduction job{layout, {grad.data(), trunk, h.grad_stride}, out.data(), h.prompt_rows};
      need(reduce_cuda(job, nullptr), "reduce_cuda");
    }
    return cu_seqlens.copy() + packed.copy() + out.copy();
  }
};

}  // namespace

int main(int, char** names) {
  using host_cuda::Schedule;
  std::ifstream in(names[1], std::ios::binary);
  std::ofstream results(names[2], std::ios::binary);
  Header header;
  for (int number = 0; in.read(reinterpret_cast<char*>(&header), sizeof(header)); ++number) {
    const Case one(header, in);
    const std::string right = one.run(Schedule::forward, 0x5a);
    if (one.run(Schedule::reverse, 0xa5) != right || one.run(Schedule::shuffled, 0x3c) != right) {
      std::fprintf(stderr, "driver: the results of case %d depend on the order of threads\n", number);
      return 5;
    }
    results << right;
  }
  return 0;
}

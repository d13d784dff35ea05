// The error-compensated one-bit all-reduce of 1-bit Adam (Tang et al., arXiv 2102.02888, algorithm
// 1, lines 7 to 12): two phases, each sends one bit an element and one scale a chunk.
//
//   worker  c = x + worker_error; chunk r: scale ‖c‖₂/√length, signs → rank r; worker_error = c −
//   sent server  a = Σ_r scale_r·sign_r / n + server_error; the same way → every rank; server_error
//   = a − sent result  x = what the servers sent
//
// Rank r serves chunk r: elements [r·chunk, (r+1)·chunk) that exist, where chunk is count/n rounded
// up to a multiple of 64, so that a chunk's bits are whole words. Deviation from DeepSpeed: a scale
// of each chunk instead of one of the whole tensor, and padding is never counted in its length.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "core/isa.h"

namespace dsjs {

class CompressedAllReduce {
 public:
  // For vectors of `count` fp32 elements over the ranks of `communicator`, which outlives this. The
  // staging (about 3 bits an element) is allocated here and charged to `account` as communication.
  CompressedAllReduce(Communicator& communicator, size_t count,
                      std::shared_ptr<MemoryAccount> account);

  // Elements of worker_error: the whole vector. Of server_error: this rank's chunk, 0 where it has
  // none.
  size_t count() const { return count_; }
  size_t served() const { return length(rank_); }
  // Bytes that this rank sends to others in one call.
  size_t bytes_sent() const { return 2 * (ranks_ - 1) * block_; }

  // x becomes the compressed mean over ranks, equal on all of them bit for bit. Throws NON_FINITE
  // on every rank, naming the ranks, where a rank's x + worker_error has an element that is not
  // finite; x is unchanged then, the errors are void.
  void run(float* x, float* worker_error, float* server_error, Isa isa = active_isa());

 private:
  size_t offset(size_t rank) const;
  size_t length(size_t rank) const;
  uint8_t* block(const std::shared_ptr<Buffer>& buffer, size_t rank) const;

  Communicator& communicator_;
  size_t ranks_, rank_, count_, chunk_, block_;
  std::shared_ptr<Buffer> outgoing_, incoming_, gathered_;
};

}  // namespace dsjs

// Collectives of ZeRO++ (Wang et al., arXiv 2306.10209, sections 3.1 and 3.3): what travels is
// blocks of 8 or 4 bits an element with one fp32 scale each. A block's scale is its largest
// absolute value / L, L = 127 or 7, and q = round(x · L/largest), ties to even: |x − q·scale| ≤
// largest / 2L. A block with a value that is not finite arrives as NaN.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "core/isa.h"

namespace dsjs {

struct BlockQuantisation {
  int bits = 8;        // or 4
  size_t block = 256;  // elements of a scale; even
};

// Bytes of `count` elements as they travel.
size_t quantised_bytes(const BlockQuantisation& how, size_t count);
// `to` has quantised_bytes(); `from` is fp32, fp16 or bf16.
void quantise_blocks(const BlockQuantisation& how, const void* from, DType type, size_t count,
                     uint8_t* to, Isa isa = active_isa());
// to = or += the values, rounded to `type`; sums are of fp32.
void dequantise_blocks(const BlockQuantisation& how, const uint8_t* from, size_t count, void* to,
                       DType type, bool add, Isa isa = active_isa());

// N ranks. Used from one thread at a time, by all ranks in the same order.
class QuantisedCollectives {
 public:
  // `largest`: elements that a rank's part of a call has at most. Staging, N + 1 parts as they
  // travel, is charged to `account` as communication. Throws INVALID_ARGUMENT for other bits than 8
  // and 4 and for an odd or empty block.
  QuantisedCollectives(const BlockQuantisation& how, size_t largest, Communicator& communicator,
                       std::shared_ptr<MemoryAccount> account);

  // data[shards[r]] of rank r goes to every rank, quantised: r too keeps what the others get. Each
  // rank sends its part once.
  void all_gather(void* data, DType type, const std::vector<Shard>& shards);
  // Rank r gets the sum over ranks of bucket[shards[r]], fp32, each rank's term but its own
  // quantised once, in rank order. Each rank sends the others' parts to them and nothing else.
  // `target` may be this rank's part of the bucket.
  void reduce_scatter(const float* bucket, const std::vector<Shard>& shards, float* target,
                      bool accumulate);

 private:
  uint8_t* slot(size_t rank) const;
  void check(const char* operation, const std::vector<Shard>& shards) const;

  BlockQuantisation how_;
  size_t largest_;
  Communicator& communicator_;
  size_t ranks_, rank_;
  std::shared_ptr<Buffer> staging_;
};

}  // namespace dsjs

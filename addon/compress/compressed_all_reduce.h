// The error-compensated one-bit all-reduce of 1-bit Adam (Tang et al., arXiv 2102.02888, algorithm
// 1, lines 7 to 12): two phases, each sends one bit an element and one scale a block.
//
//   worker  c = x + worker_error; block b: scale ‖c_b‖₂/√length, signs → b's server; worker_error =
//   c − sent server  a = Σ_r scale_r·sign_r / n + server_error; the same way → every rank;
//   server_error = a − sent result  x = what the servers sent
//
// A block is at most 1,024 elements of one tensor, so that neither a large tensor nor a neighbour
// of another size takes the small elements' scale; a rank serves consecutive blocks, about a share
// of the elements. Deviation from DeepSpeed: it has one scale a tensor and counts padding in its
// length; here nothing is padded.
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
  // As many elements make a chunk, at least, and no more chunks than this: each costs two meetings.
  static constexpr size_t kChunkElements = size_t{1} << 21;
  static constexpr size_t kMostChunks = 8;

  // For flat vectors of fp32 elements in which tensors of these lengths lie back to back, over the
  // ranks of `communicator`, which outlives this. The staging (about 3 bits an element) is
  // allocated here and charged to `account` as communication.
  CompressedAllReduce(Communicator& communicator, const std::vector<size_t>& tensors,
                      std::shared_ptr<MemoryAccount> account,
                      size_t chunk_elements = kChunkElements);

  // Elements of x and worker_error, and of server_error: those that this rank serves.
  size_t count() const { return count_; }
  size_t served() const { return end_of(rank_) - begin_of(rank_); }
  // Bytes that this rank sends to others in one call.
  size_t bytes_sent() const { return 2 * (ranks_ - 1) * message_; }

  // x becomes the compressed mean over ranks, equal on all of them bit for bit. Throws NON_FINITE
  // on every rank, naming the ranks, where a rank's x + worker_error has an element that is not
  // finite; x is unchanged then, the errors are void.
  void run(float* x, float* worker_error, float* server_error, Isa isa = active_isa());

  // The same in steps, so that one chunk is computed while another is on the wire: each step of all
  // chunks, or of one chunk after the other; chunks in order. exchange and gather are collectives,
  // and only exchange throws NON_FINITE. A chunk is a share of what each rank serves: how many
  // there are changes no bit.
  size_t chunks() const { return chunks_.size(); }
  void pack(size_t chunk, const float* x, float* worker_error, Isa isa = active_isa());
  void exchange(size_t chunk);
  void average(size_t chunk, float* server_error, Isa isa = active_isa());
  void gather(size_t chunk);
  void unpack(size_t chunk, float* x, Isa isa = active_isa());

 private:
  struct Block {
    size_t offset, count;
    // Where its signs begin in the message of its chunk and server, behind the scales.
    size_t signs;
  };
  struct Chunk {
    // Of its messages, which are all of one length, in each staging buffer; bytes.
    size_t offset, message;
    // Of rank r's blocks it has [first[r], end[r]).
    std::vector<size_t> first, end;
  };
  // One rank's part of a message buffer: a scale a block, then the blocks' signs.
  struct Message {
    float* scales;
    uint8_t* signs;
  };

  size_t begin_of(size_t rank) const;
  size_t end_of(size_t rank) const { return begin_of(rank + 1); }
  void make_chunk(size_t index, size_t chunks);
  std::byte* staging(const std::shared_ptr<Buffer>& buffer, const Chunk& chunk, size_t slot) const;
  Message message(const std::shared_ptr<Buffer>& buffer, const Chunk& chunk, size_t server,
                  size_t slot) const;

  Communicator& communicator_;
  size_t ranks_, rank_, count_ = 0;
  std::vector<Block> blocks_;
  // Rank r serves blocks [first_[r], first_[r + 1]).
  std::vector<size_t> first_;
  std::vector<Chunk> chunks_;
  // Bytes of a message of every chunk.
  size_t message_ = 0;
  std::shared_ptr<Buffer> outgoing_, incoming_, gathered_;
};

}  // namespace dsjs

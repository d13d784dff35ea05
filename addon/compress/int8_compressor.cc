// Eight bits an element and a scale a block, in two phases: rank r adds up the blocks that it
// serves and sends the sum back, again in eight bits. What it could not pass on becomes a part of
// its own error, since it will be sent with the same elements' next gradients. Wire: about 2·(1 +
// 4/block) bytes an element, where a dense sum moves 8.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "compress/gradient_compressor.h"
#include "compress/int8_kernels.h"
#include "compress/messages.h"

namespace dsjs {
namespace {

// Blocks whose largest value is below it are not sent, but kept: 127/largest must be finite.
constexpr float kLeast = 0x1p-100f;

struct Scale {
  float scale = 0, inverse = 0;
  explicit Scale(uint32_t peak_bits) {
    const float peak = std::bit_cast<float>(peak_bits);
    if (!(peak >= kLeast)) return;
    scale = peak / 127.0f;
    inverse = 127.0f / peak;
  }
};

class Int8Compressor final : public GradientCompressor {
 public:
  Int8Compressor(size_t block, Communicator& communicator,
                 const std::vector<CompressedTensor>& tensors,
                 std::shared_ptr<MemoryAccount> account)
      : communicator_(communicator),
        ranks_(static_cast<size_t>(communicator.size())),
        rank_(static_cast<size_t>(communicator.rank())),
        tensors_(tensors),
        sum_(block) {
    size_t total = 0, before = 0;
    for (const CompressedTensor& tensor : tensors) total += tensor.count();
    for (size_t server = 0; const CompressedTensor& tensor : tensors) {
      for (size_t done = 0; done < tensor.count(); done += block) {
        const Block next{tensor.offset + done, std::min(block, tensor.count() - done)};
        // Consecutive blocks, about a share of the elements: as long as this rank's share begins.
        while (server + 1 < ranks_ && before >= total * (server + 1) / ranks_)
          first_.resize(++server + 1, blocks_.size());
        blocks_.push_back(next);
        before += next.count;
      }
    }
    first_.resize(ranks_ + 1, blocks_.size());
    for (size_t r = 0; r < ranks_; ++r) {
      size_t bytes = scales_of(r) * sizeof(float);
      for (size_t b = first_[r]; b < first_[r + 1]; ++b) {
        blocks_[b].place = bytes;
        bytes += blocks_[b].count;
      }
      message_ = std::max(message_, bytes);
    }
    message_ = message_length(message_);
    for (auto* staging : {&outgoing_, &incoming_, &gathered_})
      *staging = communicator.allocate_shared(ranks_ * message_, Category::kCommunication, account);
  }

  void run(float* x, float* error, float*, Isa isa) override {
    const Int8Kernels& kernels = int8_kernels(isa);
    send_to_servers(kernels, x, error);
    communicator_.all_to_all(outgoing_->data(), incoming_->data(), message_);
    for (size_t r = 0; r < ranks_; ++r)
      if (std::isnan(message(incoming_, r)[0])) return fill_with_nan(x, tensors_);
    keep_what_was_not_sent(kernels, x, error);
    serve(kernels, error);
    gather_messages(communicator_, gathered_->data(), message_);
    each_block([&](size_t server, size_t b) {
      const float* from = message(gathered_, server);
      const Block& block = blocks_[b];
      kernels.decode(values(from, block), from[b - first_[server]], x + block.offset, block.count);
    });
  }

 private:
  struct Block {
    size_t offset, count;
    // Where its values begin in its server's message, in bytes; behind the scales.
    size_t place = 0;
  };

  // At least one scale, in which a rank can say that its gradient is not finite.
  size_t scales_of(size_t server) const {
    return std::max<size_t>(1, first_[server + 1] - first_[server]);
  }
  float* message(const std::shared_ptr<Buffer>& buffer, size_t slot) const {
    return message_at(buffer, slot, message_);
  }
  static const int8_t* values(const float* message, const Block& block) {
    return reinterpret_cast<const int8_t*>(message) + block.place;
  }
  static int8_t* values(float* message, const Block& block) {
    return reinterpret_cast<int8_t*>(message) + block.place;
  }
  template <class Body>
  void each_block(Body body) const {
    for (size_t server = 0; server < ranks_; ++server)
      for (size_t b = first_[server]; b < first_[server + 1]; ++b) body(server, b);
  }

  void send_to_servers(const Int8Kernels& kernels, float* x, const float* error) {
    bool finite = true;
    for (size_t r = 0; r < ranks_; ++r) message(outgoing_, r)[0] = 0;
    each_block([&](size_t server, size_t b) {
      float* to = message(outgoing_, server);
      const Block& block = blocks_[b];
      const uint32_t peak = kernels.compensate(x + block.offset, error + block.offset, block.count);
      finite = finite && peak < Int8Kernels::kInfinity;
      const Scale scale(peak);
      to[b - first_[server]] = scale.scale;
      kernels.quantise(x + block.offset, scale.inverse, values(to, block), block.count);
    });
    if (finite) return;
    for (size_t r = 0; r < ranks_; ++r)
      message(outgoing_, r)[0] = std::numeric_limits<float>::quiet_NaN();
  }

  void keep_what_was_not_sent(const Int8Kernels& kernels, const float* x, float* error) {
    each_block([&](size_t server, size_t b) {
      const float* sent = message(outgoing_, server);
      const Block& block = blocks_[b];
      kernels.residual(x + block.offset, values(sent, block), sent[b - first_[server]],
                       error + block.offset, block.count);
    });
  }

  void serve(const Int8Kernels& kernels, float* error) {
    float* own = message(gathered_, rank_);
    for (size_t b = first_[rank_]; b < first_[rank_ + 1]; ++b) {
      const Block& block = blocks_[b];
      const size_t index = b - first_[rank_];
      std::fill_n(sum_.begin(), block.count, 0.0f);
      for (size_t r = 0; r < ranks_; ++r) {
        const float* from = message(incoming_, r);
        kernels.accumulate(values(from, block), from[index], sum_.data(), block.count);
      }
      const uint32_t peak = kernels.peak(sum_.data(), block.count);
      if (peak >= Int8Kernels::kInfinity) {
        // Finite numbers whose sum is not: all ranks see it in the result.
        own[index] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      const Scale scale(peak);
      own[index] = scale.scale;
      kernels.quantise(sum_.data(), scale.inverse, values(own, block), block.count);
      kernels.residual(sum_.data(), values(own, block), scale.scale, sum_.data(), block.count);
      kernels.compensate(error + block.offset, sum_.data(), block.count);
    }
  }

  Communicator& communicator_;
  size_t ranks_, rank_;
  std::vector<CompressedTensor> tensors_;
  std::vector<Block> blocks_;
  // Rank r serves blocks [first_[r], first_[r + 1]).
  std::vector<size_t> first_{0};
  // Bytes of the longest message.
  size_t message_ = 0;
  // Of a block.
  std::vector<float> sum_;
  std::shared_ptr<Buffer> outgoing_, incoming_, gathered_;
};

}  // namespace

std::unique_ptr<GradientCompressor> make_int8_compressor(
    size_t block, Communicator& communicator, const std::vector<CompressedTensor>& tensors,
    std::shared_ptr<MemoryAccount> account) {
  return std::make_unique<Int8Compressor>(block, communicator, tensors, std::move(account));
}

}  // namespace dsjs

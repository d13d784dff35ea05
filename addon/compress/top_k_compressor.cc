// The largest elements of each tensor, as pairs of index and value (Lin et al., arXiv 1712.01887;
// Stich et al., arXiv 1809.07599): every rank sends its own, and adds up everybody's in rank order.
// Nothing is rounded: what is sent is exact, and what is not stays whole. Of k = ⌈ratio · count⌉
// elements with equal absolute values at the limit, those with the lower index go. Wire: 8·k bytes
// to every other rank.
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

constexpr uint32_t kSign = 0x80000000u;
// Absolute values are chosen by their bits, first by the topmost eleven of 31.
constexpr int kShift = 20;
constexpr size_t kBins = size_t{1} << 11;

uint32_t size_bits(float value) { return std::bit_cast<uint32_t>(value) & ~kSign; }

// Which elements go: those whose size_bits are above `limit`, and the first `ties` that equal it.
struct Selection {
  uint32_t limit;
  size_t ties;
};

class Selector {
 public:
  Selection select(const float* x, size_t count, size_t k) {
    // Four histograms: neighbours often fall into the same bin.
    std::fill(std::begin(bins_), std::end(bins_), 0);
    for (size_t i = 0; i < count; ++i) ++bins_[(i & 3) * kBins + (size_bits(x[i]) >> kShift)];
    size_t above = 0, bin = kBins;
    size_t here = 0;
    do {
      above += here;
      --bin;
      here = bins_[bin] + bins_[kBins + bin] + bins_[2 * kBins + bin] + bins_[3 * kBins + bin];
    } while (above + here < k);
    candidates_.clear();
    for (size_t i = 0; i < count; ++i)
      if (size_bits(x[i]) >> kShift == bin) candidates_.push_back(size_bits(x[i]));
    const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(k - above - 1);
    std::nth_element(candidates_.begin(), last, candidates_.end(), std::greater<>());
    const auto greater =
        std::count_if(candidates_.begin(), last, [&](uint32_t size) { return size > *last; });
    return {*last, k - above - static_cast<size_t>(greater)};
  }

 private:
  size_t bins_[4 * kBins];
  std::vector<uint32_t> candidates_;
};

class TopKCompressor final : public GradientCompressor {
 public:
  TopKCompressor(double ratio, Communicator& communicator,
                 const std::vector<CompressedTensor>& tensors,
                 std::shared_ptr<MemoryAccount> account)
      : communicator_(communicator),
        ranks_(static_cast<size_t>(communicator.size())),
        rank_(static_cast<size_t>(communicator.rank())),
        tensors_(tensors),
        selector_(std::make_unique<Selector>()) {
    for (const CompressedTensor& tensor : tensors) {
      const double share = std::ceil(ratio * static_cast<double>(tensor.count()));
      chosen_.push_back(std::min(tensor.count(), static_cast<size_t>(share)));
      pairs_ += chosen_.back();
    }
    message_ = message_length(sizeof(float) + pairs_ * 2 * sizeof(float));
    gathered_ = communicator.allocate_shared(ranks_ * message_, Category::kCommunication, account);
  }

  size_t bytes_sent() const override { return (ranks_ - 1) * message_; }

  void run(float* x, float* error, float*, Isa isa) override {
    choose(x, error, isa);
    gather_messages(communicator_, gathered_, message_);
    for (size_t r = 0; r < ranks_; ++r)
      if (std::isnan(*message(r).flag)) return fill_with_nan(x, tensors_);
    const Message own = message(rank_);
    for (const CompressedTensor& tensor : tensors_)
      std::copy_n(x + tensor.offset, tensor.count(), error + tensor.offset);
    for (size_t i = 0; i < pairs_; ++i) error[own.indices[i]] = 0;
    for (const CompressedTensor& tensor : tensors_)
      std::fill_n(x + tensor.offset, tensor.count(), 0.0f);
    for (size_t r = 0; r < ranks_; ++r) {
      const Message from = message(r);
      for (size_t i = 0; i < pairs_; ++i) x[from.indices[i]] += from.values[i];
    }
  }

 private:
  struct Message {
    float* flag;
    uint32_t* indices;
    float* values;
  };
  Message message(size_t r) const {
    float* words = message_at(gathered_, r, message_);
    return {words, reinterpret_cast<uint32_t*>(words + 1), words + 1 + pairs_};
  }

  void choose(float* x, const float* error, Isa isa) {
    const Message own = message(rank_);
    *own.flag = 0;
    size_t pair = 0;
    for (size_t t = 0; t < tensors_.size(); ++t) {
      const auto [offset, rows, columns] = tensors_[t];
      const size_t count = rows * columns;
      const uint32_t peak = int8_kernels(isa).compensate(x + offset, error + offset, count);
      if (peak >= Int8Kernels::kInfinity) *own.flag = std::numeric_limits<float>::quiet_NaN();
      auto [limit, ties] = selector_->select(x + offset, count, chosen_[t]);
      for (size_t i = offset; i < offset + count; ++i) {
        const uint32_t size = size_bits(x[i]);
        if (size < limit || (size == limit && ties == 0)) continue;
        if (size == limit) --ties;
        own.indices[pair] = static_cast<uint32_t>(i);
        own.values[pair++] = x[i];
      }
    }
  }

  Communicator& communicator_;
  size_t ranks_, rank_;
  std::vector<CompressedTensor> tensors_;
  // Elements that are sent of each tensor, and of all.
  std::vector<size_t> chosen_;
  size_t pairs_ = 0, message_ = 0;
  std::unique_ptr<Selector> selector_;
  std::shared_ptr<Buffer> gathered_;
};

}  // namespace

std::unique_ptr<GradientCompressor> make_top_k_compressor(
    double ratio, Communicator& communicator, const std::vector<CompressedTensor>& tensors,
    std::shared_ptr<MemoryAccount> account) {
  return std::make_unique<TopKCompressor>(ratio, communicator, tensors, std::move(account));
}

}  // namespace dsjs

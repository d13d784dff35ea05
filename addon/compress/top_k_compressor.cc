// The largest elements of each tensor, as pairs of index and value (Lin et al., arXiv 1712.01887;
// Stich et al., arXiv 1809.07599): every rank sends its own, and adds up everybody's in rank order.
// Nothing is rounded: what is sent is exact, and what is not stays whole. Of k = ⌈ratio · count⌉
// elements with equal absolute values at the limit, those with the lower index go. Wire: 8·k bytes
// to every other rank.
//
// The limit is found among candidates, which one pass over the tensor collects: what is at least as
// large as a sample says that somewhat more than k elements are. Where it says too much the pass is
// repeated with less.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "compress/gradient_compressor.h"
#include "compress/int8_kernels.h"
#include "compress/messages.h"
#include "compress/top_k_kernels.h"

namespace dsjs {
namespace {

// Elements that are walked at once: a page.
constexpr size_t kPage = 1024;
// Elements of a sample, a cache line each time: the rest of it would cost as much.
constexpr size_t kSample = size_t{1} << 14;
constexpr size_t kLine = 16;

uint32_t size_bits(float value) { return std::bit_cast<uint32_t>(value) & 0x7fffffffu; }

// Candidates of one tensor after the other.
class Collector {
 public:
  // x += error, and collects at least k elements of it or all that are not 0; returns the bits of
  // the largest |x|.
  uint32_t collect(const TopKKernels& kernels, float* x, const float* error, size_t count,
                   uint32_t first, size_t k) {
    sample(x, error, count);
    const double share = static_cast<double>(sizes_.size()) / static_cast<double>(count);
    const double expected = share * static_cast<double>(k);
    // Of a sample that is drawn by chance, one in thousands has fewer.
    auto rank = static_cast<size_t>(expected + 4 * std::sqrt(expected));
    uint32_t peak = 0;
    for (;; rank = 2 * rank + 1, error = nullptr) {
      const uint32_t least = std::max(1u, sampled(rank));
      found_ = 0;
      for (size_t i = 0; i < count; i += kPage) {
        const size_t length = std::min(kPage, count - i);
        if (found_ + length + Candidates::kSlack > places_.size()) {
          places_.resize(2 * places_.size() + kPage + Candidates::kSlack);
          values_.resize(places_.size());
        }
        Candidates candidates{places_.data(), values_.data(), found_};
        const uint32_t here = kernels.collect(x + i, error ? error + i : nullptr, length,
                                              first + static_cast<uint32_t>(i), least, candidates);
        found_ = candidates.found;
        peak = std::max(peak, here);
      }
      if (found_ >= k || least == 1) return peak;
    }
  }

  // Calls send(place, value) for the k that go, in ascending order of place.
  template <class Send>
  void choose(const float* x, size_t count, uint32_t first, size_t k, Send send) {
    if (found_ < k) return choose_zeros_too(x, count, first, k - found_, send);
    sizes_.resize(found_);
    std::transform(values_.begin(), values_.begin() + static_cast<std::ptrdiff_t>(found_),
                   sizes_.begin(), size_bits);
    const uint32_t limit = largest(k - 1);
    size_t ties = k;
    for (size_t i = 0; i < found_; ++i) ties -= size_bits(values_[i]) > limit;
    for (size_t i = 0; i < found_; ++i) {
      const uint32_t size = size_bits(values_[i]);
      if (size < limit || (size == limit && ties == 0)) continue;
      if (size == limit) --ties;
      send(places_[i], values_[i]);
    }
  }

 private:
  template <class Send>
  static void choose_zeros_too(const float* x, size_t count, uint32_t first, size_t zeros,
                               Send send) {
    for (size_t i = 0; i < count; ++i) {
      const bool is_zero = size_bits(x[i]) == 0;
      if (is_zero && zeros == 0) continue;
      if (is_zero) --zeros;
      send(first + static_cast<uint32_t>(i), x[i]);
    }
  }

  // Absolute values of x + error, at most kSample of them.
  void sample(const float* x, const float* error, size_t count) {
    sizes_.clear();
    const size_t lines = kSample / kLine;
    const size_t stride = count <= kSample ? kLine : count / lines;
    for (size_t begin = 0; begin < count && sizes_.size() < kSample; begin += stride)
      for (size_t i = begin; i < std::min(begin + kLine, count); ++i)
        sizes_.push_back(size_bits(x[i] + error[i]));
  }

  // The element of the sample that `rank` others are above; 0 where there are no so many.
  uint32_t sampled(size_t rank) { return rank < sizes_.size() ? largest(rank) : 0; }
  // Reorders sizes_.
  uint32_t largest(size_t rank) {
    const auto at = sizes_.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(sizes_.begin(), at, sizes_.end(), std::greater<>());
    return *at;
  }

  std::vector<uint32_t> places_;
  std::vector<float> values_;
  size_t found_ = 0;
  // Of the sample, then of the candidates.
  std::vector<uint32_t> sizes_;
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
        account_(std::move(account)) {
    choose_ratio(ratio);
  }

  void set_ratio(double ratio) override {
    if (ratio != ratio_) choose_ratio(ratio);
  }

  void run(float* x, float* error, float*, Isa isa) override {
    choose(x, error, isa);
    gather_messages(communicator_, gathered_->data(), message_);
    for (size_t r = 0; r < ranks_; ++r)
      if (std::isnan(*message(r).flag)) return fill_with_nan(x, tensors_);
    const Message own = message(rank_);
    for (const CompressedTensor& tensor : tensors_)
      for (size_t done = 0; done < tensor.count(); done += kPage) {
        const size_t length = std::min(kPage, tensor.count() - done);
        float* at = x + tensor.offset + done;
        std::copy_n(at, length, error + tensor.offset + done);
        std::fill_n(at, length, 0.0f);
      }
    for (size_t i = 0; i < pairs_; ++i) error[own.indices[i]] = 0;
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

  void choose_ratio(double ratio) {
    ratio_ = ratio;
    chosen_.clear();
    pairs_ = 0;
    for (const CompressedTensor& tensor : tensors_) {
      const double share = std::ceil(ratio * static_cast<double>(tensor.count()));
      chosen_.push_back(std::min(tensor.count(), static_cast<size_t>(share)));
      pairs_ += chosen_.back();
    }
    message_ = message_length(sizeof(float) + pairs_ * 2 * sizeof(float));
    gathered_.reset();
    gathered_ =
        communicator_.allocate_shared(ranks_ * message_, Category::kCommunication, account_);
  }

  void choose(float* x, const float* error, Isa isa) {
    const Message own = message(rank_);
    *own.flag = 0;
    size_t pair = 0;
    for (size_t t = 0; t < tensors_.size(); ++t) {
      const auto [offset, rows, columns] = tensors_[t];
      const size_t count = rows * columns;
      const auto first = static_cast<uint32_t>(offset);
      const uint32_t peak = collector_.collect(top_k_kernels(isa), x + offset, error + offset,
                                               count, first, chosen_[t]);
      if (peak >= Int8Kernels::kInfinity) *own.flag = std::numeric_limits<float>::quiet_NaN();
      collector_.choose(x + offset, count, first, chosen_[t], [&](uint32_t place, float value) {
        own.indices[pair] = place;
        own.values[pair++] = value;
      });
    }
  }

  Communicator& communicator_;
  size_t ranks_, rank_;
  std::vector<CompressedTensor> tensors_;
  std::shared_ptr<MemoryAccount> account_;
  double ratio_ = 0;
  // Elements that are sent of each tensor, and of all.
  std::vector<size_t> chosen_;
  size_t pairs_ = 0, message_ = 0;
  Collector collector_;
  std::shared_ptr<Buffer> gathered_;
};

}  // namespace

std::unique_ptr<GradientCompressor> make_top_k_compressor(
    double ratio, Communicator& communicator, const std::vector<CompressedTensor>& tensors,
    std::shared_ptr<MemoryAccount> account) {
  return std::make_unique<TopKCompressor>(ratio, communicator, tensors, std::move(account));
}

}  // namespace dsjs

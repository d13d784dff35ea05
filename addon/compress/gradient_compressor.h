// Lossy sums of gradients over ranks, with error feedback (Stich et al., arXiv 1809.07599,
// algorithm 1): what a rank could not send is added to its gradient the next time.
//
//   c = x + error;  x = Σ_r decode(encode(c_r)), the same on all ranks bit for bit
//   error = c − decode(encode(c)) of this rank
//
// so that Σ x + Σ_r error_r grows by exactly what was given, rounding aside. Three ways to encode,
// each in its own file: int8_compressor.cc, top_k_compressor.cc, power_sgd_compressor.cc.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/isa.h"

namespace dsjs {

// A tensor of a bucket, row-major from element `offset` on.
struct CompressedTensor {
  size_t offset, rows, columns;
  size_t count() const { return rows * columns; }
};

class GradientCompressor {
 public:
  virtual ~GradientCompressor() = default;

  // fp32 elements that go on from one call to the next beside the errors: the same on all ranks,
  // zeros at first.
  virtual size_t factors() const { return 0; }
  // x and error are as long as the bucket; elements that belong to no tensor are left alone. Where
  // a rank's x + error is not finite, the tensors of x become NaN on all ranks, and errors and
  // factors stay as they were.
  virtual void run(float* x, float* error, float* factors, Isa isa = active_isa()) = 0;
  // Top-k: the share of each tensor's elements that is sent from the next call on, in (0, 1], the
  // same on all ranks. INVALID_ARGUMENT for the others.
  virtual void set_ratio(double ratio);
};

struct GradientCompression {
  enum class Kind { kInt8, kTopK, kPowerSgd };
  Kind kind = Kind::kInt8;
  // int8: at most so many elements of a tensor share a scale.
  size_t block = 256;
  // top-k: the share of each tensor's elements that is sent, in (0, 1].
  double ratio = 0.01;
  // PowerSGD: columns of the two factors.
  size_t rank = 4;
};

// "int8", "topk", "powersgd"; INVALID_ARGUMENT for another name.
GradientCompression::Kind gradient_compression_from_name(const std::string& name);

// INVALID_ARGUMENT for a share out of (0, 1].
void check_ratio(double ratio);

// For tensors that do not overlap, in ascending order. `communicator` outlives it; staging is
// charged to `account` as communication. Throws INVALID_ARGUMENT for an empty tensor, none at all,
// or a parameter out of its range.
std::unique_ptr<GradientCompressor> make_gradient_compressor(
    const GradientCompression& compression, Communicator& communicator,
    const std::vector<CompressedTensor>& tensors, std::shared_ptr<MemoryAccount> account);

// The three of them; `make_gradient_compressor` has checked the arguments.
std::unique_ptr<GradientCompressor> make_int8_compressor(
    size_t block, Communicator& communicator, const std::vector<CompressedTensor>& tensors,
    std::shared_ptr<MemoryAccount> account);
std::unique_ptr<GradientCompressor> make_top_k_compressor(
    double ratio, Communicator& communicator, const std::vector<CompressedTensor>& tensors,
    std::shared_ptr<MemoryAccount> account);
std::unique_ptr<GradientCompressor> make_power_sgd_compressor(
    size_t rank, Communicator& communicator, const std::vector<CompressedTensor>& tensors,
    std::shared_ptr<MemoryAccount> account);

// What becomes of x where a rank's gradient is not finite.
void fill_with_nan(float* x, const std::vector<CompressedTensor>& tensors);

}  // namespace dsjs

// PowerSGD (Vogels et al., arXiv 1905.13727, algorithms 1 and 2): of a gradient matrix M what one
// step of power iteration says, two thin factors, which are summed over ranks. With M_r = gradient
// + error of rank r:
//
//   P = Σ_r M_r·Q;  P̂ = orthonormal columns of P;  Q_r = M_rᵀ·P̂;  Q = Σ_r Q_r
//   x = P̂·Qᵀ;  error = M_r − P̂·Q_rᵀ;  Q is where the next call starts
//
// Tensors that two factors would not make smaller (vectors above all) are summed whole. A row of Q
// that is all zeros, as at the start, is filled with numbers from a hash of its place. Wire: two
// all-reduces of rank·(rows + columns) elements a matrix.
#include <algorithm>
#include <cmath>

#include "compress/gradient_compressor.h"
#include "compress/low_rank_kernels.h"

namespace dsjs {
namespace {

// In [−1, 1), by element j of factor k (a 32-bit finaliser, as hash functions end with).
float start_value(size_t k, size_t j) {
  uint32_t h =
      (static_cast<uint32_t>(j) + 1) * 0x9e3779b1u ^ (static_cast<uint32_t>(k) + 1) * 0x85ebca6bu;
  h ^= h >> 16;
  h *= 0x21f0aaadu;
  h ^= h >> 15;
  h *= 0x735a2d97u;
  h ^= h >> 15;
  return static_cast<float>(h >> 8) * 0x1p-23f - 1;
}

class PowerSgdCompressor final : public GradientCompressor {
 public:
  PowerSgdCompressor(size_t rank, Communicator& communicator,
                     const std::vector<CompressedTensor>& tensors,
                     std::shared_ptr<MemoryAccount> account)
      : communicator_(communicator), rank_(rank), tensors_(tensors) {
    size_t work = 0;
    for (const CompressedTensor& tensor : tensors) {
      const auto [offset, rows, columns] = tensor;
      if (rank * (rows + columns) >= tensor.count()) {
        whole_.push_back({tensor, first_count_});
        first_count_ += tensor.count();
        continue;
      }
      matrices_.push_back({tensor, first_count_, second_count_});
      first_count_ += rank * rows;
      second_count_ += rank * columns;
      work = std::max(work, rank * std::max({rows, columns, LowRankKernels::kRows}));
    }
    work_.resize(work);
    own_q_.resize(second_count_);
    const auto staging = [&](size_t count) {
      return communicator.allocate_shared(std::max<size_t>(count, 1) * sizeof(float),
                                          Category::kCommunication, account);
    };
    first_ = staging(first_count_);
    second_ = staging(second_count_);
  }

  size_t factors() const override { return second_count_; }

  void run(float* x, float* error, float* factors, Isa isa) override {
    const LowRankKernels& kernels = low_rank_kernels(isa);
    float* p = floats(first_);
    float* q = floats(second_);
    start(factors);
    for (const auto& [tensor, place] : whole_)
      for (size_t i = 0; i < tensor.count(); ++i)
        p[place + i] = x[tensor.offset + i] + error[tensor.offset + i];
    for (const auto& [tensor, to_p, to_q] : matrices_) {
      kernels.project(x + tensor.offset, error + tensor.offset, tensor.rows, tensor.columns,
                      factors + to_q, rank_, p + to_p);
    }
    communicator_.all_reduce(p, first_count_, DType::kFloat32, ReduceOp::kSum);
    if (!finite(p, first_count_)) return fill_with_nan(x, tensors_);

    for (const auto& [tensor, to_p, to_q] : matrices_) {
      kernels.orthonormalise(p + to_p, tensor.rows, rank_, work_.data());
      kernels.project_back(x + tensor.offset, tensor.rows, tensor.columns, p + to_p, rank_,
                           q + to_q, work_.data());
    }
    std::copy_n(q, second_count_, own_q_.begin());
    communicator_.all_reduce(q, second_count_, DType::kFloat32, ReduceOp::kSum);
    if (!finite(q, second_count_)) return fill_with_nan(x, tensors_);

    for (const auto& [tensor, place] : whole_) {
      std::copy_n(p + place, tensor.count(), x + tensor.offset);
      std::fill_n(error + tensor.offset, tensor.count(), 0.0f);
    }
    for (const auto& [tensor, to_p, to_q] : matrices_) {
      const auto [offset, rows, columns] = tensor;
      kernels.exchange(x + offset, p + to_p, own_q_.data() + to_q, q + to_q, rank_, rows, columns,
                       error + offset, work_.data());
    }
    std::copy_n(q, second_count_, factors);
  }

 private:
  struct Whole {
    CompressedTensor tensor;
    size_t place;
  };
  struct Matrix {
    CompressedTensor tensor;
    // Where P and Q begin, each in its own buffer.
    size_t to_p, to_q;
  };

  static float* floats(const std::shared_ptr<Buffer>& buffer) {
    return static_cast<float*>(buffer->data());
  }
  static bool finite(const float* values, size_t count) {
    return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
  }

  void start(float* factors) const {
    for (const auto& [tensor, to_p, to_q] : matrices_)
      for (size_t k = 0; k < rank_; ++k) {
        float* row = factors + to_q + k * tensor.columns;
        if (std::any_of(row, row + tensor.columns, [](float value) { return value != 0; }))
          continue;
        for (size_t j = 0; j < tensor.columns; ++j) row[j] = start_value(k, j);
      }
  }

  Communicator& communicator_;
  size_t rank_;
  std::vector<CompressedTensor> tensors_;
  std::vector<Whole> whole_;
  std::vector<Matrix> matrices_;
  // Elements of the two all-reduces.
  size_t first_count_ = 0, second_count_ = 0;
  std::vector<double> work_;
  std::vector<float> own_q_;
  std::shared_ptr<Buffer> first_, second_;
};

}  // namespace

std::unique_ptr<GradientCompressor> make_power_sgd_compressor(
    size_t rank, Communicator& communicator, const std::vector<CompressedTensor>& tensors,
    std::shared_ptr<MemoryAccount> account) {
  return std::make_unique<PowerSgdCompressor>(rank, communicator, tensors, std::move(account));
}

}  // namespace dsjs

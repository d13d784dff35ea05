#include "gemm/linear_cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "gemm/gemm.h"
#include "gemm/gemm_kernels.h"
#include "kernels/softmax.h"

namespace dsjs {
namespace {

// Scores at a time. Chunks of classes are whole products for the weight's gradient and are packed
// once for all rows of a chunk, so neither may be small.
constexpr size_t kScores = size_t{4} << 20;
constexpr size_t kRows = 4096;
constexpr size_t kFloatsOfDouble = sizeof(double) / sizeof(float);

size_t rows_at_once(const LinearCrossEntropy& problem) { return std::min(problem.T, kRows); }

size_t classes_at_once(const LinearCrossEntropy& problem) {
  const size_t fit = kScores / std::max<size_t>(1, rows_at_once(problem));
  const size_t parts = parts_of(problem.V, std::max<size_t>(kScores / kRows, fit));
  return parts_of(problem.V, std::max<size_t>(1, parts));
}

// What one chunk of rows and classes needs.
struct Chunk {
  const LinearCrossEntropy& problem;
  Span rows;
  Span classes;

  // W from the chunk's first class on.
  size_t offset() const { return classes.begin * (problem.transposed ? 1 : problem.D); }
  void weight_as_b(Product& product) const {
    product.b = static_cast<const char*>(problem.w) + offset() * size_of(problem.w_dtype);
    product.b_dtype = problem.w_dtype;
  }
  // Distances between W's classes and between its features.
  size_t class_stride() const { return problem.transposed ? 1 : problem.D; }
  size_t feature_stride() const { return problem.transposed ? problem.V : 1; }
  const float* x() const { return problem.x + rows.begin * problem.D; }

  // scores = x · Wᵀ
  Product scores(float* to) const {
    Product product = plain_product(rows.count, classes.count, problem.D);
    product.a = x();
    product.a_strides = {problem.D, 1};
    weight_as_b(product);
    product.b_strides = {feature_stride(), class_stride()};
    product.c = to;
    return product;
  }

  // dx = or += slopes · W
  Product input_gradient(const float* slopes, float* dx, bool add) const {
    Product product = plain_product(rows.count, problem.D, classes.count);
    product.a = slopes;
    product.a_strides = {classes.count, 1};
    weight_as_b(product);
    product.b_strides = {class_stride(), feature_stride()};
    product.c = dx + rows.begin * problem.D;
    product.accumulate = add;
    return product;
  }

  // dw = or += slopesᵀ · x, or its transpose.
  Product weight_gradient(const float* slopes, float* dw, bool add) const {
    const bool t = problem.transposed;
    Product product = t ? plain_product(problem.D, classes.count, rows.count)
                        : plain_product(classes.count, problem.D, rows.count);
    product.a = t ? x() : slopes;
    product.a_strides = {1, t ? problem.D : classes.count};
    product.b = t ? slopes : x();
    product.b_strides = {t ? classes.count : problem.D, 1};
    product.c = dw + offset();
    product.ldc = t ? problem.V : problem.D;
    product.accumulate = add;
    return product;
  }
};

// Calls fn(chunk) for each chunk of classes of each chunk of rows; at least once.
template <class Fn>
void for_each_chunk(const LinearCrossEntropy& problem, Fn fn) {
  const size_t row_parts = std::max<size_t>(1, parts_of(problem.T, kRows));
  const size_t class_parts =
      std::max<size_t>(1, parts_of(problem.V, std::max<size_t>(1, classes_at_once(problem))));
  for (size_t i = 0; i < row_parts; ++i)
    for (size_t j = 0; j < class_parts; ++j)
      fn(Chunk{problem, piece_of(problem.T, row_parts, i), piece_of(problem.V, class_parts, j)});
}

// Calls fn(begin, end) over pieces of the rows.
template <class Fn>
void share_rows(Parallel& parallel, size_t rows, Fn fn) {
  constexpr size_t kPieces = 4;  // a thread
  const size_t pieces = std::min(rows, kPieces * parallel.threads());
  if (pieces == 0) return;
  parallel.run(pieces, [&](size_t i) {
    const Span piece = piece_of(rows, pieces, i);
    fn(piece.begin, piece.begin + piece.count);
  });
}

// log(eᵃ + eᵇ)
double log_add(double a, double b) {
  const double top = a > b ? a : b;
  return top + std::log(std::exp(a - top) + std::exp(b - top));
}

// Parts of the scratch memory.
struct Scratch {
  float* scores;
  double* lse;  // of the classes so far
  int64_t* no_labels;
  float* no_loss;
  float* weights;   // of exp(score − lse) in a slope; shares no_loss's memory
  float* part_lse;  // of the chunk
  float* gemm;
};

// In whole cache lines.
size_t score_floats(const LinearCrossEntropy& problem) {
  return (rows_at_once(problem) * classes_at_once(problem) + 15) / 16 * 16;
}
// One double or label a row.
size_t row_floats(const LinearCrossEntropy& problem) {
  return (rows_at_once(problem) * kFloatsOfDouble + 15) / 16 * 16;
}
size_t scratch_floats(const LinearCrossEntropy& problem) {
  return score_floats(problem) + 4 * row_floats(problem);
}

Scratch scratch_of(const LinearCrossEntropy& problem, float* memory) {
  float* const rows = memory + score_floats(problem);
  const size_t each = row_floats(problem);
  return {memory,
          reinterpret_cast<double*>(rows),
          reinterpret_cast<int64_t*>(rows + each),
          rows + 2 * each,
          rows + 2 * each,
          rows + 3 * each,
          memory + scratch_floats(problem)};
}

}  // namespace

size_t linear_cross_entropy_scratch(const LinearCrossEntropy& problem, size_t threads, Isa isa) {
  size_t gemm = 0;
  for_each_chunk(problem, [&](const Chunk& chunk) {
    gemm = std::max({gemm, gemm_scratch(chunk.scores(nullptr), threads, isa),
                     gemm_scratch(chunk.input_gradient(nullptr, nullptr, false), threads, isa),
                     gemm_scratch(chunk.weight_gradient(nullptr, nullptr, false), threads, isa)});
  });
  return scratch_floats(problem) + gemm;
}

void linear_cross_entropy(const LinearCrossEntropy& problem, float* loss, float* lse,
                          Parallel& parallel, float* memory, Isa isa) {
  const Scratch scratch = scratch_of(problem, memory);
  const SoftmaxKernels& kernels = softmax_kernels(isa);
  for_each_chunk(problem, [&](const Chunk& chunk) {
    gemm(chunk.scores(scratch.scores), parallel, scratch.gemm, isa);
    const size_t first = chunk.classes.begin, C = chunk.classes.count;
    const bool begins = first == 0, ends = first + C == problem.V;
    share_rows(parallel, chunk.rows.count, [&](size_t begin, size_t end) {
      std::fill(scratch.no_labels + begin, scratch.no_labels + end, problem.ignore_index);
      kernels.cross_entropy(scratch.scores, scratch.no_labels, scratch.no_loss, scratch.part_lse, C,
                            problem.ignore_index, begin, end);
      for (size_t r = begin; r < end; ++r) {
        const size_t t = chunk.rows.begin + r;
        double& total = scratch.lse[r];
        total = begins ? scratch.part_lse[r] : log_add(total, scratch.part_lse[r]);
        const int64_t label = problem.labels[t];
        const bool ignored = label == problem.ignore_index;
        const size_t at = static_cast<size_t>(label) - first;  // wraps where the class is before
        if (begins) loss[t] = 0;
        if (!ignored && at < C) loss[t] = scratch.scores[r * C + at];
        if (!ends) continue;
        lse[t] = static_cast<float>(total);
        if (!ignored) loss[t] = static_cast<float>(total - loss[t]);
      }
    });
  });
}

void linear_cross_entropy_grad(const LinearCrossEntropy& problem,
                               const LinearCrossEntropyGradients& gradients, const float* lse,
                               float* dx, float* dw, bool add_dw, Parallel& parallel, float* memory,
                               Isa isa) {
  const auto [dloss, dlse] = gradients;
  const Scratch scratch = scratch_of(problem, memory);
  const SoftmaxKernels& kernels = softmax_kernels(isa);
  for_each_chunk(problem, [&](const Chunk& chunk) {
    gemm(chunk.scores(scratch.scores), parallel, scratch.gemm, isa);
    const size_t first = chunk.classes.begin, C = chunk.classes.count;
    const size_t row = chunk.rows.begin;
    share_rows(parallel, chunk.rows.count, [&](size_t begin, size_t end) {
      for (size_t r = begin; r < end; ++r) {
        const bool ignored = problem.labels[row + r] == problem.ignore_index;
        scratch.weights[r] = (ignored ? 0 : dloss[row + r]) + (dlse ? dlse[row + r] : 0);
      }
      kernels.scaled_softmax(scratch.weights, scratch.scores, lse + row, scratch.scores, C, begin,
                             end);
      for (size_t r = begin; r < end; ++r) {
        const int64_t label = problem.labels[row + r];
        const bool ignored = label == problem.ignore_index;
        float* const slopes = scratch.scores + r * C;
        const size_t at = static_cast<size_t>(label) - first;
        // What counts for nothing is 0 even where the scores are infinite.
        if (ignored && !dlse) std::fill(slopes, slopes + C, 0.0f);
        if (!ignored && at < C) slopes[at] -= dloss[row + r];
      }
    });
    gemm(chunk.input_gradient(scratch.scores, dx, first > 0), parallel, scratch.gemm, isa);
    if (dw)
      gemm(chunk.weight_gradient(scratch.scores, dw, add_dw || row > 0), parallel, scratch.gemm,
           isa);
  });
}

}  // namespace dsjs

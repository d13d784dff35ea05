// Every instruction set against the formulas in double; the random numbers against published
// values.
#include "kernels/elementwise.h"

#include "core/half.h"
#include "kernels/kernel_testing.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {

void test_accumulate_and_axpby() {
  const size_t n = 77;
  Random random(1);
  const std::vector<float> grad = random.vector(n), start = random.vector(n);
  for_each_isa([&](Isa isa, const std::string& name) {
    const ElementwiseKernels &fast = elementwise_kernels(isa), &reference = elementwise_reference();
    for (bool first : {true, false}) {
      std::vector<float> got = start, want = start;
      fast.accumulate(grad.data(), got.data(), first, 2, n - 1);
      reference.accumulate(grad.data(), want.data(), first, 2, n - 1);
      CHECK_MESSAGE(got == want, name);
    }
    std::vector<float> got = start, want = start;
    fast.axpby(grad.data(), got.data(), 0.3f, -1.7f, 0, n);
    reference.axpby(grad.data(), want.data(), 0.3f, -1.7f, 0, n);
    close(name + "axpby", got, want, [](size_t) { return 2 * kEpsilon; });
    std::vector<float> garbage(n, NAN);
    fast.axpby(grad.data(), garbage.data(), 2.0f, 0.0f, 0, n);
    CHECK_MESSAGE(garbage[5] == 2 * grad[5] && garbage[n - 1] == 2 * grad[n - 1], name);
    fast.fill(got.data(), 3.0f, 1, n);
    CHECK_MESSAGE(got[1] == 3 && got[n - 1] == 3 && got[0] == want[0], name);
  });
}

void test_any_float_types() {
  const size_t n = 5000;  // more than one block
  Random random(4);
  const std::vector<float> source = random.vector(n), start = random.vector(n);
  const DType types[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64};
  // Half a unit of each type's fraction for the rounding of inputs (twice) and of the result.
  const double precision[] = {0x1p-24, 0x1p-11, 0x1p-8, 0x1p-24};
  for (int s = 0; s < 4; ++s)
    for (int t = 0; t < 4; ++t) {
      std::vector<double> from(n), to(n);  // large enough for every type
      convert_floats(source.data(), DType::kFloat32, from.data(), types[s], n);
      convert_floats(start.data(), DType::kFloat32, to.data(), types[t], n);
      axpby_floats(from.data(), types[s], to.data(), types[t], 0.5, 2.0, 1, n);
      std::vector<float> got(n), want(n);
      convert_floats(to.data(), types[t], got.data(), DType::kFloat32, n);
      for (size_t i = 0; i < n; ++i) want[i] = 2 * start[i] + 0.5f * source[i];
      want[0] = start[0];
      close("axpby", got, want, [&](size_t) { return 3 * 2.5 * (precision[s] + precision[t]); });
      fill_floats(to.data(), types[t], -1.5, 3, n);
      convert_floats(to.data(), types[t], got.data(), DType::kFloat32, n);
      CHECK(got[3] == -1.5f && got[n - 1] == -1.5f && got[2] != -1.5f);
    }
}

void test_embedding_grad() {
  constexpr size_t T = 50, V = 11, D = 37;
  Random random(6);
  const std::vector<float> dy = random.vector(T * D), start = random.vector(V * D);
  std::vector<int64_t> indices(T);
  for (int64_t& index : indices) index = static_cast<int64_t>(random.bits() % (2 * V)) - V;
  check_indices(indices.data(), T, V);
  for_each_isa([&](Isa isa, const std::string& name) {
    for (bool first : {true, false}) {
      std::vector<float> got = start, want = start, halves = start;
      elementwise_kernels(isa).embedding_grad(dy.data(), indices.data(), got.data(), T, V, D, first,
                                              0, D);
      elementwise_reference().embedding_grad(dy.data(), indices.data(), want.data(), T, V, D, first,
                                             0, D);
      close(name + "embedding grad", got, want, [&](size_t) { return T * kEpsilon; });
      for (size_t c = 0; c < D; c += 10)
        elementwise_kernels(isa).embedding_grad(dy.data(), indices.data(), halves.data(), T, V, D,
                                                first, c, std::min(D, c + 10));
      CHECK_MESSAGE(halves == got, name);
    }
  });
  indices[3] = V;
  CHECK_THROWS_CODE(check_indices(indices.data(), T, V), "INVALID_ARGUMENT");
}

void test_rotary() {
  const size_t heads = 3, S = 5;
  for (size_t D : {size_t{2}, size_t{10}, size_t{64}}) {
    Random random(D);
    const std::vector<float> x = random.vector(heads * S * D);
    std::vector<float> cosine(S * D / 2), sine(S * D / 2);
    for (size_t i = 0; i < cosine.size(); ++i) {
      cosine[i] = std::cos(0.1f * i);
      sine[i] = std::sin(0.1f * i);
    }
    for_each_isa([&](Isa isa, const std::string& name) {
      std::vector<float> got(x.size()), want(x.size()), back(x.size());
      const size_t rows = heads * S;
      elementwise_kernels(isa).rotary(x.data(), cosine.data(), sine.data(), got.data(), S, D, false,
                                      0, rows);
      elementwise_reference().rotary(x.data(), cosine.data(), sine.data(), want.data(), S, D, false,
                                     0, rows);
      close(name + "rotary", got, want, [](size_t) { return 2 * kEpsilon; });
      // The inverse turns back, here in place.
      elementwise_kernels(isa).rotary(got.data(), cosine.data(), sine.data(), got.data(), S, D,
                                      true, 0, rows);
      close(name + "rotary back", got, x, [](size_t) { return 4 * kEpsilon; });
    });
  }
}

// x = 1 everywhere and ratio 0 would show nothing; so the words are read off through the ratio: an
// element is kept exactly up to its own uniform number.
float uniform_of(const ElementwiseKernels& kernels, const int64_t* rng, uint32_t stream,
                 size_t element, size_t columns) {
  const std::vector<float> x(columns, 1.0f);
  std::vector<float> y(columns);
  uint32_t low = 0, high = 1u << 24;  // kept at `low`, dropped at `high`, in units of 2⁻²⁴
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    const DropoutMask mask = {rng, stream, static_cast<float>(middle) * 0x1p-24f, columns};
    kernels.dropout(x.data(), y.data(), mask, element, element + 1);
    (y[element] != 0 ? low : high) = middle;
  }
  return static_cast<float>(low) * 0x1p-24f;
}

void test_dropout_is_philox() {
  // Known answers of Random123's kat_vectors for philox4x32-10: counter, key, and the words.
  struct Known {
    int64_t step, sample;
    uint32_t stream;
    uint64_t seed;
    uint32_t element;
    uint32_t words[4];
  };
  const Known zero = {0, 0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}};
  const int64_t rng[3] = {static_cast<int64_t>(zero.seed), zero.step, zero.sample};
  for_each_isa([&](Isa isa, const std::string& name) {
    for (size_t lane = 0; lane < 4; ++lane) {
      const float want = static_cast<float>(zero.words[lane] >> 8) * 0x1p-24f;
      CHECK_MESSAGE(uniform_of(elementwise_kernels(isa), rng, zero.stream, lane, 4) == want, name);
    }
  });
}

void test_dropout() {
  const size_t samples = 3, planes = 7, rows = 11, columns = 13, size = planes * rows * columns;
  const int64_t rng[5] = {0x123456789abcdef, 17, 5, 1000000, 2};
  Random random(8);
  const std::vector<float> x = random.vector(samples * size, 1, 2);
  for_each_isa([&](Isa isa, const std::string& name) {
    const ElementwiseKernels& fast = elementwise_kernels(isa);
    for (float ratio : {0.0f, 0.1f, 0.5f, 0.9f}) {
      const DropoutMask mask = {rng, 4, ratio, columns, rows, planes};
      std::vector<float> got(x.size()), want(x.size()), pieces(x.size());
      fast.dropout(x.data(), got.data(), mask, 0, x.size());
      elementwise_reference().dropout(x.data(), want.data(), mask, 0, x.size());
      CHECK_MESSAGE(got == want, name + std::to_string(ratio));
      for (size_t i = 0; i < x.size(); i += 89)
        fast.dropout(x.data(), pieces.data(), mask, i, std::min(x.size(), i + 89));
      CHECK_MESSAGE(pieces == got, name);
      std::vector<uint8_t> kept(x.size()), reference(x.size());
      for (size_t i = 0; i < x.size(); i += 89)
        fast.dropout_kept(kept.data(), mask, i, std::min(x.size(), i + 89));
      elementwise_reference().dropout_kept(reference.data(), mask, 0, x.size());
      CHECK_MESSAGE(kept == reference, name + std::to_string(ratio));
      for (size_t i = 0; i < x.size(); ++i) CHECK_MESSAGE(kept[i] == (got[i] != 0), name);
      size_t dropped = 0;
      for (float v : got) dropped += v == 0;
      // Five standard deviations of a binomial count.
      const double expected = ratio * x.size();
      CHECK_MESSAGE(std::fabs(dropped - expected) <= 5 * std::sqrt(expected * (1 - ratio)), name);
    }
    // A sample's mask depends on its index, not on its place in the batch.
    const int64_t alone[3] = {rng[0], rng[1], rng[4]};
    std::vector<float> whole(x.size()), one(size);
    fast.dropout(x.data(), whole.data(), {rng, 4, 0.5f, columns, rows, planes}, 0, x.size());
    fast.dropout(x.data() + 2 * size, one.data(), {alone, 4, 0.5f, columns, rows, planes}, 0, size);
    CHECK_MESSAGE(std::equal(one.begin(), one.end(), whole.begin() + 2 * size), name);
    // Nor does it depend on how far rows and columns are padded.
    const size_t longer = rows + 5, wider = columns + 90;
    const std::vector<float> ones(planes * longer * wider, 1.0f);
    std::vector<float> padded(ones.size()), tight(size);
    fast.dropout(ones.data(), padded.data(), {alone, 4, 0.5f, wider, longer, planes}, 0,
                 padded.size());
    fast.dropout(ones.data(), tight.data(), {alone, 4, 0.5f, columns, rows, planes}, 0, size);
    for (size_t i = 0; i < size; ++i) {
      const size_t column = i % columns, row = i / columns % rows, plane = i / columns / rows;
      CHECK_MESSAGE(padded[(plane * longer + row) * wider + column] == tight[i], name);
    }
  });
}

}  // namespace

int main() {
  test_accumulate_and_axpby();
  test_any_float_types();
  test_embedding_grad();
  test_rotary();
  test_dropout_is_philox();
  test_dropout();
  return summary();
}

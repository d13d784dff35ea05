// Attention at its edges: the reference against finite differences, repeatability, numbers of
// threads, empty and broken inputs, memory.
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "attention/attention.h"
#include "attention/attention_testing.h"
#include "core/threads.h"

using namespace dsjs;
using namespace dsjs::testing;

namespace {
std::atomic<size_t> allocations = 0;
}

void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

class Pool : public Parallel {
 public:
  explicit Pool(size_t threads) : pool_(static_cast<int>(threads)), threads_(threads) {}
  size_t threads() const override { return threads_; }

 private:
  void run_calls(size_t count, void (*fn)(void*, size_t), void* user) override {
    pool_.parallel_for(count, 1, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) fn(user, i);
    });
  }
  ThreadPool pool_;
  size_t threads_;
};

// The reference gradient g of L = Σ dY∘Y along a direction u equals (L(x + h·u) − L(x − h·u)) / 2h
// up to O(h²) and what Y's rounding to fp32 leaves.
void test_reference_gradient() {
  Options o;
  o.B = 2, o.H = 4, o.Hkv = 2, o.Sq = o.Sk = 9, o.D = 8;
  o.causal = o.mask = o.rotated = o.dropout = true;
  o.bias_axes = 15;
  o.storage = Storage::kBshd;
  Problem p(o);
  const Gradients gradients = exact_backward(p, exact_forward(p));
  const auto loss = [&] {
    const Values values = exact_forward(p);
    double total = 0;
    for (size_t i = 0; i < p.dy.size(); ++i) total += double{p.dy[i]} * values.y[i];
    return total;
  };
  const float h = 1.0f / 64;
  const auto check_input = [&](std::vector<float>& x, const std::vector<float>& gradient,
                               const char* name) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      Random random(seed);
      const std::vector<float> kept = x, direction = random.vector(x.size());
      double expected = 0, scale = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        expected += double{gradient[i]} * direction[i];
        scale += std::fabs(double{gradient[i]} * direction[i]);
      }
      const auto moved = [&](float step) {
        for (size_t i = 0; i < x.size(); ++i) x[i] = kept[i] + step * direction[i];
        return loss();
      };
      const double slope = (moved(h) - moved(-h)) / (2 * h);
      x = kept;
      CHECK_MESSAGE(std::fabs(slope - expected) <= 4 * h * h * scale,
                    std::string(name) + ": " + std::to_string(slope) + " instead of " +
                        std::to_string(expected));
    }
  };
  check_input(p.q, gradients.dq, "dQ");
  check_input(p.k, gradients.dk, "dK");
  check_input(p.v, gradients.dv, "dV");
}

// Results repeat; forward does not depend on the number of threads, nor backward where heads are
// enough for them. One head for several threads is summed up in parts: dQ without a layout, dK and
// dV with one.
void test_threads(size_t block) {
  for (const size_t heads : {1, 3, 4}) {
    Options o;
    o.B = 1, o.H = heads * 2, o.Hkv = heads, o.Sq = o.Sk = 517, o.D = 32;
    o.causal = o.rotated = o.layout_per_head = true;
    o.block = block;
    o.storage = Storage::kPacked;
    o.seed = 40 + heads;
    const Problem p(o);
    Serial serial;
    Pool two(2), five(5);
    for_each_isa([&](Isa isa, const std::string& name) {
      const Values values = forward_of(p, isa, serial);
      const Gradients gradients = backward_of(p, values, isa, serial);
      for (Pool* pool : {&two, &five}) {
        const Values again = forward_of(p, isa, *pool);
        CHECK_MESSAGE(again.y == values.y && again.lse == values.lse, name + "forward by threads");
        const Gradients split = backward_of(p, values, isa, *pool);
        CHECK_MESSAGE(split == backward_of(p, values, isa, *pool), name + "backward repeats");
        // Sums of the same products in another order.
        const auto compare = [&](const char* what, const std::vector<float>& a,
                                 const std::vector<float>& b) {
          close(name + what + " by threads", a, b, [&](size_t) { return 2e-5; });
        };
        if (block) {
          CHECK_MESSAGE(split.dq == gradients.dq, name + "dQ by threads");
          compare("dK", split.dk, gradients.dk);
          compare("dV", split.dv, gradients.dv);
        } else {
          CHECK_MESSAGE(split.dk == gradients.dk && split.dv == gradients.dv,
                        name + "gradients of keys by threads");
          compare("dQ", split.dq, gradients.dq);
        }
      }
      if (heads == 4)
        CHECK_MESSAGE(backward_of(p, values, isa, two) == gradients,
                      name + "enough heads for the threads");
    });
  }
}

void test_empty() {
  Serial serial;
  for_each_isa([&](Isa isa, const std::string& name) {
    Options o;
    o.B = 2, o.H = 2, o.Sq = 5, o.Sk = 0, o.D = 16;
    const Problem no_keys(o);
    const Values values = forward_of(no_keys, isa, serial);
    CHECK_MESSAGE(values.y == std::vector<float>(values.y.size(), 0), name + "no keys: Y");
    CHECK_MESSAGE(values.lse == std::vector<float>(values.lse.size(), -INFINITY), name + "lse");
    const Gradients gradients = backward_of(no_keys, values, isa, serial);
    CHECK_MESSAGE(gradients.dq == std::vector<float>(gradients.dq.size(), 0), name + "dQ");

    o.Sq = 0, o.Sk = 5;
    const Problem no_queries(o);
    const Values nothing = forward_of(no_queries, isa, serial);
    const Gradients of_keys = backward_of(no_queries, nothing, isa, serial);
    CHECK_MESSAGE(of_keys.dk == std::vector<float>(of_keys.dk.size(), 0), name + "dK");

    o.B = 0;
    const Problem no_samples(o);
    backward_of(no_samples, forward_of(no_samples, isa, serial), isa, serial);
  });
}

bool is_nan_row(const std::vector<float>& x, size_t row, size_t D) {
  for (size_t d = 0; d < D; ++d)
    if (!std::isnan(x[row * D + d])) return false;
  return true;
}
bool is_finite_row(const std::vector<float>& x, size_t row, size_t D) {
  for (size_t d = 0; d < D; ++d)
    if (!std::isfinite(x[row * D + d])) return false;
  return true;
}

void test_non_finite() {
  Serial serial;
  Options o;
  o.Sq = o.Sk = 150, o.D = 32;
  for_each_isa([&](Isa isa, const std::string& name) {
    for (const float bad : {NAN, INFINITY}) {
      Problem of_query(o);
      of_query.q[70 * o.D + 3] = bad;
      const Values values = forward_of(of_query, isa, serial);
      for (size_t i = 0; i < o.Sq; ++i)
        CHECK_MESSAGE(i == 70 ? is_nan_row(values.y, i, o.D) : is_finite_row(values.y, i, o.D),
                      name + "a broken query, row " + std::to_string(i));
      const Gradients gradients = backward_of(of_query, values, isa, serial);
      CHECK_MESSAGE(is_nan_row(gradients.dq, 70, o.D) && is_finite_row(gradients.dq, 71, o.D) &&
                        is_nan_row(gradients.dv, 0, o.D),
                    name + "gradients of a broken query");
    }
    Options causal = o;
    causal.causal = true;
    Problem of_key(causal);
    of_key.k[130 * o.D] = NAN;
    const Values values = forward_of(of_key, isa, serial);
    CHECK_MESSAGE(is_finite_row(values.y, 100, o.D) && is_finite_row(values.y, 129, o.D),
                  name + "queries before a broken key");
    CHECK_MESSAGE(is_nan_row(values.y, 130, o.D) && is_nan_row(values.y, 149, o.D),
                  name + "queries after a broken key");

    for (const size_t block : {0, 16, 64}) {
      Options masked = o;
      masked.mask = true;
      masked.block = block;
      Problem hidden(masked);
      const Values whole = forward_of(hidden, isa, serial);
      for (size_t j = 0; j < o.Sk; ++j)
        if (!hidden.mask[j]) hidden.k[j * o.D + 5] = NAN;
      const Values broken = forward_of(hidden, isa, serial);
      CHECK_MESSAGE(broken.y == whole.y,
                    name + "a broken key that the mask hides, block " + std::to_string(block));
    }
  });
}

// Large scores: the running maximum keeps exponentials in range, whatever comes first.
void test_large_scores() {
  Serial serial;
  Options o;
  o.Sq = 40, o.Sk = 400, o.D = 16, o.bias_axes = 8;
  Problem p(o);
  for (size_t j = 0; j < o.Sk; ++j) p.bias[j] = 80.0f * static_cast<float>(j % 7) - 200;
  const Values exact = exact_forward(p);
  for_each_isa([&](Isa isa, const std::string& name) {
    const Values got = forward_of(p, isa, serial);
    // Scores are near 280, so each errs by 280·u and a probability by twice that, relatively.
    close(name + "large scores", got.y, exact.y, [](size_t) { return 3 * 280 * 0x1p-24 * 2; });
  });
}

void test_memory(size_t block) {
  Options o;
  o.block = block;
  o.B = 2, o.H = 4, o.Hkv = 2, o.Sq = o.Sk = 300, o.D = 64;
  o.causal = o.dropout = o.mask = o.rotated = true;
  o.bias_axes = 12;
  const Problem p(o);
  Attention a = p.attention();
  Serial serial;
  Values values = forward_of(p, active_isa(), serial);
  std::vector<float> scratch(std::max(attention_scratch(a, 1), attention_grad_scratch(a, 1)));
  Gradients g{p.q, p.k, p.v};
  const AttentionResult result{Problem::out(values.y, p.yp), values.lse.data()};
  const AttentionGradient gradient{Problem::in(p.dy, p.yp),  Problem::in(values.y, p.yp),
                                   values.lse.data(),        Problem::out(g.dq, p.qp),
                                   Problem::out(g.dk, p.kp), Problem::out(g.dv, p.vp)};
  const size_t before = allocations;
  attention(a, result, serial, scratch.data());
  attention_grad(a, gradient, serial, scratch.data());
  // CHECK itself makes a string.
  const size_t made = allocations - before;
  CHECK(made == 0);

  const auto forward_at = [&](size_t S) {
    a.Sq = a.Sk = S;
    return attention_scratch(a, 2);
  };
  const auto backward_at = [&](size_t S) {
    a.Sq = a.Sk = S;
    return attention_grad_scratch(a, 2);
  };
  for (size_t S = 1024; S <= 65536; S *= 4) {
    CHECK(forward_at(2 * S) <= 2 * forward_at(S));
    CHECK(backward_at(2 * S) <= 2 * backward_at(S));
  }
}

void test_refusals() {
  Options o;
  o.H = 2, o.Sq = o.Sk = 40, o.dropout = true;
  const Problem p(o);
  Attention a = p.attention();
  check_attention(a);
  a.Sq = (1 << 16) + 1;
  CHECK_THROWS_CODE(check_attention(a), "INVALID_ARGUMENT");
  a = p.attention();
  BlockLayout layout{24, 1, nullptr};
  a.layout = &layout;
  CHECK_THROWS_CODE(check_attention(a), "INVALID_ARGUMENT");
  layout.block = 256;
  CHECK_THROWS_CODE(check_attention(a), "INVALID_ARGUMENT");
}

// Rows so far apart that the arrays span more than 2³² elements, in address space of which little
// is ever touched, against the same rows side by side: the same bits.
void test_far_rows() {
  constexpr size_t S = 70, D = 16, kFar = size_t{1} << 26;
  enum Array { kQ, kK, kV, kDY, kY, kDQ, kDK, kDV, kArrays };
  const size_t bytes = S * kFar * sizeof(float);
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  auto* const far = static_cast<float*>(memory);
  std::vector<float> near(S * kArrays * D);
  Random random(5);
  for (size_t row = 0; row < S; ++row)
    for (size_t i = 0; i < kY * D; ++i)
      far[row * kFar + i] = near[row * kArrays * D + i] = random.uniform(-1, 1);

  for_each_isa([&](Isa isa, const std::string& name) {
    // Y, dQ, dK, dV and lse.
    const auto compute = [&](float* base, size_t row) {
      const auto in = [&](Array array) { return HeadRows{base + array * D, 0, 0, row}; };
      const auto out = [&](Array array) { return HeadRowsOut{base + array * D, 0, 0, row}; };
      Attention a{};
      a.B = a.H = a.Hkv = 1;
      a.Sq = a.Sk = S;
      a.D = D;
      a.scale = 0.25f;
      a.q = in(kQ), a.k = in(kK), a.v = in(kV);
      a.causal = true;
      Serial alone;
      std::vector<float> lse(S);
      std::vector<float> space(
          std::max(attention_scratch(a, 1, isa), attention_grad_scratch(a, 1, isa)) + 16);
      auto* const scratch =
          reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(space.data()) + 63) / 64 * 64);
      attention(a, {out(kY), lse.data()}, alone, scratch, isa);
      attention_grad(a, {in(kDY), in(kY), lse.data(), out(kDQ), out(kDK), out(kDV)}, alone, scratch,
                     isa);
      std::vector<float> results = lse;
      for (size_t r = 0; r < S; ++r)
        results.insert(results.end(), base + r * row + kY * D, base + r * row + kArrays * D);
      return results;
    };
    CHECK_MESSAGE(compute(far, kFar) == compute(near.data(), kArrays * D), name);
  });
  munmap(memory, bytes);
}

}  // namespace

int main(int argc, char** argv) {
  return run_tests(argc, argv,
                   {
                       {"reference_gradient", test_reference_gradient},
                       {"threads_0", [] { test_threads(0); }},
                       {"threads_16", [] { test_threads(16); }},
                       {"threads_64", [] { test_threads(64); }},
                       {"empty", test_empty},
                       {"non_finite", test_non_finite},
                       {"large_scores", test_large_scores},
                       {"memory_0", [] { test_memory(0); }},
                       {"memory_16", [] { test_memory(16); }},
                       {"memory_64", [] { test_memory(64); }},
                       {"refusals", test_refusals},
                       {"far_rows", test_far_rows},
                   });
}

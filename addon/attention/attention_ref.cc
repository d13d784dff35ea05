// The formulas of attention/attention.h typed out in double, a row of scores at a time.
#include <cmath>
#include <vector>

#include "attention/attention.h"

namespace dsjs {
namespace {

using Row = std::vector<double>;

Row read_row(const HeadRows& rows, size_t D, size_t b, size_t h, size_t s) {
  const float* at = rows.data + b * rows.batch + h * rows.head + s * rows.row;
  return Row(at, at + D);
}

void write_row(const HeadRowsOut& rows, const Row& values, size_t b, size_t h, size_t s) {
  float* at = rows.data + b * rows.batch + h * rows.head + s * rows.row;
  for (size_t d = 0; d < values.size(); ++d) at[d] = static_cast<float>(values[d]);
}

// Rotated for position s, or back.
Row rotated(const Attention& a, const Row& x, size_t s, bool inverse) {
  if (!a.cos) return x;
  const size_t half = a.D / 2;
  Row y(a.D);
  for (size_t d = 0; d < half; ++d) {
    const double c = a.cos[s * half + d], sine = (inverse ? -1.0 : 1.0) * a.sin[s * half + d];
    y[d] = x[d] * c - x[half + d] * sine;
    y[half + d] = x[half + d] * c + x[d] * sine;
  }
  return y;
}

bool has_block(const Attention& a, size_t head, size_t query, size_t key) {
  if (!a.layout) return true;
  const BlockLayout& layout = *a.layout;
  const BlockLists& lists = layout.lists[layout.heads == 1 ? 0 : head];
  const size_t row = query / layout.block;
  for (uint32_t i = lists.starts[row]; i < lists.starts[row + 1]; ++i)
    if (lists.blocks[i] == key / layout.block) return true;
  return false;
}

double dot(const Row& x, const Row& y) {
  double total = 0;
  for (size_t d = 0; d < x.size(); ++d) total += x[d] * y[d];
  return total;
}

void add(Row& sum, double factor, const Row& x) {
  for (size_t d = 0; d < x.size(); ++d) sum[d] += factor * x[d];
}

// One head of one sample, and what is computed for each of its queries.
struct HeadOf {
  const Attention& a;
  size_t b, h;

  Row query(size_t i) const { return rotated(a, read_row(a.q, a.D, b, h, i), i, false); }
  Row key(size_t j) const {
    return rotated(a, read_row(a.k, a.D, b, h / (a.H / a.Hkv), j), j, false);
  }
  Row value(size_t j) const { return read_row(a.v, a.D, b, h / (a.H / a.Hkv), j); }

  bool sees(size_t i, size_t j) const {
    return (!a.causal || j + a.Sq <= i + a.Sk) && (!a.key_mask || a.key_mask[b * a.Sk + j]) &&
           has_block(a, h, i, j);
  }
  Row scores(size_t i) const {
    Row scores(a.Sk, -INFINITY);
    const Row q = query(i);
    for (size_t j = 0; j < a.Sk; ++j) {
      if (!sees(i, j)) continue;
      scores[j] = double{a.scale} * dot(q, key(j));
      const ScoreBias& bias = a.bias;
      if (bias.data)
        scores[j] += bias.data[b * bias.batch + h * bias.head + i * bias.query + j * bias.key];
    }
    return scores;
  }
  // The probabilities of a row; lse is −∞ where it sees nothing, and all of them are 0 then.
  Row probabilities(size_t i, double& lse) const {
    Row p = scores(i);
    double top = -INFINITY, total = 0;
    bool nan = false;
    for (double s : p) {
      top = std::fmax(top, s);
      nan = nan || std::isnan(s);
    }
    lse = top;
    if (top == -INFINITY && !nan) return Row(a.Sk, 0.0);
    for (double& s : p) total += s = std::exp(s - top);
    for (double& s : p) s /= total;
    lse = top + std::log(total);
    return p;
  }
  // What dropout multiplies probabilities by.
  std::vector<float> kept(size_t i) const {
    std::vector<float> ones((a.B * a.H * a.Sq) * a.Sk * (a.dropout.rng ? 1 : 0), 1.0f);
    if (!a.dropout.rng) return std::vector<float>(a.Sk, 1.0f);
    DropoutMask mask = a.dropout;
    mask.columns = a.Sk;
    mask.rows = a.Sq;
    mask.planes = a.H;
    const size_t begin = ((b * a.H + h) * a.Sq + i) * a.Sk;
    elementwise_reference().dropout(ones.data(), ones.data(), mask, begin, begin + a.Sk);
    return std::vector<float>(ones.begin() + begin, ones.begin() + begin + a.Sk);
  }
};

}  // namespace

void attention_reference(const Attention& a, const AttentionResult& result) {
  for (size_t b = 0; b < a.B; ++b)
    for (size_t h = 0; h < a.H; ++h) {
      const HeadOf head{a, b, h};
      for (size_t i = 0; i < a.Sq; ++i) {
        double lse;
        const Row p = head.probabilities(i, lse);
        const std::vector<float> kept = head.kept(i);
        Row y(a.D, 0.0);
        for (size_t j = 0; j < a.Sk; ++j)
          if (p[j] != 0) add(y, p[j] * kept[j], head.value(j));
        write_row(result.y, y, b, h, i);
        result.lse[(b * a.H + h) * a.Sq + i] = static_cast<float>(lse);
      }
    }
}

void attention_grad_reference(const Attention& a, const AttentionGradient& gradient) {
  const size_t group = a.H / a.Hkv;
  for (size_t b = 0; b < a.B; ++b)
    for (size_t kv = 0; kv < a.Hkv; ++kv) {
      std::vector<Row> dk(a.Sk, Row(a.D, 0.0)), dv = dk;
      for (size_t h = kv * group; h < (kv + 1) * group; ++h) {
        const HeadOf head{a, b, h};
        for (size_t i = 0; i < a.Sq; ++i) {
          double lse;
          const Row p = head.probabilities(i, lse);
          const std::vector<float> kept = head.kept(i);
          const Row dy = read_row(gradient.dy, a.D, b, h, i), q = head.query(i);
          Row dp(a.Sk, 0.0), dq(a.D, 0.0);
          double along = 0;
          for (size_t j = 0; j < a.Sk; ++j) {
            if (p[j] == 0) continue;
            dp[j] = kept[j] * dot(dy, head.value(j));
            along += p[j] * dp[j];
            add(dv[j], p[j] * kept[j], dy);
          }
          for (size_t j = 0; j < a.Sk; ++j) {
            if (p[j] == 0) continue;
            const double ds = double{a.scale} * p[j] * (dp[j] - along);
            add(dq, ds, head.key(j));
            add(dk[j], ds, q);
          }
          write_row(gradient.dq, rotated(a, dq, i, true), b, h, i);
        }
      }
      for (size_t j = 0; j < a.Sk; ++j) {
        write_row(gradient.dk, rotated(a, dk[j], j, true), b, kv, j);
        write_row(gradient.dv, dv[j], b, kv, j);
      }
    }
}

}  // namespace dsjs

// Memory that sparse attention will need, asked for while it computes, for attention_simd.cc.
#pragma once
#include <iterator>

#include "attention/tile_pack.h"

namespace dsjs::DSJS_ISA {
namespace {

// Rows that are needed later are asked for some lines at a time, between the parts of products:
// many at once would wait for each other, and what comes next for all of them. The processor itself
// looks ahead to the end of a page at most, and a block of 16 rows is not more than that. They come
// as near as the second cache: the first one is full of what is multiplied.
class FetchAhead {
 public:
  // Begins a list. As many calls of `some` are expected to follow as followed the last one.
  void begin() {
    if (calls_ > 0) expected_calls_ = calls_;
    calls_ = lines_ = at_ = end_ = 0;
  }
  void add(const float* rows, size_t row_stride, size_t count, size_t D) {
    if (end_ == std::size(ranges_)) return;
    ranges_[end_++] = {rows, row_stride, count, D};
    lines_ += count * lines_of(D);
  }
  // A row of each range by turns: while the others have theirs, the processor sees a page being
  // walked through and goes ahead by itself.
  void some() {
    if (calls_++ == 0) lines_a_call_ = lines_ / expected_calls_;
    for (size_t lines = 0; lines <= lines_a_call_ && end_ > 0;) {
      if (at_ >= end_) at_ = 0;
      Range& range = ranges_[at_];
      for (size_t d = 0; d < range.D; d += kCacheLine) __builtin_prefetch(range.rows + d, 0, 2);
      lines += lines_of(range.D);
      range.rows += range.stride;
      if (--range.count > 0)
        ++at_;
      else
        range = ranges_[--end_];
    }
  }

 private:
  static size_t lines_of(size_t D) { return (D + kCacheLine - 1) / kCacheLine; }
  struct Range {
    const float* rows;
    size_t stride, count, D;
  };
  Range ranges_[64];
  size_t at_ = 0, end_ = 0, lines_ = 0, calls_ = 0, expected_calls_ = 32, lines_a_call_ = 0;
};

}  // namespace
}  // namespace dsjs::DSJS_ISA

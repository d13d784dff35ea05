// Memory that sparse attention will need, asked for while it computes, for attention_simd.cc.
#pragma once
#include <iterator>

#include "attention/tile_pack.h"

namespace dsjs::DSJS_ISA {
namespace {

// Rows that are needed later are asked for some lines at a time, between the parts of products:
// many at once would wait for each other, and what comes next for all of them. The processor itself
// looks ahead to the end of a page at most, and a block of 16 rows is not more than that.
class FetchAhead {
 public:
  void add(const float* rows, size_t row_stride, size_t count, size_t D) {
    if (end_ < std::size(ranges_)) ranges_[end_++] = {rows, row_stride, count, D};
  }
  void some() {
    constexpr size_t kLinesAtOnce = 16, kLine = 16;
    for (size_t lines = 0; lines < kLinesAtOnce && at_ < end_;) {
      Range& range = ranges_[at_];
      fetch_row(range.rows, range.D);
      lines += (range.D + kLine - 1) / kLine;
      range.rows += range.stride;
      if (--range.count == 0) ++at_;
    }
  }
  void clear() { at_ = end_ = 0; }

 private:
  struct Range {
    const float* rows;
    size_t stride, count, D;
  };
  Range ranges_[64];
  size_t at_ = 0, end_ = 0;
};

}  // namespace
}  // namespace dsjs::DSJS_ISA

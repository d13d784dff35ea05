// How many lanes of every host send in an all-reduce, found out by trying. For each size, to the
// next power of two, the candidates are timed in turn, and then the fastest stays: more lanes sum
// side by side and have a connection each, one has fewer and larger messages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace dsjs {

class LaneChoice {
 public:
  // At least one.
  explicit LaneChoice(std::vector<int> candidates);

  // For the next call of this size.
  int next(size_t bytes) const;
  // What a call with that many took. The least time counts: what else runs only adds to it.
  void took(size_t bytes, int lanes, uint64_t nanoseconds);

 private:
  struct Trials {
    size_t calls = 0;
    std::map<int, uint64_t> least_ns;
  };
  // Of each candidate; the first finds buffers cold and is not counted.
  static constexpr size_t kRounds = 4;

  bool is_decided(const Trials& trials) const;

  std::vector<int> candidates_;
  std::map<int, Trials> by_size_;
};

}  // namespace dsjs

#include "compress/block_quantiser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string>

#include "compress/int8_kernels.h"
#include "core/error.h"
#include "core/half.h"

namespace dsjs {
namespace {

constexpr size_t kLine = 64;
// Blocks whose largest value is below it travel as zeros: L/largest must be finite.
constexpr float kLeast = 0x1p-100f;

size_t blocks_of(const BlockQuantisation& how, size_t count) {
  return (count + how.block - 1) / how.block;
}
// Of `count` elements of one block, and of whole blocks before it.
size_t code_bytes(const BlockQuantisation& how, size_t count) {
  return how.bits == 8 ? count : (count + 1) / 2;
}
size_t staged_bytes(const BlockQuantisation& how, size_t count) {
  return (quantised_bytes(how, count) + kLine - 1) / kLine * kLine;
}
const char* at(const void* data, DType type, size_t element) {
  return static_cast<const char*>(data) + element * size_of(type);
}
char* at(void* data, DType type, size_t element) {
  return static_cast<char*>(data) + element * size_of(type);
}

// Calls fn(index, first element, elements) for each block.
template <class Fn>
void for_each_block(const BlockQuantisation& how, size_t count, Fn fn) {
  for (size_t i = 0, first = 0; first < count; ++i, first += how.block)
    fn(i, first, std::min(how.block, count - first));
}

}  // namespace

size_t quantised_bytes(const BlockQuantisation& how, size_t count) {
  return blocks_of(how, count) * sizeof(float) + code_bytes(how, count);
}

void quantise_blocks(const BlockQuantisation& how, const void* from, DType type, size_t count,
                     uint8_t* to, Isa isa) {
  const Int8Kernels& kernels = int8_kernels(isa);
  const float levels = how.bits == 8 ? 127.0f : 7.0f;
  uint8_t* const codes = to + blocks_of(how, count) * sizeof(float);
  std::vector<float> wide(type == DType::kFloat32 ? 0 : how.block);
  std::vector<int8_t> whole(how.bits == 8 ? 0 : how.block);
  for_each_block(how, count, [&](size_t index, size_t first, size_t length) {
    const char* source = at(from, type, first);
    if (!wide.empty()) convert_floats(source, type, wide.data(), DType::kFloat32, length);
    const float* x = wide.empty() ? reinterpret_cast<const float*>(source) : wide.data();
    const uint32_t bits = kernels.peak(x, length);
    const float peak = std::bit_cast<float>(bits);
    float scale = 0, inverse = 0;
    if (bits >= Int8Kernels::kInfinity) {
      scale = std::numeric_limits<float>::quiet_NaN();
    } else if (peak >= kLeast) {
      scale = peak / levels;
      inverse = levels / peak;
    }
    std::memcpy(to + index * sizeof scale, &scale, sizeof scale);
    uint8_t* const out = codes + code_bytes(how, first);
    // What is not finite has no code; the scale alone says so.
    if (inverse == 0) return static_cast<void>(std::memset(out, 0, code_bytes(how, length)));
    if (how.bits == 8) {
      kernels.quantise(x, inverse, reinterpret_cast<int8_t*>(out), length);
    } else {
      kernels.quantise(x, inverse, whole.data(), length);
      kernels.pack4(whole.data(), out, length);
    }
  });
}

void dequantise_blocks(const BlockQuantisation& how, const uint8_t* from, size_t count, void* to,
                       DType type, bool add, Isa isa) {
  const Int8Kernels& kernels = int8_kernels(isa);
  const uint8_t* const codes = from + blocks_of(how, count) * sizeof(float);
  std::vector<float> wide(type == DType::kFloat32 ? 0 : how.block);
  std::vector<int8_t> whole(how.bits == 8 ? 0 : how.block);
  for_each_block(how, count, [&](size_t index, size_t first, size_t length) {
    float scale;
    std::memcpy(&scale, from + index * sizeof scale, sizeof scale);
    const uint8_t* const in = codes + code_bytes(how, first);
    const int8_t* q = reinterpret_cast<const int8_t*>(in);
    if (how.bits == 4) {
      kernels.unpack4(in, whole.data(), length);
      q = whole.data();
    }
    char* const target = at(to, type, first);
    float* const y = wide.empty() ? reinterpret_cast<float*>(target) : wide.data();
    if (!wide.empty() && add) convert_floats(target, type, y, DType::kFloat32, length);
    (add ? kernels.accumulate : kernels.decode)(q, scale, y, length);
    if (!wide.empty()) convert_floats(y, DType::kFloat32, target, type, length);
  });
}

QuantisedCollectives::QuantisedCollectives(const BlockQuantisation& how, size_t largest,
                                           Communicator& communicator,
                                           std::shared_ptr<MemoryAccount> account)
    : how_(how),
      largest_(largest),
      communicator_(communicator),
      ranks_(static_cast<size_t>(communicator.size())),
      rank_(static_cast<size_t>(communicator.rank())) {
  if (how.bits != 8 && how.bits != 4)
    throw EngineError("INVALID_ARGUMENT", "bits is " + std::to_string(how.bits) + "; 8 or 4 wanted",
                      "createQuantiser");
  if (how.block == 0 || how.block % 2 != 0)
    throw EngineError("INVALID_ARGUMENT",
                      "block is " + std::to_string(how.block) + "; an even number wanted",
                      "createQuantiser");
  staging_ = communicator.allocate_shared(ranks_ * staged_bytes(how, largest),
                                          Category::kCommunication, std::move(account));
}

uint8_t* QuantisedCollectives::slot(size_t rank) const {
  return static_cast<uint8_t*>(staging_->data()) + rank * staged_bytes(how_, largest_);
}

void QuantisedCollectives::check(const char* operation, const std::vector<Shard>& shards) const {
  for (const Shard& shard : shards)
    if (shard.count > largest_)
      throw EngineError("INVALID_ARGUMENT",
                        "a rank's part has " + std::to_string(shard.count) +
                            " elements, the quantiser is for " + std::to_string(largest_),
                        operation);
}

void QuantisedCollectives::all_gather(void* data, DType type, const std::vector<Shard>& shards) {
  check("quantisedAllGather", shards);
  // Parts lie back to back in the staging, in whole words.
  std::vector<Shard> parts(ranks_);
  size_t words = 0;
  for (size_t r = 0; r < ranks_; ++r) {
    const size_t count = staged_bytes(how_, shards[r].count) / sizeof(float);
    parts[r] = {words, shards[r].count > 0 ? count : 0};
    words += parts[r].count;
  }
  auto* const staging = static_cast<uint8_t*>(staging_->data());
  const auto place = [&](size_t r) { return staging + parts[r].offset * sizeof(float); };
  const Shard own = shards[rank_];
  quantise_blocks(how_, at(data, type, own.offset), type, own.count, place(rank_));
  communicator_.all_gather(staging, words, DType::kFloat32, parts);
  for (size_t r = 0; r < ranks_; ++r)
    dequantise_blocks(how_, place(r), shards[r].count, at(data, type, shards[r].offset), type,
                      false);
}

void QuantisedCollectives::reduce_scatter(const float* bucket, const std::vector<Shard>& shards,
                                          float* target, bool accumulate) {
  check("quantisedReduceScatter", shards);
  for (size_t owner = 0; owner < ranks_; ++owner) {
    const auto [offset, count] = shards[owner];
    if (count == 0) continue;
    const size_t bytes = quantised_bytes(how_, count);
    if (owner != rank_) {
      quantise_blocks(how_, bucket + offset, DType::kFloat32, count, slot(rank_));
      communicator_.send(slot(rank_), bytes, static_cast<int>(owner));
      continue;
    }
    for (size_t r = 0; r < ranks_; ++r)
      if (r != rank_) communicator_.recv(slot(r), bytes, static_cast<int>(r));
    // The sum may take the place of this rank's term.
    const float* own = bucket + offset;
    std::vector<float> saved;
    if (own == target) {
      saved.assign(own, own + count);
      own = saved.data();
    }
    if (!accumulate) std::fill_n(target, count, 0.0f);
    for (size_t r = 0; r < ranks_; ++r) {
      if (r != rank_) {
        dequantise_blocks(how_, slot(r), count, target, DType::kFloat32, true);
      } else {
        for (size_t i = 0; i < count; ++i) target[i] += own[i];
      }
    }
  }
}

}  // namespace dsjs

#include "io/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace dsjs::io {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78;

// Bit-reflected polynomials over GF(2): bit 31 is x⁰. The register of the checksum is one of these.
constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t mask = 1u << 31; mask; mask >>= 1) {
    if (a & mask) product ^= b;
    b = b & 1 ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

// x^(8·bytes): what the register is multiplied by when that many bytes follow.
constexpr uint32_t shift_by(uint64_t bytes) {
  uint32_t result = 1u << 31, base = 1u << 23;
  for (; bytes; bytes >>= 1) {
    if (bytes & 1) result = multiply(result, base);
    base = multiply(base, base);
  }
  return result;
}

// Eight tables, so that eight bytes take one step (Kounavis and Berry's slicing).
using Tables = std::array<std::array<uint32_t, 256>, 8>;
constexpr Tables make_tables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? (crc >> 1) ^ kPolynomial : crc >> 1;
    tables[0][byte] = crc;
  }
  for (size_t table = 1; table < 8; ++table)
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[table - 1][byte];
      tables[table][byte] = (before >> 8) ^ tables[0][before & 255];
    }
  return tables;
}
constexpr Tables kTables = make_tables();

uint64_t read8(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

#if defined(__x86_64__)
#define DSJS_CRC_TARGET __attribute__((target("sse4.2")))
bool has_instruction() { return __builtin_cpu_supports("sse4.2"); }
DSJS_CRC_TARGET inline uint32_t step8(uint32_t crc, uint64_t word) {
  return static_cast<uint32_t>(_mm_crc32_u64(crc, word));
}
DSJS_CRC_TARGET inline uint32_t step1(uint32_t crc, uint8_t byte) {
  return _mm_crc32_u8(crc, byte);
}
#elif defined(__aarch64__)
#define DSJS_CRC_TARGET __attribute__((target("+crc")))
bool has_instruction() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_CRC32;
#else
  return true;
#endif
}
DSJS_CRC_TARGET inline uint32_t step8(uint32_t crc, uint64_t word) { return __crc32cd(crc, word); }
DSJS_CRC_TARGET inline uint32_t step1(uint32_t crc, uint8_t byte) { return __crc32cb(crc, byte); }
#endif

#if defined(DSJS_CRC_TARGET)
// Three lanes at once, since an instruction waits three cycles for the one before; their registers
// are joined as crc32c_combine joins checksums. Long lanes read memory at its speed, which short
// ones, each in a page of its own, do not: 14 GB/s against 12, where touching it runs at 14.
template <size_t kLane>
DSJS_CRC_TARGET uint32_t three_lanes(uint32_t crc, const uint8_t*& p, size_t& bytes) {
  constexpr uint32_t kShiftLane = shift_by(kLane);
  for (; bytes >= 3 * kLane; bytes -= 3 * kLane, p += 3 * kLane) {
    uint32_t second = 0, third = 0;
    for (size_t i = 0; i < kLane; i += 8) {
      crc = step8(crc, read8(p + i));
      second = step8(second, read8(p + kLane + i));
      third = step8(third, read8(p + 2 * kLane + i));
    }
    crc = multiply(multiply(crc, kShiftLane) ^ second, kShiftLane) ^ third;
  }
  return crc;
}

DSJS_CRC_TARGET uint32_t crc32c_instruction(const void* data, size_t bytes, uint32_t seed) {
  const uint8_t* p = static_cast<const uint8_t*>(data);
  uint32_t crc = three_lanes<size_t{32} << 10>(~seed, p, bytes);
  crc = three_lanes<4096>(crc, p, bytes);
  for (; bytes >= 8; bytes -= 8, p += 8) crc = step8(crc, read8(p));
  for (; bytes > 0; --bytes, ++p) crc = step1(crc, *p);
  return ~crc;
}
#endif

}  // namespace

uint32_t crc32c_table(const void* data, size_t bytes, uint32_t seed) {
  const uint8_t* p = static_cast<const uint8_t*>(data);
  uint32_t crc = ~seed;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    const uint64_t word = read8(p) ^ crc;
    crc = 0;
    for (size_t k = 0; k < 8; ++k) crc ^= kTables[7 - k][(word >> (8 * k)) & 255];
  }
  for (; bytes > 0; --bytes, ++p) crc = (crc >> 8) ^ kTables[0][(crc ^ *p) & 255];
  return ~crc;
}

uint32_t crc32c(const void* data, size_t bytes, uint32_t seed) {
#if defined(DSJS_CRC_TARGET)
  static const bool instruction = has_instruction();
  if (instruction) return crc32c_instruction(data, bytes, seed);
#endif
  return crc32c_table(data, bytes, seed);
}

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b) {
  return multiply(crc_a, shift_by(bytes_b)) ^ crc_b;
}

uint32_t crc32c_of_zeros(uint64_t bytes) { return ~multiply(~0u, shift_by(bytes)); }

std::string crc32c_hex(uint32_t crc) {
  std::string text(8, '0');
  for (int digit = 7; digit >= 0; --digit, crc >>= 4) text[digit] = "0123456789abcdef"[crc & 15];
  return text;
}

}  // namespace dsjs::io

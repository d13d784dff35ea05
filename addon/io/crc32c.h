// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as iSCSI, ext4 and safetensors tools use
// it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace dsjs::io {

// Checksum of data that follows data whose checksum is `seed` (0: nothing before). Uses the
// processor's CRC instruction where it has one. crc32c("123456789") = 0xE3069283.
uint32_t crc32c(const void* data, size_t bytes, uint32_t seed = 0);

// The same without the instruction.
uint32_t crc32c_table(const void* data, size_t bytes, uint32_t seed = 0);

// Checksum of A followed by B, from their checksums and the length of B.
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b);

uint32_t crc32c_of_zeros(uint64_t bytes);

// Eight lower-case hex digits.
std::string crc32c_hex(uint32_t crc);

}  // namespace dsjs::io

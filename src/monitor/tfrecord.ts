/**
 * TensorFlow's record file: per record its length (u64), a checksum of the length, the bytes, a
 * checksum of the bytes; little-endian. Checksums are CRC-32C (Castagnoli), "masked" by a rotation and
 * a constant so that a checksum of data that holds checksums stays meaningful.
 */

const POLYNOMIAL = 0x82f63b78; // Castagnoli, bits reversed
const MASK_DELTA = 0xa282ead8;
const HEADER = 12;
const FOOTER = 4;

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
  return crc;
});

export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = crcTable[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function maskedCrc(data: Uint8Array): number {
  const crc = crc32c(data);
  return (((crc >>> 15) | (crc << 17)) + MASK_DELTA) >>> 0;
}

export function encodeRecord(data: Uint8Array): Buffer {
  const record = Buffer.alloc(HEADER + data.length + FOOTER);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedCrc(record.subarray(0, 8)), 8);
  record.set(data, HEADER);
  record.writeUInt32LE(maskedCrc(data), HEADER + data.length);
  return record;
}

/**
 * The records of a file, in order. Stops silently at a record that is cut off, as a killed writer
 * leaves one.
 *
 * @throws RangeError when a checksum does not match
 */
export function* decodeRecords(file: Buffer): Generator<Buffer> {
  for (let at = 0; at + HEADER <= file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    if (file.readUInt32LE(at + 8) !== maskedCrc(file.subarray(at, at + 8)))
      throw new RangeError(`record at byte ${at}: the length is damaged`);
    const end = at + HEADER + length;
    if (end + FOOTER > file.length) return;
    const data = file.subarray(at + HEADER, end);
    if (file.readUInt32LE(end) !== maskedCrc(data))
      throw new RangeError(`record at byte ${at}: the data is damaged`);
    yield data;
    at = end + FOOTER;
  }
}

import { describe, expect, it } from 'vitest';
import type { DataType } from './ir.ts';
import {
  bfloat16ToFloat,
  floatToBfloat16,
  floatToHalf,
  fromNumbers,
  fromStrings,
  halfToFloat,
  tensorsEqual,
  toNumbers,
  toStringBytes,
  typedView,
} from './tensor.ts';

describe('tensor', () => {
  it.each<[DataType, number[]]>([
    ['float32', [0, -1.5, 2 ** 127]],
    ['float64', [Math.PI, -0, 1e300]],
    ['float16', [0.5, -65504, 2 ** -24]],
    ['bfloat16', [1, -0.0078125, 2 ** 100]],
    ['int8', [-128, 127]],
    ['int16', [-32768, 32767]],
    ['int32', [-(2 ** 31), 2 ** 31 - 1]],
    ['int64', [-(2 ** 53), 2 ** 53]],
    ['uint8', [0, 255]],
    ['uint16', [0, 65535]],
    ['uint32', [0, 2 ** 32 - 1]],
    ['uint64', [0, 2 ** 53]],
    ['bool', [0, 1]],
  ])('keeps %s values', (dtype, values) => {
    expect(toNumbers(fromNumbers(dtype, [values.length], values))).toEqual(values);
  });

  it('clamps 64-bit integers, so that 2^63 means INT64_MAX', () => {
    const view = typedView(fromNumbers('int64', [2], [2 ** 63, -(2 ** 64)]));
    expect(Array.from(view as BigInt64Array)).toEqual([2n ** 63n - 1n, -(2n ** 63n)]);
  });

  it('reads unaligned bytes', () => {
    const source = fromNumbers('float32', [2], [1.5, -2]);
    const shifted = new Uint8Array(9);
    shifted.set(source.data, 1);
    const unaligned = { ...source, data: shifted.subarray(1) };
    expect(toNumbers(unaligned)).toEqual([1.5, -2]);
    expect(tensorsEqual(source, unaligned)).toBe(true);
  });

  it('converts every float16 bit pattern there and back', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = halfToFloat(bits);
      if (Number.isNaN(value)) expect(Number.isNaN(halfToFloat(floatToHalf(value)))).toBe(true);
      else if (floatToHalf(value) !== bits) expect(floatToHalf(value)).toBe(bits);
    }
  });

  it('rounds halves to even', () => {
    expect(halfToFloat(floatToHalf(2049))).toBe(2048);
    expect(halfToFloat(floatToHalf(2051))).toBe(2052);
    expect(floatToHalf(65519.99)).toBe(0x7bff);
    expect(floatToHalf(65520)).toBe(0x7c00);
    expect(floatToHalf(2 ** -25)).toBe(0);
    expect(floatToHalf(2 ** -25 * 1.01)).toBe(1);
    expect(bfloat16ToFloat(floatToBfloat16(1 + 2 ** -8))).toBe(1);
    expect(bfloat16ToFloat(floatToBfloat16(1 + 3 * 2 ** -8))).toBe(1 + 2 ** -6);
    expect(Number.isNaN(bfloat16ToFloat(floatToBfloat16(Number.NaN)))).toBe(true);
  });

  it('keeps strings', () => {
    const tensor = fromStrings([3], ['a', '', 'zażółć']);
    const decoded = toStringBytes(tensor).map((bytes) => new TextDecoder().decode(bytes));
    expect(decoded).toEqual(['a', '', 'zażółć']);
  });

  it('refuses values that do not fill the shape', () => {
    expect(() => fromNumbers('float32', [2, 2], [1])).toThrow(/do not fill/);
  });
});

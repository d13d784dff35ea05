import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { NativeEngine, SwapFile, SwapOptions } from './contract.ts';
import { loadAddon } from './load.ts';

const addon = loadAddon();
const aio: SwapOptions = {
  blockSize: 8192,
  queueDepth: 4,
  threads: 2,
  singleSubmit: false,
  overlapEvents: true,
};
const pattern = (bytes: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8) * 7 + seed) & 255);

let folder: string;
let engine: NativeEngine;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'dsjs-swap-'));
  const communicator = addon.createCommunicator({ backend: 'solo' });
  engine = addon.createEngine({ communicator, threads: 1 });
});
afterEach(() => {
  engine.dispose();
  rmSync(folder, { recursive: true });
});

const swapFile = (bytes: number, options: Partial<SwapOptions> = {}): SwapFile =>
  addon.createSwapFile(join(folder, 'swap'), bytes, { ...aio, ...options });

/** `bytes` of engine memory with a pattern, as a region. */
function region(bytes: number, seed = 0) {
  const buffer = engine.allocate(bytes, { category: 'io' });
  new Uint8Array(buffer.view()).set(pattern(bytes, seed));
  return { buffer, byteOffset: 0, count: bytes / 4, dtype: 'float32' } as const;
}

describe.each(['auto', 'threads'] as const)('a swap file by %s', (backend) => {
  it('is memory with another address', async () => {
    const file = swapFile(20 * 4096, { backend });
    expect(readdirSync(folder)).toEqual([]);
    expect(file).toMatchObject({ path: join(folder, 'swap'), bytes: 20 * 4096 });
    const source = region(12 * 4096, 5);
    const written = engine.swapOut(file, [
      { fileOffset: 4096, region: { ...source, count: 2048 } },
      { fileOffset: 4 * 4096, region: { ...source, byteOffset: 8192, count: 10 * 1024 } },
    ]);
    const target = region(12 * 4096, 9);
    await engine.wait(
      engine.swapIn(
        file,
        [
          { fileOffset: 4 * 4096, region: { ...target, byteOffset: 8192, count: 10 * 1024 } },
          { fileOffset: 4096, region: { ...target, count: 2048 } },
        ],
        [written],
      ),
    );
    expect(Buffer.compare(Buffer.from(target.buffer.view()), pattern(12 * 4096, 5))).toBe(0);
    const zeros = new Uint8Array(4096).fill(1);
    file.read(3 * 4096, zeros);
    expect(zeros).toEqual(new Uint8Array(4096));
  });
});

it('takes and gives any bytes outside steps, checkpoint files included', async () => {
  const file = swapFile(3000 * 4096);
  const data = pattern(5_000_001, 2);
  file.write(777, data);
  const back = new Uint8Array(1000);
  file.read(777 + 123, back);
  expect(back).toEqual(data.slice(123, 1123));

  const path = join(folder, 'checkpoint.bin');
  const written = await addon.writeFile(path, [
    { fileOffset: 0, source: pattern(10) },
    { fileOffset: 10, source: { file, byteOffset: 777, bytes: data.length } },
  ]);
  expect(Buffer.compare(readFileSync(path).subarray(10), data)).toBe(0);

  const other = addon.createSwapFile(join(folder, 'other'), 3000 * 4096, aio);
  const target = { file: other, byteOffset: 1, bytes: data.length };
  expect(await addon.readWholeFile(path, [{ fileOffset: 10, target }])).toBe(written.crc32c);
  const all = new Uint8Array(data.length);
  other.read(1, all);
  expect(Buffer.compare(all, data)).toBe(0);
});

it('writes nothing in a step that is skipped', async () => {
  const file = swapFile(4096);
  const norm = { buffer: engine.allocate(64, { category: 'io' }), byteOffset: 16 };
  const pair = new Float64Array(norm.buffer.view(), 16, 2);
  const first = new Uint8Array(4);
  for (const [nonFinite, want] of [
    [3, 0],
    [0, 9],
  ] as const) {
    pair.set([1, nonFinite]);
    const { buffer, ...rest } = region(4096, 9);
    await engine.wait(engine.swapOut(file, [{ fileOffset: 0, region: { buffer, ...rest } }], norm));
    file.read(0, first);
    expect(first[0]).toBe(want);
  }
});

it('says which file failed, where and why', async () => {
  const file = swapFile(2 * 4096);
  const source = region(4096);
  const code = (work: number) =>
    engine.wait(work).catch((error) => `${error.code} ${error.message}`);
  expect(await code(engine.swapOut(file, [{ fileOffset: 100, region: source }]))).toMatch(
    /^INVALID_ARGUMENT .*swap \(4096 bytes at 100\).*multiples of 4096/,
  );
  expect(await code(engine.swapIn(file, [{ fileOffset: 8192, region: source }]))).toMatch(
    /^INVALID_ARGUMENT .*the file has 8192 bytes/,
  );
  expect(() => swapFile(100)).toThrow(/multiple of 4096/);
  expect(() => swapFile(4096, { blockSize: 1000 })).toThrow(/block_size/);
  expect(() => swapFile(4096, { backend: 'other' as 'auto' })).toThrow(/backend must be/);
  expect(() => addon.createSwapFile(join(folder, 'none', 'swap'), 4096, aio)).toThrow(
    expect.objectContaining({ code: 'IO_NOT_FOUND' }),
  );
  file.dispose();
  expect(() => engine.swapIn(file, [])).toThrow(expect.objectContaining({ code: 'DISPOSED' }));
  expect(() => engine.swapIn({} as SwapFile, [])).toThrow(/not a SwapFile/);
  expect(existsSync(join(folder, 'swap'))).toBe(false);
});

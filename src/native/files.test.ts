import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadAddon } from './load.ts';

const addon = loadAddon();
const pattern = (bytes: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8) * 7 + seed) & 255);

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'dsjs-files-'));
});
afterEach(() => {
  chmodSync(folder, 0o755);
  rmSync(folder, { recursive: true });
});

/** Runs a module in a process of its own, with `addon` and `pattern` in scope. */
function child(body: string, options: { env?: NodeJS.ProcessEnv; shellPrefix?: string } = {}) {
  const script = `
    import { loadAddon } from ${JSON.stringify(new URL('./load.ts', import.meta.url).href)};
    const addon = loadAddon();
    const pattern = ${pattern.toString()};
    ${body}`;
  const file = join(folder, 'child.mts');
  writeFileSync(file, script);
  const command = [process.execPath, '--import', import.meta.resolve('tsx'), file];
  const env = { ...process.env, ...options.env };
  const run = options.shellPrefix
    ? spawnSync('sh', ['-c', `${options.shellPrefix}; exec "$@"`, 'sh', ...command], {
        encoding: 'utf8',
        env,
      })
    : spawnSync(command[0]!, command.slice(1), { encoding: 'utf8', env });
  rmSync(file);
  return run;
}

describe('writeFile', () => {
  it('writes pieces at their offsets and returns length and checksum', async () => {
    const path = join(folder, 'a.bin');
    const tail = pattern(5_000_000, 3);
    const written = await addon.writeFile(path, [
      { fileOffset: 100, source: tail },
      { fileOffset: 0, source: pattern(60) },
    ]);
    const want = new Uint8Array(100 + tail.length);
    want.set(pattern(60));
    want.set(tail, 100);
    expect(Buffer.compare(readFileSync(path), want)).toBe(0);
    const crc32c = addon.crc32c(want).toString(16).padStart(8, '0');
    expect(written).toEqual({ bytes: want.length, crc32c });
    expect(await addon.readWholeFile(path)).toBe(crc32c);
    expect(readdirSync(folder)).toEqual(['a.bin']);
  });

  it('reads back ranges, and names file and bytes when it is too short', async () => {
    const path = join(folder, 'a.bin');
    const data = pattern(10_000);
    await addon.writeFile(path, [{ fileOffset: 0, source: data }]);
    const target = new Uint8Array(500);
    await addon.readFile(path, [{ fileOffset: 1234, target }]);
    expect(target).toEqual(data.slice(1234, 1734));
    const tail = new Uint8Array(7);
    const crc32c = await addon.readWholeFile(path, [
      { fileOffset: 9993, target: tail },
      { fileOffset: 0, target },
    ]);
    expect(crc32c).toBe(addon.crc32c(data).toString(16).padStart(8, '0'));
    expect([tail, target]).toEqual([data.slice(9993), data.slice(0, 500)]);
    for (const read of [addon.readFile, addon.readWholeFile]) {
      const first = { fileOffset: 100, target: target.subarray(0, 10) };
      await expect(read(path, [first, { fileOffset: 9_600, target }])).rejects.toMatchObject({
        name: 'NativeError',
        code: 'IO_SHORT_FILE',
        message: expect.stringMatching(/a\.bin \(500 bytes at 9600\).*only 10000 bytes/),
      });
      expect(target).toEqual(data.slice(0, 500));
      await expect(read(join(folder, 'none'), [])).rejects.toMatchObject({ code: 'IO_NOT_FOUND' });
    }
    expect(() => addon.readFile(path, 7 as never)).toThrow(/targets must be an array/);
  });

  it.each(['buffer', 'view'])(
    'keeps engine memory alive while it writes, even when it is disposed: %s',
    async (way) => {
      const communicator = addon.createCommunicator({ backend: 'solo' });
      const engine = addon.createEngine({ communicator, threads: 1 });
      const buffer = engine.allocate(20_000_000, { category: 'parameters' });
      const data = pattern(buffer.bytes, 9);
      new Uint8Array(buffer.view()).set(data);
      const range = { buffer, byteOffset: 16, bytes: buffer.bytes - 16 };
      const source = way === 'view' ? new Uint8Array(buffer.view(), 16) : range;
      const writing = addon.writeFile(join(folder, 'b.bin'), [{ fileOffset: 0, source }]);
      buffer.dispose();
      expect(engine.memory().current.parameters).toBe(buffer.bytes);
      const { crc32c } = await writing;
      expect(engine.memory().current.parameters).toBe(0);
      engine.dispose();
      expect(Number.parseInt(crc32c, 16)).toBe(addon.crc32c(data.subarray(16)));
    },
  );

  it('refuses pieces that overlap and ranges outside the buffer', async () => {
    const path = join(folder, 'c.bin');
    const pieces = [0, 5].map((fileOffset) => ({ fileOffset, source: pattern(10) }));
    await expect(addon.writeFile(path, pieces)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(() => addon.writeFile('', [])).toThrow(/path/);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe('a write that fails leaves the older file and nothing else', () => {
  it('permission denied', async () => {
    const path = join(folder, 'a.bin');
    writeFileSync(path, 'old');
    chmodSync(folder, 0o555);
    // Root may write everywhere: be nobody for a moment.
    const root = process.geteuid?.() === 0;
    if (root) process.seteuid?.(65534);
    try {
      await expect(
        addon.writeFile(path, [{ fileOffset: 0, source: pattern(10) }]),
      ).rejects.toMatchObject({
        code: 'IO_PERMISSION',
        message: expect.stringContaining(`${path}: Permission denied`),
      });
    } finally {
      if (root) process.seteuid?.(0);
    }
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual(['a.bin']);
  });

  it('disk full', async (context) => {
    const disk = join(folder, 'disk');
    mkdirSync(disk);
    const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', disk]);
    if (mount.status !== 0) {
      context.skip('mounting a small tmpfs needs root');
      return;
    }
    try {
      const path = join(disk, 'a.bin');
      await addon.writeFile(path, [{ fileOffset: 0, source: pattern(1000) }]);
      await expect(
        addon.writeFile(path, [{ fileOffset: 0, source: pattern(9_000_000) }]),
      ).rejects.toMatchObject({
        code: 'IO_NO_SPACE',
        message: expect.stringMatching(/a\.bin \(\d+ of 9000000 bytes written\): No space left/),
      });
      expect(readFileSync(path)).toHaveLength(1000);
      expect(readdirSync(disk)).toEqual(['a.bin']);
    } finally {
      spawnSync('umount', [disk]);
    }
  });

  it('file size limit', () => {
    const path = join(folder, 'a.bin');
    const run = child(
      `await addon.writeFile(${JSON.stringify(path)}, [{ fileOffset: 0, source: pattern(9_000_000) }])
         .catch((error) => console.log(error.code, error.message));`,
      { shellPrefix: "trap '' XFSZ; ulimit -f 10000" }, // blocks of 512 bytes
    );
    expect(run.stdout).toMatch(
      /^IO_ERROR .*a\.bin \(\d+ of 9000000 bytes written\): File too large/,
    );
    expect(readdirSync(folder)).toEqual([]);
  });
});

it('a kill at any fault point leaves the old file or the new one, whole', () => {
  const path = join(folder, 'a.bin');
  const old = 'old';
  const fresh = pattern(9_000_000);
  let kills = 0;
  let replaced = 0;
  for (let point = 1; ; point++) {
    writeFileSync(path, old);
    const byEnvironment = point % 2 === 0;
    const run = child(
      `${byEnvironment ? '' : `addon.setFaultPoint(${point});`}
       await addon.writeFile(${JSON.stringify(path)}, [{ fileOffset: 0, source: pattern(9_000_000) }]);
       console.log(addon.setFaultPoint(0));`,
      byEnvironment ? { env: { DEEPSPEED_JS_FAULT_POINT: String(point) } } : {},
    );
    const now = readFileSync(path);
    const isNew = now.length === fresh.length && Buffer.compare(now, fresh) === 0;
    expect(isNew || now.toString() === old, `content after point ${point}`).toBe(true);
    for (const name of readdirSync(folder)) if (name !== 'a.bin') rmSync(join(folder, name));
    if (run.signal !== 'SIGKILL') {
      expect(run.status, run.stderr).toBe(0);
      expect(Number(run.stdout)).toBe(kills);
      expect(isNew).toBe(true);
      break;
    }
    kills++;
    replaced += isNew ? 1 : 0;
  }
  // Before the file, empty, three chunks, before and after the sync; then renamed, and durable.
  expect({ kills, replaced }).toEqual({ kills: 9, replaced: 2 });
  expect(existsSync(path)).toBe(true);
}, 120_000);

it('fsyncDirectory reports a folder that is not there', async () => {
  await addon.fsyncDirectory(folder);
  await expect(addon.fsyncDirectory(join(folder, 'none'))).rejects.toMatchObject({
    code: 'IO_NOT_FOUND',
  });
});

it('crc32c continues from a seed', () => {
  const data = Buffer.from('123456789');
  expect(addon.crc32c(data)).toBe(0xe3069283);
  expect(addon.crc32c(data.subarray(4), addon.crc32c(data.subarray(0, 4)))).toBe(0xe3069283);
  expect(addon.crc32c(new Uint8Array(0))).toBe(0);
});

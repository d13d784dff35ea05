import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { DeepSpeedError } from '../errors.ts';
import { type LoadEnvironment, loadAddon, loadAddonFrom } from './load.ts';
import { isNativeError } from './native-error.ts';
import { addonFile } from './rank-testing.ts';

const folder = mkdtempSync(join(tmpdir(), 'dsjs-load-'));
afterAll(() => rmSync(folder, { recursive: true }));

const here: LoadEnvironment = {
  platform: process.platform,
  arch: process.arch,
  override: addonFile(),
  packageRoot: folder,
  buildIdFile: join(folder, 'build-id.json'),
};

function errorOf(fn: () => unknown): DeepSpeedError {
  try {
    fn();
  } catch (error) {
    if (error instanceof DeepSpeedError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('loading the native engine', () => {
  it('refuses a platform that is not supported, by name', () => {
    const error = errorOf(() => loadAddonFrom({ ...here, platform: 'win32' }));
    expect(error.code).toBe('ADDON_PLATFORM');
    expect(error.message).toContain(`win32-${process.arch}`);
  });

  it('names the build command when the file is missing', () => {
    const error = errorOf(() => loadAddonFrom({ ...here, override: undefined }));
    expect(error.code).toBe('ADDON_MISSING');
    expect(error.fix).toContain('npm run build:addon');
    const wrong = errorOf(() => loadAddonFrom({ ...here, override: join(folder, 'none.node') }));
    expect(wrong.fix).toContain('DEEPSPEED_JS_ADDON');
  });

  it('keeps the reason when the file is no library', () => {
    const path = join(folder, 'text.node');
    writeFileSync(path, 'not a library');
    const error = errorOf(() => loadAddonFrom({ ...here, override: path }));
    expect(error.code).toBe('ADDON_BROKEN');
    expect(error.cause).toBeInstanceOf(Error);
    expect(error.fix).toContain('DEEPSPEED_JS_ADDON');
  });

  // A system whose C library is older than that of the machine where the package was made.
  it('says how to build it where an installed one does not load', () => {
    const packageRoot = join(folder, 'node_modules', 'deepspeed-js');
    const prebuild = join(packageRoot, 'prebuilds', `${process.platform}-${process.arch}`);
    mkdirSync(prebuild, { recursive: true });
    writeFileSync(join(prebuild, 'deepspeed.node'), 'not a library');
    const error = errorOf(() => loadAddonFrom({ ...here, override: undefined, packageRoot }));
    expect(error.code).toBe('ADDON_BROKEN');
    expect(error.fix).toContain('npm install --no-save node-api-headers node-addon-api && ');
    expect(error.fix).toContain('npm explore deepspeed-js -- npm run build:addon -- --force');
  });

  it('refuses an engine of another build', () => {
    const buildIdFile = join(folder, 'other.json');
    writeFileSync(buildIdFile, JSON.stringify({ buildId: 'another' }));
    const error = errorOf(() => loadAddonFrom({ ...here, buildIdFile }));
    expect(error.code).toBe('ADDON_BUILD_MISMATCH');
    writeFileSync(buildIdFile, JSON.stringify({ buildId: loadAddon().info().buildId }));
    expect(loadAddonFrom({ ...here, buildIdFile }).info().platform).toBe(
      `${process.platform}-${process.arch}`,
    );
  });
});

describe('the core of the native engine', () => {
  const addon = loadAddon();

  it('reports limits that the machine has', () => {
    const { memoryAvailable, memoryLimit, cores } = addon.systemLimits();
    expect(memoryAvailable).toBeGreaterThan(0);
    expect(memoryAvailable).toBeLessThanOrEqual(memoryLimit);
    expect(cores).toBeGreaterThan(0);
  });

  it('converts with rounding to nearest, ties to even', () => {
    const bits = (values: number[]) => {
      const result = new Uint16Array(values.length);
      const source = new Uint8Array(Float32Array.from(values).buffer);
      addon.convert(source, 'float32', new Uint8Array(result.buffer), 'bfloat16');
      return [...result];
    };
    // 1 + 2^-8 lies between 1 (0x3f80) and 1 + 2^-7 (0x3f81); 1 + 3·2^-8 between 0x3f81 and 0x3f82.
    expect(bits([1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -Infinity])).toEqual([
      0x3f80, 0x3f80, 0x3f82, 0xff80,
    ]);
    expect(() => addon.convert(new Uint8Array(8), 'float32', new Uint8Array(2), 'float16')).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', operation: 'convert' }),
    );
  });

  it('detaches what JavaScript holds of a buffer when it is disposed', () => {
    const communicator = addon.createCommunicator({ backend: 'solo' });
    const engine = addon.createEngine({ communicator, threads: 1 });
    const buffer = engine.allocate(3 << 20, { category: 'gradients' });
    const view = new Uint8Array(buffer.view());
    expect(buffer.view()).toBe(view.buffer);
    view.fill(7);
    expect(engine.memory().current.gradients).toBe(3 << 20);
    buffer.dispose();
    expect(view.length).toBe(0);
    expect(engine.memory().current.gradients).toBe(0);
    try {
      buffer.view();
      expect.unreachable();
    } catch (error) {
      expect(isNativeError(error) && error.code).toBe('DISPOSED');
      expect((error as Error).stack).toMatch(/^NativeError: this buffer .*\n.*load\.test/);
    }
    engine.dispose();
    communicator.dispose();
  });
});

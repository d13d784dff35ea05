/** Which ONNX Runtime is found, and what is said when none fits. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findOrtLibrary } from './ort-library.ts';

let project: string;
beforeEach(() => {
  project = realpathSync(mkdtempSync(join(tmpdir(), 'deepspeed-js-')));
});
afterEach(() => rmSync(project, { recursive: true, force: true }));

/** A package folder that looks installed. */
function install(folder: string, version: string, libraries: string[]): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ version, main: 'index.js' }));
  writeFileSync(join(folder, 'index.js'), '');
  for (const library of libraries) {
    mkdirSync(dirname(join(folder, library)), { recursive: true });
    writeFileSync(join(folder, library), '');
  }
}
const library = 'bin/napi-v6/linux/x64/libonnxruntime.so.1';
/** A search that sees nothing outside the temporary project. */
const search = () => ({
  projectFolder: project,
  platform: 'linux',
  arch: 'x64',
  ownFile: join(project, 'elsewhere.js'),
});

test('this project resolves a library that exists', () => {
  expect(findOrtLibrary()).toMatchObject({ version: expect.stringMatching(/^1\.30\./) });
});

test("transformers.js's own copy wins over the project's", () => {
  const modules = join(project, 'node_modules');
  const transformers = join(modules, '@huggingface/transformers');
  install(transformers, '4.3.1', []);
  install(join(modules, 'onnxruntime-node'), '1.20.0', [library]);
  const nested = join(transformers, 'node_modules/onnxruntime-node');
  install(nested, '1.30.2', [library]);
  expect(findOrtLibrary(search())).toEqual({ path: join(nested, library), version: '1.30.2' });
});

test('another version is refused with both versions', () => {
  install(join(project, 'node_modules/onnxruntime-node'), '1.20.0', [library]);
  expect(() => findOrtLibrary(search())).toThrow(
    expect.objectContaining({
      code: 'ORT_VERSION',
      message: 'onnxruntime-node 1.20.0 was found; deepspeed-js needs 1.30.x',
    }),
  );
});

test('without transformers.js, and as named on macOS', () => {
  const folder = join(project, 'node_modules/onnxruntime-node');
  const file = 'bin/napi-v6/darwin/arm64/libonnxruntime.1.30.0.dylib';
  install(folder, '1.30.0', [library, file]);
  expect(findOrtLibrary({ ...search(), platform: 'darwin', arch: 'arm64' }).path).toBe(
    join(folder, file),
  );
});

test('nothing installed, or no library for this machine: the command that installs it', () => {
  const missing = expect.objectContaining({
    code: 'ORT_MISSING',
    fix: expect.stringContaining('npm install @huggingface/transformers'),
  });
  expect(() => findOrtLibrary(search())).toThrow(missing);
  install(join(project, 'node_modules/onnxruntime-node'), '1.30.0', []);
  expect(() => findOrtLibrary(search())).toThrow(missing);
});

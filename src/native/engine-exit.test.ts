/**
 * Processes that end while engine threads are busy: the right exit code, nothing on stderr but the
 * user's own error, and no hang.
 */
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { GraphBuilder } from '../graph/index.ts';
import { modelBytes } from './engine-testing.ts';
import { findOrtLibrary } from './ort-library.ts';
import { addonFile } from './rank-testing.ts';

const size = 1024;
let folder: string;
let model: string;
let prelude: string;

beforeAll(() => {
  // Some seconds of products: every script below ends long before the first run does.
  const b = new GraphBuilder('long');
  let value = b.input('x', 'float32', [size, size]);
  for (let i = 0; i < 60; i++) value = b.op('MatMul', [value, 'x']);
  b.output(b.op('Identity', [value], {}, { output: 'y' }), 'float32', [size, size]);
  folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-'));
  model = join(folder, 'long.onnx');
  writeFileSync(model, modelBytes(b.build()));
  prelude = `
    const addon = require(${JSON.stringify(addonFile())});
    const solo = addon.createCommunicator({ backend: 'solo' });
    const engine = addon.createEngine({
      communicator: solo, threads: 2, ortLibrary: ${JSON.stringify(findOrtLibrary().path)},
    });
    const bind = (name) => ({
      name, dtype: 'float32', dims: [${size}, ${size}], byteOffset: 0,
      buffer: engine.allocate(${size * size * 4}, { category: 'activations' }),
    });
    const model = require('node:fs').readFileSync(${JSON.stringify(model)});
    const session = engine.loadSession(model, { name: 'long' });
    const instance = engine.createInstance(session, [bind('x')], [bind('y')]);
    const start = () => { for (let i = 0; i < 20; i++) engine.run(instance); };
  `;
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const node: typeof run = (script, onOutput) => run(prelude + script, onOutput);

function run(script: string, onOutput?: (text: string, kill: () => void) => void) {
  return new Promise<{ code: number | null; signal: string | null; out: string; err: string }>(
    (resolve, reject) => {
      const child = spawn(process.execPath, ['-e', script]);
      let [out, err] = ['', ''];
      child.stdout.on('data', (data) => {
        out += data;
        onOutput?.(out, () => child.kill('SIGINT'));
      });
      child.stderr.on('data', (data) => {
        err += data;
      });
      child.once('error', reject);
      child.once('close', (code, signal) => resolve({ code, signal, out, err }));
    },
  );
}

describe('a run in flight', () => {
  test('process.exit', async () => {
    const { code, err } = await node('start(); setTimeout(() => process.exit(3), 50);');
    expect({ code, err }).toEqual({ code: 3, err: '' });
  });

  test('an uncaught error prints itself alone', async () => {
    const { code, err } = await node(
      "start(); setTimeout(() => { throw new Error('of the user') }, 50);",
    );
    expect(code).toBe(1);
    expect(err).toContain('Error: of the user');
    expect(err).not.toMatch(/onnxruntime|terminate|Terminate/);
  });

  test('SIGINT with a handler that exits', async () => {
    const { code, err } = await node(
      "start(); process.on('SIGINT', () => process.exit(130)); setInterval(() => {}, 1000); console.log('ready');",
      (text, kill) => text.includes('ready') && kill(),
    );
    expect({ code, err }).toEqual({ code: 130, err: '' });
  });

  test('SIGINT without a handler', async () => {
    const { signal, err } = await node(
      "start(); engine.idle(); console.log('ready');",
      (text, kill) => text.includes('ready') && kill(),
    );
    expect({ signal, err }).toEqual({ signal: 'SIGINT', err: '' });
  });

  test('the end of the script does not wait for it, a pending promise does', async () => {
    const left = await node("start(); console.log('end');");
    expect(left).toMatchObject({ code: 0, out: 'end\n', err: '' });
    const waited = await node("engine.wait(engine.run(instance)).then(() => console.log('ran'));");
    expect(waited).toMatchObject({ code: 0, out: 'ran\n', err: '' });
  });

  test('a worker thread that is terminated leaves the process working', async () => {
    const worker = JSON.stringify(
      `const { workerData } = require('node:worker_threads');
       eval(workerData + "start(); require('node:worker_threads').parentPort.postMessage('busy');" );
       setInterval(() => {}, 1000);`,
    );
    const { code, out, err } = await node(`
      const { Worker } = require('node:worker_threads');
      const worker = new Worker(${worker}, { eval: true, workerData: ${JSON.stringify(prelude)} });
      worker.once('message', async () => {
        await worker.terminate();
        await engine.wait(engine.run(instance));
        console.log('still here');
      });`);
    expect({ code, out, err }).toEqual({ code: 0, out: 'still here\n', err: '' });
  });
});

test('an environment that transformers.js made first: the engine runs with pools of its own', async () => {
  const runtime = JSON.stringify(createRequire(import.meta.url).resolve('onnxruntime-node'));
  const { code, out, err } = await run(`
    require(${runtime}).InferenceSession.create(${JSON.stringify(model)}).then(async (theirs) => {
      ${prelude}
      await engine.wait(engine.run(instance));
      await theirs.release();
      console.log('ran');
    });`);
  expect({ code, out, err }).toEqual({ code: 0, out: 'ran\n', err: '' });
});

test('a collective that waits for a peer does not hold the process', async () => {
  const { code, err } = await node(`
    const { Worker } = require('node:worker_threads');
    const key = 'exit-' + process.pid;
    // The peer joins the world and the engine's group, then never comes to the barrier.
    new Worker(\`
      const addon = require(${JSON.stringify(addonFile()).replaceAll('\\', '\\\\')});
      const c = addon.createCommunicator({ backend: 'inprocess', key: '\${key}', rank: 1, worldSize: 2 });
      const e = addon.createEngine({ communicator: c, threads: 1 });
      setInterval(() => e, 1000);
    \`, { eval: true });
    const c = addon.createCommunicator({ backend: 'inprocess', key, rank: 0, worldSize: 2 });
    const e = addon.createEngine({ communicator: c, threads: 1 });
    e.barrier();
    setTimeout(() => process.exit(5), 100);`);
  expect({ code, err }).toEqual({ code: 5, err: '' });
});

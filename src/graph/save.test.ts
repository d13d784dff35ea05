import { mkdtemp, readFile, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as ort from 'onnxruntime-node';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GraphBuilder } from './builder.ts';
import { decodeModel, encodeModel } from './codec/model.ts';
import type { Model } from './ir.ts';
import { loadModel } from './load.ts';
import { saveModel } from './save.ts';
import { fromNumbers, toNumbers, zeros } from './tensor.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'dsjs-graph-'));
});
afterEach(() => rm(folder, { recursive: true }));

const ramp = Array.from({ length: 3000 }, (_, i) => i);

function model(): Model {
  const b = new GraphBuilder('g');
  const x = b.input('x', 'float32', [1]);
  const big = b.initializer('big', fromNumbers('float32', [3000], ramp));
  const bigger = b.initializer('bigger', fromNumbers('float32', [3000], ramp.toReversed()));
  b.output(b.op('Add', [b.op('Mul', [x, big]), bigger], {}, { output: 'y' }), 'float32', [3000]);
  const opsets = new Map([['', 17]]);
  return { irVersion: 8, producerName: 't', opsets, graph: b.build(), metadata: new Map() };
}

describe('saveModel and loadModel', () => {
  it('reads external data made by Python onnx', async () => {
    const path = fileURLToPath(new URL('../../goldens/onnx/external.onnx', import.meta.url));
    const { initializers } = (await loadModel(path)).graph;
    expect(toNumbers(initializers.get('a')!)).toEqual(ramp.slice(0, 300));
    expect(toNumbers(initializers.get('b')!)).toEqual(ramp.slice(0, 300).toReversed());
  });

  it.each([false, true])('writes what ONNX Runtime reads (external data: %s)', async (external) => {
    const path = join(folder, 'model.onnx');
    await saveModel(model(), path, { externalData: external });
    expect((await readdir(folder)).sort()).toEqual(
      external ? ['model.onnx', 'model.onnx_data'] : ['model.onnx'],
    );
    expect(await loadModel(path)).toEqual(decodeModel(encodeModel(model())));
    const session = await ort.InferenceSession.create(path);
    const { y } = await session.run({ x: new ort.Tensor('float32', [2], [1]) });
    expect(Array.from(y!.data as Float32Array)).toEqual(ramp.map((i) => i + 2999));
  });

  it('refuses external data that is short, missing or elsewhere', async () => {
    const path = join(folder, 'model.onnx');
    await saveModel(model(), path, { externalData: true });
    await truncate(`${path}_data`, 20_000);
    await expect(loadModel(path)).rejects.toThrow(
      /'bigger' takes bytes 12288 to 24288 of .* 20000/,
    );
    await rm(`${path}_data`);
    await expect(loadModel(path)).rejects.toThrow(/cannot read external data/);
    const file = Buffer.from(encodeModel(model()));
    await writeFile(path, file.subarray(0, -5));
    await expect(loadModel(path)).rejects.toMatchObject({
      code: 'MODEL_FILE_INVALID',
      message: expect.stringContaining(`${path}: not a valid ONNX model`),
    });
    await expect(loadModel(join(folder, 'none.onnx'))).rejects.toMatchObject({
      code: 'MODEL_FILE_UNREADABLE',
    });
  });

  it('refuses data outside the folder of the model', async () => {
    const inner = join(folder, 'model.onnx');
    await saveModel(model(), inner, { externalData: true });
    const moved = await readFile(inner, 'latin1');
    await writeFile(inner, moved.replaceAll('model.onnx_data', '../odel.onnxxxx'), 'latin1');
    await expect(loadModel(inner)).rejects.toThrow(/outside the model's folder/);
  });

  it('says that 2 GiB are too much before it writes anything', async () => {
    const large = model();
    // One zero page's worth of memory, referred to often enough to exceed the limit.
    const tensor = zeros('float32', [2 ** 26]);
    for (let i = 0; i < 8; i++) large.graph.initializers.set(`pad${i}`, tensor);
    const path = join(folder, 'model.onnx');
    await expect(saveModel(large, path, { externalData: false })).rejects.toMatchObject({
      code: 'MODEL_TOO_LARGE',
    });
    expect(await readdir(folder)).toEqual([]);
    expect(() => encodeModel(large)).toThrow(/at most 2147483647/);
  });

  it('leaves nothing behind when it fails', async () => {
    await expect(saveModel(model(), join(folder, 'no', 'model.onnx'))).rejects.toMatchObject({
      code: 'MODEL_FILE_UNREADABLE',
    });
    expect(await readdir(folder)).toEqual([]);
  });
});

import { readFileSync } from 'node:fs';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { ModelProtoSchema } from 'onnx-buf';
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../builder.ts';
import type { Model } from '../ir.ts';
import { fromNumbers, toNumbers, toStringBytes } from '../tensor.ts';
import { decodeModel, encodeModel } from './model.ts';

const golden = (name: string) =>
  new Uint8Array(readFileSync(new URL(`../../../goldens/onnx/${name}.onnx`, import.meta.url)));

function sample(): Model {
  const b = new GraphBuilder('sample');
  const x = b.input('x', 'float32', ['n', 4, '']);
  const w = b.initializer('w', fromNumbers('float32', [300], Array(300).fill(0.5)));
  const y = b.segment('h.0', () =>
    b.op('Made', [x, undefined, w], {
      alpha: -1.5,
      axes: [0, -1, 2 ** 40, 2 ** 63, -(2 ** 63)],
      scales: [1, 0.5],
      mode: 'ü',
      keys: ['a', ''],
      value: fromNumbers('int64', [2], [-1, 7]),
    }),
  );
  b.output(y, 'bfloat16');
  return {
    irVersion: 10,
    producerName: 'deepspeed-js',
    opsets: new Map([
      ['', 18],
      ['deepspeed', 1],
    ]),
    graph: b.build(),
    metadata: new Map([['a', 'b']]),
  };
}

describe('ONNX codec', () => {
  it.each(['mlp', 'branch'])('reproduces the bytes of %s, made by Python onnx', (name) => {
    const bytes = golden(name);
    expect(Buffer.from(encodeModel(decodeModel(bytes)))).toEqual(Buffer.from(bytes));
  });

  it('writes what onnx-buf writes, and reads it back the same', () => {
    const model = sample();
    const bytes = encodeModel(model);
    const theirs = toBinary(ModelProtoSchema, fromBinary(ModelProtoSchema, bytes));
    expect(Buffer.from(theirs)).toEqual(Buffer.from(bytes));
    expect(decodeModel(theirs)).toEqual(model);
  });

  it('keeps attributes, metadata and absent inputs', () => {
    const { graph, metadata, opsets, irVersion } = decodeModel(golden('mlp'));
    expect([irVersion, opsets.get(''), metadata.get('task')]).toEqual([10, 17, 'golden']);
    const byName = new Map(graph.nodes.map((node) => [node.name, node]));
    expect(byName.get('gemm')!.metadata).toEqual({ segment: 'h.0' });
    expect(byName.get('gemm')!.attributes.alpha).toEqual({ type: 'float', value: 0.5 });
    expect(byName.get('clip')!.inputs).toEqual(['s', '', 'six']);
    expect(graph.inputs[0]).toEqual({ name: 'x', dtype: 'float32', shape: ['batch', 4] });
    expect(graph.valueInfo.get('h')!.shape).toEqual(['batch', 3]);
  });

  it('gives views of the file, not copies', () => {
    const bytes = encodeModel(sample());
    expect(decodeModel(bytes).graph.initializers.get('w')!.data.buffer).toBe(bytes.buffer);
  });

  it('reads every element type from the typed fields', () => {
    const { initializers } = decodeModel(golden('typed-data')).graph;
    const { t_STRING: strings, ...numbers } = Object.fromEntries(initializers);
    const values = Object.entries(numbers).map(([name, tensor]) => [name, toNumbers(tensor)]);
    expect(Object.fromEntries(values)).toEqual({
      t_FLOAT: [1.5, -2],
      t_DOUBLE: [0.1, -1e300],
      t_FLOAT16: [0.5, -65504],
      t_BFLOAT16: [1, -0.0078125],
      t_INT8: [-128, 127],
      t_INT16: [-32768, 32767],
      t_INT32: [-(2 ** 31), 2 ** 31 - 1],
      t_INT64: [-(2 ** 53), 2 ** 53],
      t_UINT8: [0, 255],
      t_UINT16: [0, 65535],
      t_UINT32: [0, 2 ** 32 - 1],
      t_UINT64: [0, 2 ** 53],
      t_BOOL: [0, 1],
    });
    expect(toStringBytes(strings!).map(String)).toEqual(
      ['one', 'two'].map((text) => String(new TextEncoder().encode(text))),
    );
  });

  it('writes typed data as raw data that onnx-buf understands', () => {
    const first = decodeModel(golden('typed-data'));
    expect(decodeModel(encodeModel(first))).toEqual(first);
    const proto = fromBinary(ModelProtoSchema, encodeModel(first));
    const int64 = proto.graph!.initializer.find((tensor) => tensor.name === 't_INT64')!;
    expect(int64.rawData.length).toBe(16);
  });

  it('drops inputs that are initializers', () => {
    const model = sample();
    model.graph.inputs.push({ name: 'w', dtype: 'float32', shape: [300] });
    const read = decodeModel(encodeModel(model));
    expect(read.graph.inputs.map((input) => input.name)).toEqual(['x']);
  });

  it('sorts nodes that are out of order', () => {
    const model = decodeModel(golden('mlp'));
    const names = model.graph.nodes.map((node) => node.name);
    model.graph.nodes.reverse();
    const sorted = decodeModel(encodeModel(model)).graph.nodes.map((node) => node.name);
    expect(sorted).not.toEqual(names.toReversed());
    expect(sorted.indexOf('clip')).toBeLessThan(sorted.indexOf('transpose'));
    expect(sorted.indexOf('six')).toBeLessThan(sorted.indexOf('clip'));
  });
});

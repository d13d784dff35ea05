import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DeepSpeedError } from '../../errors.ts';
import type { Model } from '../ir.ts';
import { decodeModel, decodeModelParts, encodeModel } from './model.ts';

const golden = (name: string) =>
  new Uint8Array(readFileSync(new URL(`../../../goldens/onnx/${name}.onnx`, import.meta.url)));

function failure(action: () => unknown): DeepSpeedError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(DeepSpeedError);
    return error as DeepSpeedError;
  }
  throw new Error('nothing was thrown');
}

/** mlp.onnx after a change of the decoded model. */
function changed(change: (model: Model) => void): Uint8Array {
  const model = decodeModel(golden('mlp'));
  change(model);
  return encodeModel(model);
}

describe('malformed models', () => {
  it.each<[string, number[], RegExp]>([
    ['empty', [], /no graph/],
    ['text', [...Buffer.from('<!DOCTYPE html>')], /announced|wire type|expected/],
    ['an endless number', Array(12).fill(0xff), /longer than 10 bytes/],
    ['a number cut short', [0x08, 0x80], /ends inside a number \(in model, at byte 2\)/],
    ['an absurd length', [0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], /bytes are announced/],
    ['a wrong wire type', [0x38, 0x01], /field 7 is varint, expected bytes/],
    ['a group', [0x0b], /wire type 3|expected varint/],
  ])('%s', (_, bytes, message) => {
    const error = failure(() => decodeModel(Uint8Array.from(bytes)));
    expect(error.code).toBe('MODEL_FILE_INVALID');
    expect(error.message).toMatch(message);
  });

  it('is an error wherever the file is cut', () => {
    const bytes = golden('mlp');
    for (let length = 0; length < bytes.length; length++) {
      // A cut between two fields of the model leaves a valid message: then something is missing.
      try {
        decodeModel(bytes.subarray(0, length));
      } catch (error) {
        expect(error).toBeInstanceOf(DeepSpeedError);
      }
    }
    expect(failure(() => decodeModel(bytes.subarray(0, bytes.length >> 1))).code).toBe(
      'MODEL_FILE_INVALID',
    );
  });

  it.each<[string, (model: Model) => void, RegExp]>([
    ['a cycle', (m) => (m.graph.nodes[1]!.inputs[0] = 'y'), /form a cycle: .*gemm \(Gemm\)/],
    ['a value made twice', (m) => (m.graph.nodes[2]!.outputs[0] = 'h'), /'h' is made twice/],
    ['a missing input', (m) => (m.graph.nodes[3]!.inputs[1] = 'gone'), /add \(Add\) reads 'gone'/],
    ['a missing output', (m) => m.graph.outputs.push({ name: 'z', dtype: 'int8' }), /output 'z'/],
    [
      'an input that is made',
      (m) => m.graph.inputs.push({ name: 'h', dtype: 'int8' }),
      /'h' is made twice/,
    ],
    [
      'too few bytes',
      (m) => {
        m.graph.initializers.get('w')!.dims = [4, 4];
      },
      /tensor 'w' of shape \[4, 4\] has 12 elements/,
    ],
    [
      'an absurd shape',
      (m) => {
        m.graph.initializers.get('w')!.dims = [2 ** 40, 2 ** 40];
      },
      /tensor 'w' has shape/,
    ],
    ['no operator sets', (m) => m.opsets.clear(), /no operator set/],
  ])('%s', (_, change, message) => {
    const error = failure(() => decodeModel(changed(change)));
    expect(error.message).toMatch(message);
    expect(['MODEL_FILE_INVALID', 'GRAPH_INVALID']).toContain(error.code);
  });

  it('refuses functions and lost external data by name', () => {
    expect(failure(() => decodeModel(golden('function'))).message).toMatch(/twice.*Twice/);
    expect(failure(() => decodeModel(golden('external'))).message).toMatch(
      /'a'.*external.onnx_data/,
    );
  });

  it('refuses subgraphs nested without end', () => {
    let bytes: number[] = [];
    const nest = (field: number) => {
      const length = bytes.length;
      const size = [];
      for (let rest = length; ; rest >>>= 7) {
        size.push(rest >= 0x80 ? (rest & 0x7f) | 0x80 : rest);
        if (rest < 0x80) break;
      }
      bytes = [field * 8 + 2, ...size, ...bytes];
    };
    for (let i = 0; i < 60; i++) for (const field of [6, 5, 1]) nest(field);
    nest(7);
    expect(failure(() => decodeModel(Uint8Array.from(bytes))).message).toMatch(/nested more than/);
  });

  it('never fails in another way, whatever bytes change', () => {
    const files = ['mlp', 'typed-data', 'branch', 'external', 'function'].map(golden);
    const mutation = fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
      value: fc.integer({ min: 0, max: 255 }),
      kind: fc.constantFrom('set', 'insert', 'delete'),
    });
    const run = fc.property(
      fc.constantFrom(...files),
      fc.array(mutation, { minLength: 1, maxLength: 4 }),
      (file, mutations) => {
        const bytes = [...file];
        for (const { at, value, kind } of mutations) {
          const index = Math.floor(at * bytes.length);
          bytes.splice(index, kind === 'insert' ? 0 : 1, ...(kind === 'delete' ? [] : [value]));
        }
        try {
          encodeModel(decodeModelParts(Uint8Array.from(bytes)).model);
        } catch (error) {
          if (!(error instanceof DeepSpeedError) || error.code === 'INTERNAL') throw error;
        }
      },
    );
    fc.assert(run, { numRuns: 5000 });
  });
});

import { afterAll, describe, expect, it } from 'vitest';
import type { BlockLayout } from '../../strategies/sparse-attention/block-layout.ts';
import {
  BigBirdSparsityConfig,
  FixedSparsityConfig,
} from '../../strategies/sparse-attention/sparsity-config.ts';
import { type AttentionTensor, SparseSelfAttention } from './sparse-self-attention.ts';

const open: SparseSelfAttention[] = [];
afterAll(() => {
  for (const attention of open) attention.dispose();
});
function made(...args: ConstructorParameters<typeof SparseSelfAttention>): SparseSelfAttention {
  open.push(new SparseSelfAttention(args[0], { threads: 1, ...args[1] }));
  return open.at(-1)!;
}

const tensor = (dims: AttentionTensor['dims'], seed: number): AttentionTensor => ({
  dims,
  data: Float32Array.from({ length: dims.reduce((a, b) => a * b) }, (_, i) =>
    Math.sin(seed + 1.37 * i * i),
  ),
});

/** Σ gradient∘result in float64, as a function of the inputs, with the layout as a mask. */
function reference(
  layout: BlockLayout,
  causal: boolean,
  mask: readonly number[] | undefined,
  [query, key, value]: readonly AttentionTensor[],
): Float64Array {
  const [batch, heads, length, width] = query!.dims;
  const groups = heads / key!.dims[1];
  const result = new Float64Array(query!.data.length);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const own = (b * heads + h) * length * width;
      const shared = (b * key!.dims[1] + Math.floor(h / groups)) * length * width;
      for (let i = 0; i < length; i++) {
        const weights = Array.from({ length }, (_, j) => {
          const block = layout.attends(
            h,
            Math.floor(i / layout.block),
            Math.floor(j / layout.block),
          );
          if (!block || (causal && j > i) || (mask && !mask[b * length + j])) return 0;
          let score = 0;
          for (let d = 0; d < width; d++)
            score += query!.data[own + i * width + d]! * key!.data[shared + j * width + d]!;
          return Math.exp(score / Math.sqrt(width));
        });
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        for (let j = 0; j < length; j++)
          for (let d = 0; d < width; d++)
            result[own + i * width + d]! +=
              (weights[j]! / total) * value!.data[shared + j * width + d]!;
      }
    }
  }
  return result;
}

describe('SparseSelfAttention', () => {
  it.each([
    [new FixedSparsityConfig({ num_heads: 4, num_local_blocks: 2 }), false, 4, false],
    [new BigBirdSparsityConfig({ num_heads: 4, different_layout_per_head: true }), true, 2, false],
    [new FixedSparsityConfig({ num_heads: 4, num_local_blocks: 2 }), false, 1, true],
  ])(
    'equals masked dense attention in float64, forward and backward',
    async (config, causal, kvHeads, masked) => {
      const attention = made(config, { causal });
      const [length, width] = [64, 8];
      const inputs = [
        tensor([2, 4, length, width], 1),
        tensor([2, kvHeads, length, width], 2),
        tensor([2, kvHeads, length, width], 3),
      ] as const;
      const mask = masked
        ? Array.from({ length: 2 * length }, (_, i) => (i % 7 === 3 ? 0 : 1))
        : undefined;
      const [query, key, value] = inputs;
      const layout = config.makeLayout(length);
      const { data, dims } = await attention.forward({
        query,
        key,
        value,
        ...(mask && { keyPaddingMask: mask }),
      });
      expect(dims).toEqual(query.dims);
      const expected = reference(layout, causal, mask, inputs);
      // Means of values of size one by softmaxes of scores of size √8: some ulps.
      for (const [i, v] of data.entries()) expect(Math.abs(v - expected[i]!)).toBeLessThan(2e-6);

      const gradient = tensor(query.dims, 4).data;
      const gradients = await attention.backward(gradient);
      const along = (changed: readonly AttentionTensor[]) =>
        reference(layout, causal, mask, changed).reduce((sum, v, i) => sum + v * gradient[i]!, 0);
      for (const [which, name] of ['query', 'key', 'value'].entries()) {
        for (const at of [0, 17, 101, 333]) {
          const step = 1e-3;
          const moved = (by: number) =>
            inputs.map((input, i) => {
              if (i !== which) return input;
              const changed = {
                ...input,
                data: Float64Array.from(input.data) as never as Float32Array,
              };
              changed.data[at]! += by;
              return changed;
            });
          const slope = (along(moved(step)) - along(moved(-step))) / (2 * step);
          const own = gradients[name as keyof typeof gradients].data[at]!;
          expect(Math.abs(own - slope), `${name} ${at}`).toBeLessThan(2e-5);
        }
      }
    },
  );

  it('takes other shapes one after the other, and refuses what does not fit', async () => {
    const attention = made(new FixedSparsityConfig({ num_heads: 2, num_local_blocks: 1 }));
    for (const length of [32, 48, 32]) {
      const x = tensor([1, 2, length, 4], length);
      expect((await attention.forward({ query: x, key: x, value: x })).data).toHaveLength(
        8 * length,
      );
    }
    const x = tensor([1, 2, 32, 4], 1);
    const refused = (inputs: object, code: string) =>
      expect(attention.forward({ query: x, key: x, value: x, ...inputs })).rejects.toMatchObject({
        code,
      });
    await refused({ key: tensor([1, 2, 16, 4], 1) }, 'SHAPE_MISMATCH');
    await refused({ keyPaddingMask: [1, 1] }, 'SHAPE_MISMATCH');
    const odd = tensor([1, 2, 20, 4], 1);
    await refused({ query: odd, key: odd, value: odd }, 'LAYOUT_INVALID');
    const three = tensor([1, 3, 32, 4], 1);
    await refused({ query: three, key: three, value: three }, 'SHAPE_MISMATCH');
  });
});

import { expect, it } from 'vitest';
import type { SampleValue } from './sample.ts';
import { readRow, type RowSpec, stackRows } from './stack.ts';

function stack(values: readonly SampleValue[], spec: Partial<RowSpec>) {
  const full: RowSpec = { name: 'x', dtype: 'float32', shape: undefined, multiple: 1, ...spec };
  const indices = values.map((_, i) => 10 + i);
  const rows = values.map((value, i) => readRow(value, full, indices[i]!));
  const { dims, data } = stackRows(rows, indices, full);
  return { dims, data: Array.from(data, Number) };
}

it('stacks numbers, flat, nested and shaped values to one tensor', () => {
  expect(stack([1, 2], {})).toEqual({ dims: [2], data: [1, 2] });
  expect(stack([1, 2], { shape: [1] })).toEqual({ dims: [2, 1], data: [1, 2] });
  const expected = { dims: [2, 2, 2], data: [1, 2, 3, 4, 5, 6, 7, 8] };
  const second = { data: Float32Array.of(5, 6, 7, 8), dims: [2, 2] };
  expect(stack([[1, 2, 3, 4], second], { shape: ['length', 2] })).toEqual(expected);
  expect(
    stack(
      [
        [
          [1, 2],
          [3, 4],
        ],
        second,
      ],
      {},
    ),
  ).toEqual(expected);
});

it('pads open axes at their end to the multiple, fixed ones never', () => {
  const ragged = [
    { data: [1, 2], dims: [1, 2] },
    { data: [3, 4, 5, 6, 7, 8], dims: [3, 2] },
  ];
  const spec = { shape: ['length', 2], padValue: -1, multiple: 4 };
  const [pad, end] = [
    [-1, -1],
    [-1, -1],
  ];
  expect(stack(ragged, spec)).toEqual({
    dims: [2, 4, 2],
    data: [1, 2, ...pad, ...pad, ...pad, 3, 4, 5, 6, 7, 8, ...end],
  });
});

it('refuses ragged rows without a padValue, naming both samples', () => {
  expect(() => stack([[1], [1, 2]], { shape: ['length'] })).toThrow(
    "'x' has shape [1] in sample 10 and [2] in sample 11",
  );
});

it.each([
  ['int64', 1.5],
  ['int32', 2 ** 40],
  ['bool', 2],
] as const)('refuses what is no %s', (dtype, value) => {
  expect(() => stack([value], { dtype, shape: [] })).toThrow(`'x' is ${dtype} and holds ${value}`);
});

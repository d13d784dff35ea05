import { expect, it } from 'vitest';
import { padToBlockSize, unpadOutput } from './pad-to-block-size.ts';

it('pads each field by what counts for nothing', () => {
  const { padLength, fields } = padToBlockSize(
    4,
    {
      input_ids: [5, 6, 7, 8, 9],
      labels: Int32Array.of(1, 2, 3, 4, 5),
      position_ids: [0, 1, 2, 3, 4],
      token_type_ids: [1, 1, 1, 1, 1],
      attention_mask: [0, 1, 1, 1, 1],
    },
    50,
  );
  expect(padLength).toBe(3);
  expect(fields).toEqual({
    input_ids: [5, 6, 7, 8, 9, 50, 50, 50],
    labels: [1, 2, 3, 4, 5, -100, -100, -100],
    position_ids: [0, 1, 2, 3, 4, 50, 50, 50],
    token_type_ids: [1, 1, 1, 1, 1, 0, 0, 0],
    attention_mask: [0, 1, 1, 1, 1, 0, 0, 0],
  });
});

it('leaves a multiple of the block as it is, and says which positions are real', () => {
  const { padLength, fields } = padToBlockSize(2, { input_ids: [3, 4] });
  expect(padLength).toBe(0);
  expect(fields).toEqual({ input_ids: [3, 4], attention_mask: [1, 1] });
});

it('takes the padding off an output', () => {
  const output = Float32Array.from({ length: 8 * 3 }, (_, i) => i);
  expect(unpadOutput(output, 8, 3)).toEqual(output.slice(0, 15));
});

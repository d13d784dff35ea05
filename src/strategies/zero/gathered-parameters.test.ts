import { expect, it } from 'vitest';
import { flatLayout } from '../../layout.ts';
import type { NativeBuffer, NativeEngine, Region } from '../../native/contract.ts';
import { planGathers } from './gather-plan.ts';
import { GatheredParameters } from './gathered-parameters.ts';

it('a parameter that a pass reads without having it gathered is named, with the segment', () => {
  const parameters = [
    { name: 'head', shape: [64], segments: [1], group: 0 },
    { name: 'table', shape: [64], segments: [0], readBackward: [], group: 0 },
  ];
  const layout = flatLayout(parameters, 2);
  const limits = { persistence: 0, persistentTotal: 0, live: 0, prefetch: 0, reuse: 0 };
  const buffer = {} as NativeBuffer;
  const shard: Region = { buffer, byteOffset: 0, count: 64, dtype: 'float32' };
  const gathered = new GatheredParameters({
    engine: { allocate: () => buffer } as unknown as NativeEngine,
    rank: 0,
    segmentCount: 2,
    plan: planGathers({ parameters, layout, segmentCount: 2, limits, narrow: false }),
    trained: { layout, master: { head: shard }, sent: { head: shard } },
  });
  expect(gathered.location('head', 1, 'backward').byteOffset).toBe(0);
  expect(() => gathered.location('table', 0, 'backward')).toThrow(
    'table is not gathered for the backward of segment 0',
  );
  expect(() => gathered.location('head', 0, 'forward')).toThrow(
    'head is not gathered for the forward of segment 0',
  );
});

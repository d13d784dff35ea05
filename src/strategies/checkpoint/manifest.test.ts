/** Manifests: which versions are read, and layouts that do not cover their tensors. */
import { expect, it } from 'vitest';
import { type Manifest, manifestVersion, parseManifest } from './manifest.ts';

type Slots = Manifest['layout'];

const tile = (start: number, count: number) => ({
  name: 'table',
  shape: [6, 2],
  offset: 16 * start,
  count,
  start,
});
const bias = { name: 'bias', shape: [3], offset: 400, count: 3 };
const tiles: Slots = [tile(8, 4), bias, tile(4, 4), tile(0, 4)];

const text = (layout: Slots, version = manifestVersion) =>
  JSON.stringify({
    format: 'deepspeed-js checkpoint',
    version,
    createdBy: 'test',
    tag: 'a',
    step: 1,
    worldSize: 1,
    zeroStage: 3,
    optimizer: { kind: 'adam', step: 1, states: [] },
    layout,
    total: 512,
    shards: [
      {
        file: 'f',
        rank: 0,
        offset: 0,
        count: 512,
        bytes: 2048,
        crc32c: '00000000',
        tensors: { parameters: 0 },
      },
    ],
    state: {},
    ...(version >= 3 && { crc32c: '00000000' }),
  });

it('older versions are read, a newer one is named', () => {
  for (const version of [1, 2, manifestVersion])
    expect(parseManifest(text(tiles, version), 'm').layout).toEqual(tiles);
  expect(() => parseManifest(text(tiles, manifestVersion + 1), 'm')).toThrow(
    `m is of version ${manifestVersion + 1}; this deepspeed-js reads up to ${manifestVersion}`,
  );
});

it.each<[what: string, layout: Slots]>([
  ['the first tile is missing', [tile(4, 4), tile(8, 4), bias]],
  ['one between is missing', [tile(0, 4), tile(8, 4), bias]],
  ['the last is missing', [tile(0, 4), tile(4, 4), bias]],
  ['one is there twice', [...tiles, tile(4, 4)]],
  ['tiles overlap', [tile(0, 4), tile(3, 5), tile(8, 4), bias]],
])('refuses, by the name of the parameter: %s', (_, layout) => {
  expect(() => parseManifest(text(layout), 'm')).toThrow(/m: table: /);
});

it('refuses shards with a hole between them, and what ends behind the last', () => {
  const shards = (...cuts: [offset: number, count: number][]) => ({
    ...JSON.parse(text(tiles)),
    shards: cuts.map(([offset, count], rank) => ({
      file: `f${rank}`,
      rank,
      offset,
      count,
      bytes: 4096,
      crc32c: '00000000',
      tensors: { parameters: 0 },
    })),
  });
  const parse = (manifest: object) => () => parseManifest(JSON.stringify(manifest), 'm');
  expect(parse(shards([256, 256], [0, 256]))()).toMatchObject({ total: 512 });
  expect(parse(shards([0, 200], [256, 256]))).toThrow(
    'm: after element 200 of the shards comes element 256',
  );
  expect(parse(shards([999, 512]))).toThrow('m: after element 0 of the shards comes element 999');
  expect(parse(shards([0, 401]))).toThrow(
    'm: bias ends behind element 401, the last of the shards',
  );
});

it('refuses stretches that overlap, and files without a tensor or too short for it', () => {
  const whole = JSON.parse(text(tiles));
  const parse = (manifest: object) => () => parseManifest(JSON.stringify(manifest), 'm');
  const layout = [...tiles.filter(({ name }) => name !== 'bias'), { ...bias, offset: 130 }];
  expect(parse({ ...whole, layout })).toThrow('m: bias begins before element 132');
  const [shard] = whole.shards;
  for (const other of [{ tensors: { parameterz: 0 } }, { bytes: 2047 }]) {
    const shards = [{ ...shard, ...other }];
    expect(parse({ ...whole, shards })).toThrow(/m: f of \d+ bytes has no tensor parameters/);
  }
});

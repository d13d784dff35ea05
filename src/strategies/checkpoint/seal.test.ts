import { expect, it } from 'vitest';
import { loadAddon } from '../../native/index.ts';
import { type Manifest, manifestVersion, parseManifest } from './manifest.ts';
import { brokenSeal, seal } from './seal.ts';

const addon = loadAddon();
const manifest: Manifest = {
  format: 'deepspeed-js checkpoint',
  version: manifestVersion,
  createdBy: 'test',
  tag: 'a',
  step: 3,
  worldSize: 1,
  zeroStage: 2,
  optimizer: { kind: 'adamw', step: 3, states: ['state1'] },
  layout: [{ name: 'ä "crc32c": "00000000"', shape: [4], offset: 0, count: 4 }],
  total: 16,
  shards: [
    {
      file: 'f',
      rank: 0,
      offset: 0,
      count: 16,
      bytes: 8192,
      crc32c: '0123abcd',
      tensors: { parameters: 4096, state1: 4160 },
    },
  ],
  state: { samplesSeen: 12 },
};

function isAccepted(text: string): boolean {
  try {
    const { crc32c } = parseManifest(text, 'm');
    return crc32c === undefined || brokenSeal(addon, text) === null;
  } catch {
    return false;
  }
}

it('is asked for since there is one', () => {
  const unsealed = (version: number) => JSON.stringify({ ...manifest, version });
  expect(parseManifest(unsealed(2), 'm').crc32c).toBeUndefined();
  expect(() => parseManifest(unsealed(3), 'm')).toThrow('m: it has no checksum of its own');
});

it('a bit that is wrong anywhere in a manifest is found', () => {
  const text = seal(addon, manifest);
  expect(parseManifest(text, 'm')).toMatchObject(manifest);
  expect(isAccepted(text)).toBe(true);
  const bytes = Buffer.from(text);
  const accepted = Array.from(bytes.keys()).filter((at) => {
    const damaged = Buffer.from(bytes);
    damaged[at]! ^= 1;
    return isAccepted(damaged.toString());
  });
  expect(accepted).toEqual([]);
});

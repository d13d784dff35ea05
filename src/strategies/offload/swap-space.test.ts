import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { loadAddon, type NativeAddon, type SwapFile } from '../../native/index.ts';
import { SwapSpace } from './swap-space.ts';

const folder = mkdtempSync(join(tmpdir(), 'deepspeed-js-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Opens the space of one rank on a disk that has direct I/O or has none; what it warns of. */
async function warnings(direct: boolean, elements = 1000): Promise<string[]> {
  const addon = loadAddon();
  const communicator = addon.createCommunicator({ backend: 'solo' });
  const engine = addon.createEngine({ communicator, threads: 1 });
  // Which file systems have direct I/O depends on the kernel.
  const disk = Object.create(addon, {
    createSwapFile: { value: () => ({ direct, dispose() {} }) as Partial<SwapFile> },
  }) as NativeAddon;
  const aio = {
    blockSize: 1 << 20,
    queueDepth: 8,
    threads: 1,
    singleSubmit: false,
    overlapEvents: true,
  };
  const key = 'zero_optimization.offload_optimizer.nvme_path';
  const space = new SwapSpace({ addon: disk, key, folder, rank: 0, aio });
  const seen: string[] = [];
  const listen = ({ message }: Error) => void seen.push(message);
  process.on('warning', listen);
  try {
    if (elements > 0)
      for (let tensor = 0; tensor < 3; tensor += 1) space.reserve('float32', 0, elements);
    await space.open({ engine, communicator });
    // Warnings come in order, each on a later tick.
    const last = once(process, 'warning');
    process.emitWarning('the last one');
    await last;
    return seen.slice(0, -1);
  } finally {
    process.off('warning', listen);
    space.dispose();
    engine.dispose();
  }
}

describe('a file system without direct I/O', () => {
  it('is told once, with the key and the folder', async () => {
    expect(await warnings(false)).toEqual([
      `zero_optimization.offload_optimizer.nvme_path ${folder} is on a file system without direct I/O: the page cache is in between`,
    ]);
  });

  it('is of no interest where it is not used, and one with it is not told', async () => {
    expect(await warnings(false, 0)).toEqual([]);
    expect(await warnings(true)).toEqual([]);
  });
});

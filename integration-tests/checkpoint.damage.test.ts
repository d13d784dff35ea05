import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Scenario } from './fixtures/training/scenario.ts';
import {
  failRanks,
  playRanks,
  raggedSamples,
  temporaryFolder,
  tinyGpt2,
} from './training.ranks.ts';

interface Changes {
  model?: Record<string, unknown>;
  optimizer?: Record<string, unknown>;
}

function scenario(outputDir: string, changes: Changes = {}): Scenario {
  return {
    model: { ...tinyGpt2, ...changes.model },
    samples: raggedSamples(8),
    args: {
      outputDir,
      maxSteps: 1,
      saveStrategy: 'steps',
      deepspeed: {
        train_micro_batch_size_per_gpu: 2,
        optimizer: changes.optimizer ?? { type: 'AdamW', params: { lr: 1e-3 } },
        zero_optimization: { stage: 2 },
      },
    },
  };
}

const good = temporaryFolder();
/** The same run on other numbers. */
const other = temporaryFolder();
beforeAll(async () => {
  await playRanks(2, scenario(good));
  const { args, ...rest } = scenario(other);
  await playRanks(2, { ...rest, args: { ...args, seed: 7 } });
});

const tag = 'global_step1';
const shard = (rank: number) => join(tag, `rank_0000${rank}.safetensors`);

/** Replaces a file of the checkpoint by what `change` makes of it. */
const rewrite = (file: string, change: (bytes: Buffer) => Buffer | string) => (folder: string) =>
  writeFileSync(join(folder, file), change(readFileSync(join(folder, file))));

const manifest = (change: (manifest: Record<string, unknown>) => object) =>
  rewrite(join(tag, 'manifest.json'), (bytes) =>
    JSON.stringify(change(JSON.parse(bytes.toString()))),
  );

function flipOneBit(bytes: Buffer): Buffer {
  bytes[bytes.length - 1]! ^= 1;
  return bytes;
}

interface Damage extends Changes {
  what: string;
  damage?: (folder: string) => void;
  code: string;
  says: RegExp;
}

const damages: Damage[] = [
  {
    what: 'a shard is cut short',
    damage: rewrite(shard(1), (bytes) => bytes.subarray(0, -100)),
    code: 'CHECKPOINT_CORRUPT',
    says: /rank_00001\.safetensors has \d+ bytes, the manifest says \d+/,
  },
  {
    what: 'one bit of a shard is wrong',
    damage: rewrite(shard(1), flipOneBit),
    code: 'CHECKPOINT_CORRUPT',
    says: /rank_00001\.safetensors has checksum [0-9a-f]{8}, the manifest says [0-9a-f]{8}/,
  },
  {
    what: 'a shard is missing',
    damage: (folder) => rmSync(join(folder, shard(0))),
    code: 'CHECKPOINT_CORRUPT',
    says: /shard rank_00000\.safetensors of .* is missing/,
  },
  {
    what: 'a shard is that of another run',
    damage: (folder) => cpSync(join(other, shard(1)), join(folder, shard(1))),
    code: 'CHECKPOINT_CORRUPT',
    says: /rank_00001\.safetensors has checksum [0-9a-f]{8}, the manifest says [0-9a-f]{8}/,
  },
  {
    what: 'the manifest is missing',
    damage: (folder) => rmSync(join(folder, tag, 'manifest.json')),
    code: 'CHECKPOINT_CORRUPT',
    says: /manifest\.json cannot be read/,
  },
  {
    what: 'the manifest is cut short',
    damage: rewrite(join(tag, 'manifest.json'), (bytes) => bytes.subarray(0, 50)),
    code: 'CHECKPOINT_CORRUPT',
    says: /manifest\.json is not JSON/,
  },
  {
    what: 'the manifest lacks a field',
    damage: manifest(({ shards: _, ...rest }) => rest),
    code: 'CHECKPOINT_CORRUPT',
    says: /not a valid manifest: shards/,
  },
  {
    what: 'a digit of the manifest is wrong',
    damage: rewrite(join(tag, 'manifest.json'), (bytes) =>
      bytes.toString().replace(/("samplesSeen": )\d/, '$17'),
    ),
    code: 'CHECKPOINT_CORRUPT',
    says: /manifest\.json: it has checksum [0-9a-f]{8} and says [0-9a-f]{8}/,
  },
  {
    what: 'a newer version wrote it',
    damage: manifest((content) => ({ ...content, version: 4 })),
    code: 'CHECKPOINT_VERSION',
    says: /is of version 4; this deepspeed-js reads up to 3/,
  },
  {
    what: '`latest` names a tag that is gone',
    damage: (folder) => rmSync(join(folder, tag), { recursive: true }),
    code: 'CHECKPOINT_NOT_FOUND',
    says: /there is no checkpoint "global_step1"/,
  },
  {
    what: 'there is none',
    damage: (folder) => rmSync(join(folder, 'latest')),
    code: 'CHECKPOINT_NOT_FOUND',
    says: /there is no checkpoint in /,
  },
  {
    what: 'the model has other shapes',
    model: { n_embd: 48 },
    code: 'CHECKPOINT_OTHER_MODEL',
    says: /transformer\.ln_f\.weight: the model has \[48\], the checkpoint \[24\]/,
  },
  {
    what: 'the model has more layers',
    model: { n_layer: 3 },
    code: 'CHECKPOINT_OTHER_MODEL',
    says: /transformer\.h\.2\..*: not in the checkpoint/,
  },
  {
    what: 'the optimizer is another one',
    optimizer: { type: 'SGD', params: { lr: 1e-3, momentum: 0.9 } },
    code: 'CHECKPOINT_OTHER_MODEL',
    says: /this run uses sgd, the checkpoint adamw/,
  },
];

describe('resuming is refused on all ranks, with one reason, when', () => {
  it.each(damages)('$what', async ({ damage, code, says, ...changes }) => {
    const folder = temporaryFolder();
    cpSync(good, folder, { recursive: true });
    damage?.(folder);
    const errors = await failRanks(2, { ...scenario(folder, changes), resumeFrom: true });
    expect(errors.map((error) => error.code)).toContain(code);
    for (const error of errors) {
      expect(error.message).toMatch(says);
      // A rank that found nothing itself repeats what its peer found.
      if (error.code !== code) expect(error.code).toBe('PEER_FAILED');
    }
  });
});

it('an output folder that cannot be made is an error before the first step', async () => {
  const file = join(temporaryFolder(), 'file');
  writeFileSync(file, '');
  const errors = await failRanks(2, scenario(join(file, 'out')));
  expect(errors[0]!.code).toBe('OUTPUT_NOT_WRITABLE');
  for (const { message } of errors) expect(message).toContain(file);
});

describe.each([false, true])('a full disk, asyncSave %s', (asyncSave) => {
  const disk = temporaryFolder();
  // Enough for one checkpoint of the model (a quarter MiB), not for two.
  const mounted =
    spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=420k', 'tmpfs', disk]).status === 0;

  it.skipIf(!mounted)(
    'during a checkpoint keeps the one before (needs the right to mount)',
    async () => {
      try {
        await playRanks(2, scenario(disk));
        const longer = scenario(disk);
        // In the background the disk fails beside a step.
        Object.assign(longer.args, asyncSave ? { maxSteps: 3, asyncSave } : { maxSteps: 2 });
        const errors = await failRanks(2, { ...longer, resumeFrom: true });
        for (const { message } of errors) expect(message).toMatch(/No space left|disk/);
        expect(readFileSync(join(disk, 'latest'), 'utf8')).toBe(`${tag}\n`);
        expect(readdirSync(disk).filter((name) => name.startsWith('global_step'))).toEqual([tag]);
        const [resumed] = await playRanks(2, { ...scenario(disk), resumeFrom: true });
        expect(resumed!.losses).toHaveLength(1);
      } finally {
        spawnSync('umount', [disk]);
        expect(existsSync(join(disk, 'latest'))).toBe(false);
      }
    },
  );
});
